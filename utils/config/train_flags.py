"""The flags of train.py besides those for single values: how many runs, looking for bugs, measuring before training.

They are read without waiting for torch.
"""

import argparse
import contextlib
import inspect
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.components import PARTS, args_of, dict_at
from utils.config.types import find_in_source
from utils.distributed.world import is_main
from utils.errors import UserError, quantity
from utils.rules import parse_fold

if TYPE_CHECKING:
    from parse_config import ConfigParser

NONE_GIVEN = argparse.Namespace(
    data=False, fast_dev_run=None, show_batch=None, profile=False, find_lr=None, find_batch_size=False
)
RESUME_HELP = "checkpoint, run folder, 'latest' or 'best' to resume; or 'auto': the newest run of the config's name"


def add_train_flags(parser: argparse.ArgumentParser) -> None:
    """Give an ArgumentParser all flags of train.py but those for single values of the config."""
    add = parser.add_argument
    add("-c", "--config", metavar="FILE", help="config file: .json, .yaml or .toml")
    add("-r", "--resume", metavar="CHECKPOINT", help=RESUME_HELP)
    add("--weights-only", action="store_true", help="take only the weights of -r, into a new run")
    add("-d", "--device", metavar="DEVICE", help="GPUs to use, as in 2,3; or auto, cpu, cuda, mps")
    add("--fold", dest="_fold", metavar="K/N", help="validate on the Kth of N parts of the data")
    for key in ("folds", "seeds"):
        add(f"--{key}", dest=f"_{key}", type=int, metavar="N", help=f"a run for each of N {key}, and their mean")
    add = parser.add_argument_group("looking for bugs").add_argument
    text = "with --check: read the data too, look at the first and the last batch, and stop"
    add("--data", action="store_true", help=text)
    text = "one epoch of N batches (1), everything as configured; nothing is kept"
    add("--fast-dev-run", nargs="?", const=1, type=_count, metavar="N", help=text)
    text = "draw the first training and validation batch into a .png file, and stop"
    add("--show-batch", type=Path, metavar="FILE", help=text)
    text = "record a few steps with torch's profiler: a table here, a trace in the run's log folder"
    add("--profile", action="store_true", help=text)
    add = parser.add_argument_group("before training").add_argument
    text = (
        "train briefly with rising learning rates, draw the loss into a .png file (find_lr.png), suggest one, and stop"
    )
    add("--find-lr", nargs="?", const=Path("find_lr.png"), type=Path, metavar="FILE", help=text)
    add("--find-batch-size", action="store_true", help="find the largest batch that fits into the GPU, and stop")


def _count(text):
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of batches from 1 on")
    return int(text)


@dataclass(frozen=True)
class Variant:
    """One run of a series: a fold or a seed."""

    label: str
    name: str
    """Name of the run's job: the config's, and the fold or seed."""
    assignments: tuple
    """(path, value) of each value that it sets in the config, apart from the name."""
    flags: tuple
    """Flags that train this run alone."""


def variants_of(parsed: argparse.Namespace, config: dict[str, Any]) -> list[Variant]:
    """Return the Variants that a command line asks for, in the order of their training; [] for an ordinary run.

    parsed: what an ArgumentParser returned, perhaps with _fold ("3/5"), _folds or _seeds (numbers). Raises UserError.
    """
    asked = {key: getattr(parsed, f"_{key}", None) for key in ("fold", "folds", "seeds")}
    asked = {key: value for key, value in asked.items() if value is not None}
    if not asked:
        return []
    if len(asked) > 1:
        raise UserError(f"--{', --'.join(asked)}: give one of them at a time")
    from utils.config.schema import RunSettings  # with pydantic, for which --help need not wait

    ((key, value),) = asked.items()
    name = str(config.get("name", RunSettings.model_fields["name"].default))
    if key == "fold":
        return [_fold(name, config, value)]
    if value < 2:
        raise UserError(f"--{key}: got {value}; it should be at least 2")
    for alone in ("data", "fast_dev_run", "show_batch", "find_lr", "find_batch_size"):
        if getattr(parsed, alone, None):
            flag = f"--{alone.replace('_', '-')}"
            raise UserError(
                f"--{key}: does not go with {flag}, which leaves nothing to compare; give {flag} without it"
            )
    if parsed.resume not in (None, "auto"):
        raise UserError(f"-r: with --{key} it can only be 'auto', which resumes the newest runs of that name")
    if key == "folds":
        return [_fold(name, config, f"{number}/{value}") for number in range(1, value + 1)]
    first = config.get("seed", RunSettings.model_fields["seed"].default)
    if isinstance(first, bool) or not isinstance(first, int):
        raise UserError(f"seed: got {first!r}; it should be an integer")
    return [_seed(name, first + i) for i in range(value)]


