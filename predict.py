"""Predict with a trained model: python predict.py -r saved/models/<name>/<run>/model_best.pth a.png b.png."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from utils.distributed.launch import refuse_several
from utils.errors import UserError, clean_exit, in_one_line, shown

if TYPE_CHECKING:
    from base.trained_model import Predictions, TrainedModel


BATCH_SIZE = 64
"""Examples of files and arrays computed at once, unless --batch-size says how many."""


def main(flags: argparse.Namespace) -> int:
    """Predict for each example and write what was asked for; returns the exit status, 1 if a file was not read."""
    # Imported here, so that --help need not wait for torch.
    from base.data.sources import Sources, refuse_overwriting
    from base.generate import as_texts, continued_files, continues_texts
    from base.trained_model import TrainedModel
    from base.training.summary import num_samples_of
    from logger.masks import MaskWriter
    from logger.predictions import PredictionGrid, PredictionWriter, errors_first
    from utils.runs.checkpoint import WORDS
    from utils.seed import derive_seed, seed_everything

    refuse_overwriting(flags.sources, [flags.out, flags.grid, flags.save_outputs])
    model = TrainedModel.load(flags.resume, flags.device, data_config(flags.config))
    if flags.resume in WORDS:
        print(f"using {shown(model.path or '')}", file=sys.stderr)
    seed_everything(derive_seed(flags.seed, 0))  # for a model that draws random numbers, those of test.py
    if flags.prompt is not None or flags.samples is not None:
        return generate(model, flags)
    if flags.save_outputs is not None and flags.save_outputs.lower().endswith(".npz"):
        return save_named(model, flags)
    is_of_texts = model.has_input and continues_texts(model)
    with (
        PredictionGrid(flags.grid) as grid,
        PredictionWriter(flags.out, flags.json, flags.save_outputs, flags.masks) as writer,
        MaskWriter(flags.masks) as masks,
    ):
        if flags.split:
            loader = model.loader(flags.split, flags.batch_size)
            found, total = model.predict_split(loader, flags.split, flags.top), num_samples_of(loader)
            found = as_texts(found) if is_of_texts else found
        elif is_of_texts:
            found = continued_files(model, flags.sources, flags.length, flags.temperature, flags.seed)
            total = None
        else:
            sources = Sources(flags.sources, model.input if model.has_input else None, model.output)
            found, total = model.predict_raw(sources, flags.batch_size or BATCH_SIZE, flags.top), sources.total
        found = writer.counted(masks.fitting(grid.drawable(ranked(found, flags.top))), total)
        for part in errors_first(found) if flags.errors else found:
            writer.add(part)
            grid.add(part)
            masks.add(part)
    return 1 if writer.num_errors else 0


def ranked(parts: Iterable["Predictions"], top: int) -> Iterator["Predictions"]:
    """Yield the Predictions. Raises UserError if more than one class is asked for and the first ones rank none."""
    for part in parts:
        if top > 1 and len(part.outputs) and "top" not in part.columns:
            raise UserError("--top: ranks the classes of an example, which this model does not predict; leave it out")
        yield part


def save_named(model: "TrainedModel", flags: argparse.Namespace) -> int:
    """Write an array for each of the model's outputs; returns the exit status, 1 if a file was not read."""
    from base.data.examples import in_batches
    from base.data.sources import Sources
    from utils.batches import batches_of
    from utils.files import write_arrays
    from utils.nested import as_numpy, halves, joined_arrays

    errors: list[Exception] = []

    def batches():
        if flags.split:
            yield from (halves(batch)[0] for batch in batches_of(model.loader(flags.split, flags.batch_size)))
            return
        sources = Sources(flags.sources, model.input if model.has_input else None, model.output)
        for batch in in_batches(sources, flags.batch_size or BATCH_SIZE):
            errors.extend(batch.errors.values())
            if len(batch.raw):
                yield model.prepared(batch.raw)

    named = (model.named_outputs(data) for data in batches())
    arrays = joined_arrays(({name: as_numpy(one) for name, one in part.items()} for part in named), "outputs")
    write_arrays(flags.save_outputs, {name or "outputs": array for name, array in arrays.items()})
    for error in errors:
        print(f"error: {shown(error)}")
    for name, array in arrays.items():
        print(f"{shown(name or 'outputs')}: {array.shape} {array.dtype}")
    print(f"written to {shown(flags.save_outputs)}" + (f", {len(errors):,} could not be read" if errors else ""))
    return 1 if errors else 0


