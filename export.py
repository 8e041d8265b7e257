"""Write a trained model for other programs: python export.py -r saved/models/<name>/<run>/model_best.pth --to onnx."""

import argparse
import sys
from pathlib import Path

from utils.distributed.launch import refuse_several
from utils.errors import clean_exit, in_one_line, print_error, shown

KINDS = ("onnx", "torch", "safetensors", "triton")


def main(flags: argparse.Namespace) -> None:
    """Write what was asked for, beside the checkpoint or at --out, once it was loaded again and compared."""
    # Imported here, so that --help need not wait for torch.
    from base.data.raw_examples import examples_to_compare
    from base.export import Differs, export, export_weights, facts_of, place_of, require_packages, shapes_of
    from base.model_card import model_card
    from base.trained_model import TrainedModel
    from base.triton import export_triton
    from utils.files import write_whole
    from utils.runs.checkpoint import find_checkpoint
    from utils.runs.run_folder import training_note

    path, skipped = find_checkpoint(flags.resume)
    for reason in skipped:
        print_error(f"{reason}; skipped")
    if text := training_note(flags.resume, path):
        print(text, file=sys.stderr)
    out, card = place_of(flags.to, path, flags.out, flags.card)
    require_packages(flags.to)
    shapes = None
    try:
        if flags.to == "safetensors":
            compared = export_weights(path, out)
        else:
            model = TrainedModel.load(path, "cpu")
            batches = examples_to_compare(model)
            shapes = shapes_of(model, batches)
            facts = facts_of(model, shapes)
            if flags.to == "triton":
                compared = export_triton(model, out, batches, facts)
            else:
                compared = export(model, flags.to, out, batches, facts)
    except Differs as error:
        print_error(str(error))
        sys.exit(1)
    print(f"{shown(out)}: {shown(path)}, {compared}")
    if card is not None:
        write_whole(model_card(TrainedModel.load(path, "cpu"), out, shapes), card, "the model card")
        print(shown(f"{card}: what the model is, how good, and how to use it"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a trained model for other programs.", allow_abbrev=False)
    parser.add_argument(
        "-r", "--resume", metavar="CHECKPOINT", required=True, help="checkpoint, run folder, 'latest' or 'best'"
    )
    to_help = "kind of file; torch: of torch.export, .pt2; triton: a folder for Triton and KServe"
    parser.add_argument("--to", choices=KINDS, required=True, help=to_help)
    parser.add_argument("--out", type=Path, metavar="FILE", help="what to write, by default beside the checkpoint")
    parser.add_argument("--card", action="store_true", help="write README.md beside it: a page on the model")
    flags = in_one_line(parser).parse_args()
    with clean_exit():
        refuse_several("export.py")
        main(flags)