def _seed(name, seed):
    name = f"{name}-seed{seed}"
    return Variant(f"seed {seed}", name, (("seed", seed),), ("--set", f"seed={seed}", "--set", f"name={name}"))


def _fold(name, config, fold):
    """The Variant of a fold, which replaces a validation_split."""
    try:
        number, folds = parse_fold(fold)
    except UserError as error:
        raise UserError(f"--{error}") from None
    assignments = [("data_loader.args.fold", fold)]
    if _takes_split(config):
        assignments.append(("data_loader.args.validation_split", 0))
    suffix = f"-fold{number}of{folds}"
    return Variant(f"fold {fold}", name.removesuffix(suffix) + suffix, tuple(assignments), ("--fold", fold))


def _takes_split(config):
    """Whether data_loader has a validation_split, in its args or as its default."""
    if "validation_split" in args_of(config, "data_loader"):
        return True
    try:
        definition = find_in_source(dict_at(config, "data_loader").get("type") or "", PARTS["data_loader"])
    except UserError:  # the config's check reports it, or a script of the project's own builds it
        return False
    return definition.default("validation_split") not in (None, inspect.Parameter.empty, "0", "0.0")


def flag_of_one_process(flags: argparse.Namespace) -> str | None:
    """Return the given flag that a single process carries out, however many train; None if there is none."""
    given = {"--data": flags.data, "--show-batch": flags.show_batch}
    given |= {"--find-lr": flags.find_lr, "--find-batch-size": flags.find_batch_size}
    return next((flag for flag, value in given.items() if value), None)


@contextlib.contextmanager
def debugging(config: "ConfigParser", flags: argparse.Namespace) -> Iterator[None]:
    """Within it the config is as the flags ask; the folder of a fast-dev-run is removed at its end.

    flags: what parse_args returned. Raises UserError for flags that cannot be followed.
    """
    for flag, path in (("--show-batch", flags.show_batch), ("--find-lr", flags.find_lr)):
        if path is not None:
            _require_writable(flag, path)
    if config.resume is not None and (flags.find_lr or flags.find_batch_size):
        raise UserError("--find-lr, --find-batch-size: are for a new run; give its config with -c, and leave -r out")
    alone = ("fast_dev_run", "show_batch", "find_lr", "find_batch_size")
    if getattr(flags, "_json", False) and (given := next((name for name in alone if getattr(flags, name)), None)):
        raise UserError(f"--json: does not go with --{given.replace('_', '-')}, which leaves no run behind")
    if flags.profile:
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # read when torch is imported: the profiler prints errors only
    if flags.data and not flags._check:
        raise UserError("--data: goes with --check, as in --check --data")
    config.own_limit = config["trainer"].get("limit_train_batches")
    if flags.data:
        config.keeps_nothing = True
    if flags.data or flags.fast_dev_run is None or flags.show_batch is not None:
        yield
        return
    if config.resume is not None:
        raise UserError("--fast-dev-run: keeps nothing, so it resumes no run; leave -r out")
    number = flags.fast_dev_run
    with tempfile.TemporaryDirectory(prefix="fast-dev-run-", ignore_cleanup_errors=True) as folder:
        only = {"epochs": 1, "limit_train_batches": number, "limit_valid_batches": number}
        config["trainer"].update({**only, "len_epoch": None, "save_dir": folder})
        config.config.pop("trackers", None)  # what they send elsewhere would stay there
        config.keeps_nothing = True
        try:
            yield
        except UserError as error:
            if not any(str(error).startswith(f"trainer.{key}: ") for key in only):
                raise
            raise UserError(f"--fast-dev-run: {error}") from error  # the config does not have the key
    if is_main():
        print(f"fast-dev-run: {quantity(number, 'batch')} of everything went through; nothing is kept")


def _require_writable(flag, path):
    """Raise UserError unless a picture can be written there."""
    if path.suffix.lower() != ".png":
        raise UserError(f"{flag} {path}: give the name of a .png file")
    if not path.parent.is_dir() or path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"{flag} {path}: cannot be written; give a file in a folder that exists")