def data_config(path: str | None) -> dict | None:
    """The config of a file, whose data are used in the place of those of the checkpoint's config."""
    if path is None:
        return None
    from parse_config import PARTS, ConfigParser
    from utils.config.files import read_config

    return ConfigParser(read_config(Path(path)), parts={"data_loader": PARTS["data_loader"]}).config


def generate(model: "TrainedModel", flags: argparse.Namespace) -> int:
    """Print the text that continues the prompt, or draw samples of the model."""
    from base.generate import continued, draw_samples

    if flags.prompt is not None:
        found = continued(model, flags.prompt, flags.length, flags.temperature, flags.seed)
        print(flags.prompt, end="", flush=True)
        for text in found:
            print(text, end="", flush=True)
        print()
    else:
        path = Path(flags.grid or "samples.png")
        draw_samples(model, flags.samples, path, flags.seed)
        print(f"drawn in {path}")
    return 0


def refuse_wrong(flags: argparse.Namespace) -> None:
    """Raise UserError for flags that do not go together."""
    asked = [flags.sources, flags.split, flags.prompt is not None, flags.samples is not None]
    if sum(map(bool, asked)) != 1:
        raise UserError("give either files, folders, patterns or - to predict for, or --split, --prompt or --samples")
    if flags.prompt is not None or flags.samples is not None:
        others = {"--out": flags.out, "--save-outputs": flags.save_outputs, "--json": flags.json}
        others |= {"--masks": flags.masks}
        others |= {"--errors": flags.errors, "--grid": flags.prompt is not None and flags.grid}
        if useless := [flag for flag, value in others.items() if value]:
            raise UserError(f"{', '.join(useless)}: of no use with --prompt or --samples; leave it out")
    if (flags.save_outputs or "").lower().endswith(".npz"):
        others = {"--out": flags.out, "--json": flags.json, "--masks": flags.masks, "--errors": flags.errors}
        others |= {"--grid": flags.grid, "--top": flags.top > 1}
        if useless := [flag for flag, value in others.items() if value]:
            raise UserError(f"{', '.join(useless)}: cannot go with a .npz file of --save-outputs; leave it out")
    for flag, value, least in (
        ("--top", flags.top, 1),
        ("--batch-size", flags.batch_size, 1),
        ("--samples", flags.samples, 1),
        ("--length", flags.length, 1),
        ("--temperature", flags.temperature, 0),
        ("--seed", flags.seed, 0),
    ):
        if value is not None and not value >= least:
            raise UserError(f"{flag}: got {value}; it should be at least {least}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Predict with a trained model.", allow_abbrev=False)
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="files, folders or patterns; - reads their names")
    parser.add_argument(
        "-r", "--resume", metavar="CHECKPOINT", required=True, help="checkpoint, run folder, 'latest' or 'best'"
    )
    parser.add_argument("-c", "--config", metavar="FILE", help="config whose data, and input, are used if -r has none")
    parser.add_argument("-d", "--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (auto)")
    parser.add_argument("--split", choices=["test", "valid", "train"], help="predict for a split of the config's data")
    parser.add_argument("--errors", action="store_true", help="list wrong predictions alone, the most confident first")
    parser.add_argument("--top", type=int, default=1, metavar="N", help="list the N most probable classes")
    batch_help = f"examples computed at once ({BATCH_SIZE}; of a split as in the config)"
    parser.add_argument("--batch-size", type=int, metavar="N", help=batch_help)
    parser.add_argument("--json", action="store_true", help="print a JSON object for each example, not a table")
    parser.add_argument("--out", metavar="FILE", help="write all predictions as a .csv file")
    parser.add_argument("--grid", metavar="FILE", help="draw images with their predictions as a .png file")
    parser.add_argument("--masks", metavar="FOLDER", help="write the masks of a segmentation as .png files")
    parser.add_argument("--save-outputs", metavar="FILE", help="write the outputs as .npy, or several as .npz")
    parser.add_argument("--prompt", metavar="TEXT", help="continue a text, with a model of texts")
    parser.add_argument("--length", type=int, default=200, metavar="N", help="of a text: bytes to write (200)")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="of a text: 0 to be certain (0.8)")
    parser.add_argument("--samples", type=int, metavar="N", help="draw samples of a model that generates images")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn at random (0)")
    flags = in_one_line(parser).parse_args()
    with clean_exit():
        refuse_several("predict.py")
        refuse_wrong(flags)
        sys.exit(main(flags))
