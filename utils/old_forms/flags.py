"""What an old script declares on its ArgumentParser: a default for -c, and flags that set keys of its own."""

import argparse
import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from utils.config.files import KnownKeys, split_path


@contextlib.contextmanager
def default_not_given(parser: argparse.ArgumentParser) -> Iterator[Any]:
    """A context in which the parser has no default for -c; yields that default.

    With -r, a default would otherwise be taken for a config that somebody gave, and so begin a new run.
    """
    default = parser.get_default("config")
    parser.set_defaults(config=None)
    yield default
    parser.set_defaults(config=default)


def as_typed(parsed: Any) -> Any:
    """Return the result of parse_args, without a config that is only the default beside a typed -r, or empty texts."""
    if not isinstance(parsed, argparse.Namespace):
        return parsed
    values = vars(parsed).copy()
    for short, name in (("-r", "resume"), ("-d", "device")):
        if values.get(name) == "" and not is_typed(short, f"--{name}"):
            values[name] = None
    if values.get("config") and is_typed("-r", "--resume") and not is_typed("-c", "--config"):
        values["config"] = values["config"] if values.get("resume") == "auto" else None
    return argparse.Namespace(**values)


def is_typed(short: str, long: str) -> bool:
    """Whether the command line has the flag."""
    words = sys.argv[1:]
    return any(word in (short, long) or word.startswith((f"{long}=", short)) for word in words)


def declared_keys(options: Iterable[Any], known: KnownKeys) -> KnownKeys:
    """Return the known keys and those that the targets of a script's options add to sections that exist."""
    declared = {place: tuple(keys) for place, keys in known.items()}
    for option in options:
        *parents, key = map(str, split_path(option.target))
        declared[tuple(parents)] = (*declared.get(tuple(parents), ()), key)
    return declared
