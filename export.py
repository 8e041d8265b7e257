"""Write a trained model for other programs: python export.py -r saved/models/<name>/<run>/model_best.pth --to onnx."""

import argparse
from pathlib import Path
from typing import Any

from utils.distributed.launch import refuse_several
from utils.errors import UserError, clean_exit, in_one_line, shown

ENDINGS = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}


def main(flags: argparse.Namespace) -> None:
    """Write the file that was asked for."""
    # Imported here, so that --help need not wait for torch.
    from base.export import NUM_EXAMPLES, export, raw_examples, require_packages
    from base.trained_model import TrainedModel
    from utils.runs.checkpoint import find_checkpoint

    path, _ = find_checkpoint(flags.resume)
    out = flags.out or path.with_suffix(ENDINGS[flags.to])
    if flags.to == "safetensors":
        write_weights(path, out)
    else:
        require_packages(flags.to)
        model = TrainedModel.load(path, "cpu")
        raw = raw_examples(model, test_loader(model))
        difference = export(model, flags.to, out, raw, about(model))
        held = (
            "with its input" if model.has_input else "without an input: it takes what the data loader made of the data"
        )
        print(shown(f"{out}: {path} {held}, {out.stat().st_size:,} bytes"))
        number = min(len(raw), NUM_EXAMPLES)
        print(f"loaded again: outputs differ by {difference:.2g} at most, on {number} test samples")
    if flags.card:
        write_card(path, out)


def write_weights(path: Path, out: Path) -> None:
    """Write the weights of a checkpoint, and its config, as a .safetensors file."""
    from utils.runs.checkpoint import load_checkpoint
    from utils.runs.safetensors_io import write_safetensors

    write_safetensors(load_checkpoint(path), out)
    print(shown(f"{out}: the weights of {path}"))


def write_card(path: Path, out: Path) -> None:
    """Write a page on the model, README.md, beside the exported file."""
    from base.model_card import model_card
    from base.trained_model import TrainedModel
    from utils.files import write_whole

    card = out.with_name("README.md")
    write_whole(model_card(TrainedModel.load(path, "cpu"), out), card, "the model card")
    print(shown(f"{card}: what the model is, how good, and how to use it"))


def test_loader(model: Any) -> Any:
    """A loader of the test data that the model's config names, or else of its validation data."""
    try:
        return model.loader("test")
    except UserError as without_test:
        try:
            return model.loader("valid")
        except UserError:
            raise without_test from None


def about(model: Any) -> dict[str, Any]:
    """What the file says of itself: the classes, the input, and where it comes from."""
    import torch

    from utils.runs.environment import last_start

    spec = model.input.spec() if model.has_input else None
    return {
        "classes": model.output.classes,
        "output": {"mean": model.output.mean, "std": model.output.std},
        "input": spec,
        "run": model.path.parent.name,
        "checkpoint": model.path.name,
        "name": model.config.get("name"),
        "git_commit": last_start(model.path.parent).get("git_commit"),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a trained model for other programs.", allow_abbrev=False)
    parser.add_argument(
        "-r", "--resume", metavar="CHECKPOINT", required=True, help="checkpoint, run folder or 'latest'"
    )
    parser.add_argument("--to", choices=list(ENDINGS), required=True, help="kind of file; torch: of torch.export, .pt2")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write, by default beside the checkpoint")
    parser.add_argument("--card", action="store_true", help="write README.md beside it: a page on the model")
    flags = in_one_line(parser).parse_args()
    with clean_exit():
        refuse_several("export.py")
        if flags.out is not None and flags.out.suffix != ENDINGS[flags.to]:
            raise UserError(f"--out: {shown(flags.out)}: should end in {ENDINGS[flags.to]}")
        if flags.out is not None and not flags.out.parent.is_dir():
            raise UserError(f"--out: {shown(flags.out.parent)}: there is no such folder")
        if flags.card and (flags.out is None or (flags.out.parent / "README.md").exists()):
            raise UserError("--card: writes README.md beside the file; give --out in a folder that has none")
        main(flags)
