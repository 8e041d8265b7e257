"""The limits of a config: few plain values whose text can be shown and stored.

Config files, the values of --set and the configs in checkpoints all pass require_plain, so that the rest of the program
can rely on their size. The limits are far above what people write by hand.
"""

import math
import os
import re
from typing import Any

from utils.errors import UserError, brief, shown

MAX_BYTES = 100_000  # of a file and all files that it inherits from
MAX_FILES = 50  # that a config inherits from; a file named twice counts twice
MAX_DEPTH = 50
MAX_VALUES = 10_000
MAX_KEYS = 1_000  # of all objects together; each may be compared with all known names
MAX_KEY_LENGTH = 200
MAX_SAVED = 100_000  # values, and keys, of a config in a checkpoint: a script may have added, say, a vocabulary
_MAX_NAME_BYTES = 255  # of a file or a folder, on every file system in use
_MAX_PATH_BYTES = 4_000
_NUL_OR_SURROGATE = re.compile("[\0\ud800-\udfff]")


def require_plain(config: Any, place: object, max_values: int = MAX_VALUES, max_keys: int = MAX_KEYS) -> None:
    """Raise UserError, which names the place, unless a config or a part of one is plain and small.

    Plain are objects whose keys are printable text, lists, text that UTF-8 can encode, integers of 64 bits, finite
    numbers, true, false and null. A value that a YAML alias repeats counts every time.
    """
    left, num_values, num_keys = [((), config)], 1, 0
    while left:
        where, value = left.pop()
        if error := _value_error(value):
            raise UserError(": ".join([shown(place), *([".".join(map(str, where))] if where else []), error]))
        if not isinstance(value, (dict, list)):
            continue
        parts = list(value.items() if isinstance(value, dict) else enumerate(value))
        num_values += len(parts)
        num_keys += len(parts) if isinstance(value, dict) else 0
        for number, most, what in ((num_values, max_values, "values"), (num_keys, max_keys, "keys")):
            if number > most:
                raise UserError(f"{shown(place)}: holds more than {most:,} {what}; a config is a small file")
        if parts and len(where) >= MAX_DEPTH:
            raise UserError(f"{shown(place)}: nested too deeply, in more than {MAX_DEPTH} levels")
        left += [((*where, key), part) for key, part in parts]


def require_savable(config: Any, place: object) -> None:
    """Raise UserError unless a checkpoint may hold the config, which a script may have extended."""
    require_plain(config, place, MAX_SAVED, MAX_SAVED)


def as_plain(value: Any) -> Any:
    """The value with paths as text, arrays and tensors of one number as this number, and tuples as lists, at any depth.

    For configs that a program has made, of numpy.logspace or pathlib. Other objects stay as they are.
    """
    if isinstance(value, dict):
        return {key: as_plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(entry) for entry in value]
    return _plain_leaf(value)


def _plain_leaf(value):
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if hasattr(value, "dtype") and getattr(value, "ndim", None) == 0 else value


def as_savable(config: dict[str, Any], as_read: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return (what a checkpoint may hold of a config that a script has changed, the paths of the other values).

    Paths become text, numbers of NumPy and torch those of Python, and tuples lists. Where as_read has a value for an
    entry that cannot be saved, it is used.
    """
    others: list[str] = []
    saved = _savable(config, as_read, (), others)
    try:
        require_savable(saved, "the config")
    except UserError:  # such as too many values
        return as_read, ["all that was changed since it was read"]
    return saved, others


_OTHER = object()


def _savable(value, as_read, where, others):
    """The value, a dict without its other entries; as_read in its place, or _OTHER, if it cannot be saved."""
    value = _plain_leaf(value)
    if isinstance(value, dict) and len(where) < MAX_DEPTH:
        read = as_read if isinstance(as_read, dict) else {}
        others += [".".join(map(str, (*where, key))) for key in value if key_error(key)]
        kept = {key: one for key, one in value.items() if not key_error(key)}
        entries = {key: _savable(one, read.get(key, _OTHER), (*where, key), others) for key, one in kept.items()}
        return {key: entry for key, entry in entries.items() if entry is not _OTHER}
    if isinstance(value, (list, tuple)) and len(where) < MAX_DEPTH:
        entries = [_savable(one, _OTHER, (*where, i), others) for i, one in enumerate(value)]
        return entries if not any(entry is _OTHER for entry in entries) else as_read
    if type(value) in (type(None), bool, int, float, str) and not _value_error(value):
        return value
    others.append(".".join(map(str, where)))
    return as_read


def _value_error(value):
    """The error of a value, its keys included but not what they hold; None if there is none."""
    match value:
        case None | bool() | list():
            return None
        case dict():
            return next(filter(None, map(key_error, value)), None)
        case str() if _NUL_OR_SURROGATE.search(value):
            return f"got {brief(value)}; a text holds neither NUL nor half of a surrogate pair"
        case int() if not -(2**63) <= value < 2**64:
            return f"got an integer of {value.bit_length()} bits; it should fit into 64"
        case float() if not math.isfinite(value):
            return f"got {value}, which is no number of a config"
        case str() | int() | float():
            return None
    return f"got a {type(value).__name__}; a config holds text, numbers, true, false, null"


def key_error(key: object) -> str | None:
    """The error of a key; None if there is none."""
    if not isinstance(key, str):
        return f"{brief(key)}: a key is text"
    if len(key) > MAX_KEY_LENGTH or not key.isprintable():
        return f"{brief(key)}: a key is one line of printable text, of up to {MAX_KEY_LENGTH} characters"
    return None


def line_error(text: str) -> str | None:
    """What a text should be to be shown as it is; None if it is that."""
    if not text.isprintable() or len(text) > 1_000:
        return "it should be one line of printable text, of up to 1,000 characters"
    return None


def path_error(text: str) -> str | None:
    """What the path of a file or a folder should be; None if it is that."""
    if text and text.isprintable():
        names = text.encode().replace(b"\\", b"/").split(b"/")
        if max(map(len, names)) <= _MAX_NAME_BYTES and sum(map(len, names)) <= _MAX_PATH_BYTES:
            return None
    return "it should be the path of a file or a folder, in one line of printable text"
