"""Make one file of a checkpoint with shards: python -m utils.consolidate <run or checkpoint> [--out file.pth]."""

import argparse
import sys
from pathlib import Path

from utils.distributed.launch import refuse_several
from utils.errors import UserError, clean_exit, in_one_line, shown
from utils.runs.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from utils.runs.safetensors_io import write_safetensors

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a checkpoint of a sharded run as one file.")
    parser.add_argument("checkpoint", help="checkpoint or run folder, or 'latest'")
    out_help = "file to write: .pth for all of it, .safetensors for the weights alone (whole-<name>.pth beside it)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=out_help)
    arguments = in_one_line(parser).parse_args()
    with clean_exit():
        refuse_several("utils.runs.consolidate")
        source, passed_over = find_checkpoint(arguments.checkpoint)
        for reason in passed_over:
            print(f"warning: {shown(reason)}; passed over", file=sys.stderr)
        out = arguments.out or source.with_name(f"whole-{source.name}")
        if out.suffix not in (".pth", ".safetensors"):
            raise UserError(f"--out: got {str(out)!r}; end its name in .pth or .safetensors")
        if not out.parent.is_dir():
            raise UserError(f"{out.parent}: no such folder")
        write = write_safetensors if out.suffix == ".safetensors" else save_checkpoint
        write(load_checkpoint(source), out)
        print(shown(f"{out}: all of {source}" if out.suffix == ".pth" else f"{out}: the weights of {source}"))
