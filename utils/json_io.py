"""Read and write JSON files."""

import contextlib
import json
from pathlib import Path

from utils.files import read_beside, set_aside_damaged, write_whole

_ABSENT = object()


def ensure_dir(path):
    """Make the folder and its parents unless they exist."""
    Path(path).mkdir(parents=True, exist_ok=True)


def read_json(path):
    """What the JSON file holds. Raises ValueError for any other content, OSError if there is no such file."""
    return _parsed(Path(path).read_text(encoding="utf-8"))


def write_json(content, path):
    """Write content as indented JSON, as write_whole does."""
    write_whole(json.dumps(content, indent=4) + "\n", path)


def read_json_beside(path):
    """What a JSON file beside checkpoints holds. Raises OSError and ValueError."""
    return _parsed(read_beside(path))


def read_record(path, fits, empty):
    """(content, None) of a JSON file that this program adds to; (empty, None) if there is none yet.

    (empty, new place) for one that is damaged, of which fits(content) is false: it is moved there, so that it keeps
    nothing from going on. Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        try:
            content = read_json_beside(path)
            if fits(content):
                return content, None
        except ValueError:
            pass
        return empty, set_aside_damaged(path)
    return empty, None


def differences(before, after, where=""):
    """Lines 'path: old -> new' for every value that differs between two JSON objects."""
    lines = []
    for key in [*before, *(key for key in after if key not in before)]:
        path = f"{where}.{key}" if where else str(key)
        old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, path)
        elif old != new:
            lines.append(f"{path}: {_as_json(old)} -> {_as_json(new)}")
    return lines


def _as_json(value):
    return "(absent)" if value is _ABSENT else json.dumps(value)


def _parsed(text):
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
