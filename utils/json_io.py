"""Read and write JSON files."""

import contextlib
import json
from pathlib import Path

from utils.files import read_beside, set_aside_damaged, write_whole


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


def _parsed(text):
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
