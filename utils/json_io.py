"""Read and write JSON files."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.files import read_beside, set_aside_damaged, write_whole

_ABSENT = object()


def ensure_dir(path: str | Path) -> None:
    """Make the folder and its parents unless they exist."""
    Path(path).mkdir(parents=True, exist_ok=True)


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file. Raises ValueError for another form, OSError if there is no such file."""
    return _parsed(Path(path).read_text(encoding="utf-8"))


def write_json(content: Any, path: str | Path) -> None:
    """Write content as indented JSON, as write_whole does."""
    write_whole(json.dumps(content, indent=4) + "\n", path)


def read_json_beside(path: str | Path) -> Any:
    """Return the content of a JSON file beside checkpoints, read with read_beside. Raises OSError and ValueError."""
    return _parsed(read_beside(path))


def read_record(path: str | Path, fits: Callable[[Any], bool], empty: Any) -> tuple[Any, Path | None]:
    """Return (content, None) of a JSON file that this program extends; (empty, None) if there is none yet.

    A damaged file, or one for which fits(content) is false, is moved, so that the program can continue; the result is
    (empty, new path). Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        with contextlib.suppress(ValueError):
            content = read_json_beside(path)
            if fits(content):
                return content, None
        return empty, set_aside_damaged(path)
    return empty, None


def differences(before: dict[str, Any], after: dict[str, Any], where: str = "") -> list[str]:
    """Return a line 'path: old -> new' for every value that differs between two JSON objects."""
    lines = []
    for key in dict.fromkeys([*before, *after]):
        path = f"{where}.{key}" if where else str(key)
        old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, path)
        elif old != new:
            old, new = ("(absent)" if value is _ABSENT else json.dumps(value) for value in (old, new))
            lines.append(f"{path}: {old} -> {new}")
    return lines


def _parsed(text):
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
