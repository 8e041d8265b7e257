"""Flags of train.py, read without waiting for torch: which run, how many, and looking around before one."""

import argparse
import contextlib
import os
import tempfile
from pathlib import Path

from utils.distributed.world import is_main
from utils.errors import UserError

NONE_GIVEN = argparse.Namespace(fast_dev_run=None, show_batch=None, profile=False, find_lr=None, find_batch_size=False)


RESUME_HELP = "checkpoint or run folder to resume; 'latest'; or 'auto': the newest run of the config's name, if any"


def add_train_flags(parser):
    """Give an ArgumentParser all flags of train.py but those for single values of the config."""
    parser.add_argument("-c", "--config", metavar="FILE", help="config file: .json, .yaml or .toml")
    parser.add_argument("-r", "--resume", metavar="CHECKPOINT", help=RESUME_HELP)
    parser.add_argument("--weights-only", action="store_true", help="take only the weights of -r, into a new run")
    parser.add_argument("-d", "--device", metavar="DEVICE", help="GPUs to use, as in 2,3; or auto, cpu, cuda, mps")
    parser.add_argument("--fold", dest="_fold", metavar="K/N", help="validate on the Kth of N parts of the data")
    text = "a run for each of N folds, and their mean"
    parser.add_argument("--folds", dest="_folds", type=int, metavar="N", help=text)
    text = "a run for each of N seeds, and their mean"
    parser.add_argument("--seeds", dest="_seeds", type=int, metavar="N", help=text)
    group = parser.add_argument_group("looking for bugs")
    text = "one epoch of N batches (1), everything as configured; nothing is kept"
    group.add_argument("--fast-dev-run", nargs="?", const=1, type=_count, metavar="N", help=text)
    text = "draw the first training and validation batch into a .png file, and stop"
    group.add_argument("--show-batch", type=Path, metavar="FILE", help=text)
    text = "record a few steps with torch's profiler: a table here, a trace in the run's log folder"
    group.add_argument("--profile", action="store_true", help=text)
    group = parser.add_argument_group("before training")
    text = (
        "train a little with rising learning rates, draw the loss into a .png file (find_lr.png), suggest one, and stop"
    )
    group.add_argument("--find-lr", nargs="?", const=Path("find_lr.png"), type=Path, metavar="FILE", help=text)
    text = "find the largest batch that fits into the GPU, and stop"
    group.add_argument("--find-batch-size", action="store_true", help=text)


def flag_of_one_process(flags):
    """The flag given that one process follows, however many train; None if there is none."""
    given = {"--show-batch": flags.show_batch, "--find-lr": flags.find_lr, "--find-batch-size": flags.find_batch_size}
    return next((flag for flag, value in given.items() if value), None)


@contextlib.contextmanager
def debugging(config, flags):
    """Within it the config is as the flags ask; the folder of a fast-dev-run is removed at its end.

    flags: what parse_args returned. Raises UserError for flags that cannot be followed.
    """
    for flag, path in (("--show-batch", flags.show_batch), ("--find-lr", flags.find_lr)):
        if path is not None:
            _require_writable(flag, path)
    if config.resume is not None and (flags.find_lr or flags.find_batch_size):
        raise UserError(
            "--find-lr, --find-batch-size: are for a run to come; give its config with -c, and leave -r out"
        )
    if flags.profile:
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # read with torch: the profiler says nothing but errors
    if flags.fast_dev_run is None or flags.show_batch is not None:
        yield
        return
    if config.resume is not None:
        raise UserError("--fast-dev-run: keeps nothing, so it continues no run; leave -r out")
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
            raise UserError(f"--fast-dev-run: {error}") from error  # for the config does not have the key
    if is_main():
        batches = "1 batch" if number == 1 else f"{number} batches"
        print(f"fast-dev-run: {batches} of everything went through; nothing is kept")


def _require_writable(flag, path):
    """Raise UserError unless a picture can be written there."""
    if path.suffix.lower() != ".png":
        raise UserError(f"{flag} {path}: give the name of a .png file")
    if not path.parent.is_dir() or path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"{flag} {path}: cannot be written; give a file in a folder that is there")


def _count(text):
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of batches from 1 on")
    return int(text)
