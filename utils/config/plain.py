"""What a config may hold: few plain values whose text can be shown and stored.

Files, their "base", what --set gives and the configs inside checkpoints all pass require_plain, so the rest of the
program need not fear their size. A config is small, since people write and read it; the limits are far above that.
"""

import math

from utils.errors import UserError, brief, shown

MAX_BYTES = 100_000  # of a file and all that it inherits from
MAX_FILES = 50  # that a config inherits from, one that is named again counted again
MAX_DEPTH = 50
MAX_VALUES = 10_000
MAX_KEYS = 1_000  # of all objects together; each may be looked up among the names that are known
MAX_KEY_LENGTH = 200
_MAX_NAME_BYTES = 255  # of a file or a folder, on every file system in use
_MAX_PATH_BYTES = 4_000


MOST_SAVED = 100_000
"""Values, and keys, of a config within a checkpoint, to which a script may have added, say, a vocabulary."""


def require_plain(config, place, max_values=MAX_VALUES, max_keys=MAX_KEYS):
    """Raise UserError, which names the place, unless a config or a part of one is plain and small.

    Plain are objects whose keys are printable text, lists, text that UTF-8 can encode, integers of 64 bits, finite
    numbers, true, false and null. What an alias of YAML repeats counts again.
    """
    left, num_values, num_keys = [((), config)], 1, 0
    while left:
        where, value = left.pop()
        parts = []
        if isinstance(value, dict):
            parts, mistake = list(value.items()), _key_mistake(value)
            num_keys += len(parts)
        elif isinstance(value, list):
            parts, mistake = list(enumerate(value)), None
        else:
            mistake = _value_mistake(value)
        num_values += len(parts)
        if mistake:
            raise UserError(": ".join([shown(place), *([".".join(map(str, where))] if where else []), mistake]))
        for number, most, what in ((num_values, max_values, "values"), (num_keys, max_keys, "keys")):
            if number > most:
                raise UserError(f"{shown(place)}: holds more than {most:,} {what}; a config is a small file")
        if parts and len(where) >= MAX_DEPTH:
            raise UserError(f"{shown(place)}: nested too deeply, in more than {MAX_DEPTH} levels")
        left += [((*where, key), part) for key, part in parts]


def require_savable(config, place):
    """Raise UserError unless a config, as a script has made it, is what a checkpoint may hold."""
    require_plain(config, place, MOST_SAVED, MOST_SAVED)


def _key_mistake(keys):
    """What is wrong with the keys of an object; None if nothing is."""
    for key in keys:
        if not isinstance(key, str):
            return f"{brief(key)}: a key is text"
        if wrong := key_mistake(key):
            return wrong
    return None


def key_mistake(key):
    """What is wrong with a key, a text; None if nothing is."""
    if len(key) > MAX_KEY_LENGTH or not key.isprintable():
        return f"{brief(key)}: a key is one line of printable text, of up to {MAX_KEY_LENGTH} characters"
    return None


def _value_mistake(value):
    """What is wrong with a value that is neither an object nor a list; None if nothing is."""
    if isinstance(value, (bool, type(None))):
        return None
    if isinstance(value, str):
        if "\0" in value or not _is_encodable(value):
            return f"got {brief(value)}; a text holds neither NUL nor half of a surrogate pair"
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            return f"got an integer of {value.bit_length()} bits; it should fit into 64"
    elif not isinstance(value, float):
        return f"got a {type(value).__name__}; a config holds text, numbers, true, false, null"
    elif not math.isfinite(value):
        return f"got {value}, which is no number of a config"
    return None


def _is_encodable(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def line_mistake(text, most=1_000):
    """What is wrong with a text that is to be shown as it is; None if nothing is."""
    if not text.isprintable() or len(text) > most:
        return f"it should be one line of printable text, of up to {most:,} characters"
    return None


def path_mistake(text):
    """What is wrong with the path of a file or a folder; None if nothing is."""
    if not text or not text.isprintable() or not _is_short(text):
        return "it should be the path of a file or a folder, in one line of printable text"
    return None


def _is_short(path):
    names = path.encode().replace(b"\\", b"/").split(b"/")
    return max(map(len, names)) <= _MAX_NAME_BYTES and sum(map(len, names)) <= _MAX_PATH_BYTES


def first_repeated(keys):
    """The first of the keys that has stood before; None if each stands once."""
    seen = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None
