"""Read the command line that train.py and test.py share: which config, which checkpoint, what to set on top."""

import argparse
import os
import re
import sys
from pathlib import Path

from utils.checkpoint import find_checkpoint, load_checkpoint
from utils.config.files import deep_merge, parse_assignment, read_config
from utils.errors import UserError


def read_command_line(args, options):
    """(parsed arguments, checkpoint or None, config before any setting, [(path, value) to set]).

    args: an ArgumentParser with -c, -r and -d, which gets --set, --check, --print-config and the options, or what
    its parse_args returned. options: objects with flags, type and target. Raises UserError.
    """
    parsed = _parse(args, options) if isinstance(args, argparse.ArgumentParser) else args
    assignments = []
    for i, option in enumerate(options):
        value = getattr(parsed, f"option_{i}", None)
        if value is not None:
            assignments.append((option.target, value))
    assignments += map(parse_assignment, getattr(parsed, "set", None) or ())
    if getattr(parsed, "device", None):
        assignments.append(("device", _choose_device(parsed.device)))
    return parsed, *_read(parsed), assignments


def _parse(parser, options):
    ours = {
        "--set": {"action": "append", "metavar": "KEY=VALUE", "help": "set any value of the config; repeatable"},
        "--check": {"action": "store_true", "help": "check the config and stop"},
        "--print-config": {"action": "store_true", "help": "print the merged config and stop"},
    }
    for flag, settings in ours.items():
        if flag not in parser._option_string_actions:  # a project's script may have a flag of that name
            parser.add_argument(flag, **settings)
    for i, option in enumerate(options):
        metavar = option.flags[-1].lstrip("-").upper()
        convert = _to_bool if option.type is bool else option.type
        target = option.target if isinstance(option.target, str) else ".".join(option.target)
        text = f"sets {target.replace(';', '.')}"
        parser.add_argument(*option.flags, dest=f"option_{i}", type=convert, metavar=metavar, help=text)
    return parser.parse_args()


def _read(parsed):
    """(checkpoint or None, config): the checkpoint's config, under the config file if both are given."""
    if not parsed.resume and not parsed.config:
        raise UserError("nothing to run; give a config, as in -c config.json, or a checkpoint with -r")
    given = read_config(parsed.config) if parsed.config else {}
    if not parsed.resume:
        return None, given
    resume, passed_over = find_checkpoint(parsed.resume, _save_dir(given))
    for reason in passed_over:
        print(f"warning: {reason}; passed over", file=sys.stderr)
    if str(resume) != parsed.resume:
        print(f"resuming from {resume}")
    config = load_checkpoint(resume).get("config")
    if not isinstance(config, dict) and not parsed.config:
        raise UserError(f"{resume}: holds no config; give one with -c")
    return resume, deep_merge(config if isinstance(config, dict) else {}, given)


def _save_dir(config):
    """Where to look for the latest run: the given config's save_dir, else that of ./config.json, else saved/."""
    if not config and Path("config.json").exists():
        config = read_config("config.json")
    trainer = config.get("trainer")
    return trainer.get("save_dir", "saved/") if isinstance(trainer, dict) else "saved/"


def _choose_device(text):
    """The device to set for -d: a name, or "cuda" after hiding all GPUs but the listed ones from torch."""
    if re.fullmatch(r"\d+(,\d+)*", text):
        os.environ["CUDA_VISIBLE_DEVICES"] = text  # read when torch first looks for GPUs
        return "cuda"
    if text.partition(":")[0] in ("auto", "cpu", "cuda", "mps"):
        return text
    raise UserError(f"-d {text}: give GPU numbers, as in -d 2,3, or auto, cpu, cuda or mps")


def _to_bool(text):
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
