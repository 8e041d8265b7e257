"""Predict with a trained model: python predict.py -r saved/models/<name>/<run>/model_best.pth a.png b.png."""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from utils.distributed.launch import refuse_several
from utils.errors import UserError, clean_exit, in_one_line

if TYPE_CHECKING:
    from base.trained_model import Predictions, TrainedModel


def main(flags: argparse.Namespace) -> int:
    """Predict for each example and write what was asked for; returns the exit status, 1 if a file was not read."""
    # Imported here, so that --help need not wait for torch.
    from base.trained_model import TrainedModel
    from logger.predictions import PredictionGrid, PredictionWriter, errors_first

    model = TrainedModel.load(flags.resume, flags.device)
    found = of_split(model, flags) if flags.split else model.predict_files(flags.sources, flags.batch_size, flags.top)
    with PredictionGrid(flags.grid) as grid, PredictionWriter(flags.out, flags.json, flags.save_outputs) as writer:
        for part in errors_first(found) if flags.errors else found:
            writer.add(part.rows, part.outputs)
            grid.add(part.rows, part.data)
    return 1 if writer.num_errors else 0


def of_split(model: "TrainedModel", flags: argparse.Namespace) -> "Iterator[Predictions]":
    """The predictions for a split of the data that the model's config names."""
    from base.training.evaluate import split_loader
    from parse_config import PARTS, ConfigParser

    config = ConfigParser(model.config, parts={"data_loader": PARTS["data_loader"]})
    loader, _ = split_loader(config, flags.split, flags.batch_size, model.device, model.loader_state)
    return model.predict_split(loader, flags.split, flags.top)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Predict with a trained model.", allow_abbrev=False)
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="files, folders or patterns; - reads their names")
    parser.add_argument(
        "-r", "--resume", metavar="CHECKPOINT", required=True, help="checkpoint, run folder or 'latest'"
    )
    parser.add_argument("-d", "--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (auto)")
    parser.add_argument("--split", choices=["test", "valid", "train"], help="predict for a split of the config's data")
    parser.add_argument("--errors", action="store_true", help="with --split: only errors, the most confident first")
    parser.add_argument("--top", type=int, default=1, metavar="N", help="list the N most probable classes")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="examples computed at once (64)")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each example, not a table")
    parser.add_argument("--out", metavar="FILE", help="write all predictions as a .csv file")
    parser.add_argument("--grid", metavar="FILE", help="draw images with their predictions as a .png file")
    parser.add_argument("--save-outputs", metavar="FILE", help="write the model's outputs as a .npy file")
    flags = in_one_line(parser).parse_args()
    with clean_exit():
        refuse_several("predict.py")
        if bool(flags.sources) == bool(flags.split):
            raise UserError("give either files, folders, patterns or - to predict for, or --split")
        for flag, value in (("--top", flags.top), ("--batch-size", flags.batch_size)):
            if value < 1:
                raise UserError(f"{flag}: got {value}; it should be at least 1")
        if flags.errors and not flags.split:
            raise UserError("--errors: needs targets, as --split gives them")
        sys.exit(main(flags))
