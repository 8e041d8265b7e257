"""Write a checkpoint's weights as a safetensors file: python -m utils.export <checkpoint> weights.safetensors."""

import argparse
from pathlib import Path

from utils.distributed.launch import refuse_several
from utils.errors import UserError, clean_exit, in_one_line, shown
from utils.runs.checkpoint import find_checkpoint, load_checkpoint
from utils.runs.safetensors_io import write_safetensors

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a checkpoint's weights and config as safetensors.")
    parser.add_argument("checkpoint", help="checkpoint or run folder, or 'latest'")
    parser.add_argument("file", type=Path, help="file to write, with the ending .safetensors")
    arguments = in_one_line(parser).parse_args()
    with clean_exit():
        refuse_several("utils.runs.export")
        if arguments.file.suffix != ".safetensors":
            raise UserError(f"{arguments.file}: what is written is a safetensors file; end its name in .safetensors")
        if not arguments.file.parent.is_dir():
            raise UserError(f"{arguments.file.parent}: no such folder")
        source, _ = find_checkpoint(arguments.checkpoint)
        write_safetensors(load_checkpoint(source), arguments.file)
        print(shown(f"{arguments.file}: the weights of {source}"))
