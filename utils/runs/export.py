"""Write a checkpoint, with shards or without, as one file: python -m utils.runs.export <checkpoint> <file>."""

import argparse
import sys
from pathlib import Path

from utils.distributed.launch import refuse_several
from utils.errors import UserError, clean_exit, in_one_line, shown
from utils.runs.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from utils.runs.safetensors_io import write_safetensors

WRITERS = {".pth": ("all", save_checkpoint), ".safetensors": ("the weights", write_safetensors)}  # by ending

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a checkpoint as one file.")
    parser.add_argument("checkpoint", help="checkpoint or run folder, 'latest' or 'best'")
    help_text = "file to write: .pth for all of the checkpoint, .safetensors for its weights and config"
    parser.add_argument("file", type=Path, help=help_text)
    arguments = in_one_line(parser).parse_args()
    with clean_exit():
        refuse_several("utils.runs.export")
        if arguments.file.suffix not in WRITERS:
            raise UserError(f"{arguments.file}: end the file's name in {' or '.join(WRITERS)}")
        if not arguments.file.parent.is_dir():
            raise UserError(f"{arguments.file.parent}: no such folder")
        source, passed_over = find_checkpoint(arguments.checkpoint)
        for reason in passed_over:
            print(f"warning: {shown(reason)}; passed over", file=sys.stderr)
        what, write = WRITERS[arguments.file.suffix]
        write(load_checkpoint(source), arguments.file)
        print(shown(f"{arguments.file}: {what} of {source}"))
