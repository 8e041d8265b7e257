"""Read and write JSON files."""

import json
import os
from pathlib import Path


def ensure_dir(path):
    """Make the folder and its parents unless they exist."""
    Path(path).mkdir(parents=True, exist_ok=True)


def read_json(path):
    """What the JSON file holds."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_json(content, path):
    """Write content as indented JSON; a reader sees the old file or the new one, never half of either."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
