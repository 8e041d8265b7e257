"""environment.json of a run: the circumstances of each start, and whether the run has ended."""

import platform
import subprocess
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from utils.distributed.launch import launch_id
from utils.errors import UserError
from utils.files import read_json, read_record, write_json

_LIBRARIES = ("torch", "torchvision", "numpy", "pandas", "tensorboard", "tqdm", "pydantic")


class RunRecord:
    """The starts of the run in a folder, the newest last, as {"started": ..., "command": ..., "threads": ...}.

    damaged: where an unreadable file was moved, so that the record begins with this start; None if there was none.
    """

    def __init__(self, folder: str | Path) -> None:
        self._path = Path(folder) / "environment.json"
        self._starts, self.damaged = read_record(self._path, _are_starts, empty=[])

    @property
    def has_ended(self) -> bool:
        """Whether the run has ended, and nothing was trained since."""
        return bool(self._starts) and self._starts[-1].get("ended") is not None

    @property
    def threads(self) -> tuple[int | None, int | None]:
        """(torch's threads in the previous start, in this one), None where the number is unknown."""
        counts = [start.get("threads") for start in self._starts[-2:]]
        before, now = counts if len(counts) == 2 else (None, None)
        return before if type(before) is int else None, now

    def begin(self, resumed_from: Path | None) -> None:
        """Record this start."""
        start = {**describe_environment(), "resumed_from": str(resumed_from) if resumed_from else None}
        self._starts.append(start | ({"ended": self._starts[-1]["ended"]} if self.has_ended else {}))
        write_json(self._starts, self._path)

    def train(self) -> None:
        """Record that a run that had ended is trained further."""
        if self._starts[-1].pop("ended", None) is not None:
            write_json(self._starts, self._path)

    def end(self) -> None:
        """Record that the run has ended."""
        self._starts[-1]["ended"] = _now()
        write_json(self._starts, self._path)


def last_start(folder: Path) -> dict[str, Any]:
    """Return what environment.json in a run's folder says of its last start; {} if it cannot be read."""
    try:
        starts = read_json(folder / "environment.json")
    except (OSError, ValueError, UserError):
        return {}
    newest = starts[-1] if isinstance(starts, list) and starts else {}
    return newest if isinstance(newest, dict) else {}


def describe_environment() -> dict[str, Any]:
    """Return time, command line, host, library versions, and the git commit and whether its tree is dirty.

    The commit is None without git; the number of torch's threads is None if torch is not imported.
    """
    torch = sys.modules.get("torch")
    commit = _git("rev-parse", "HEAD")
    return {
        "started": _now(),
        "command": [Path(sys.executable).name, *sys.argv],
        "host": platform.node(),
        "launch": launch_id(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "threads": torch and torch.get_num_threads(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "git_commit": commit or None,
        "git_dirty": bool(_git("status", "--porcelain")) if commit else None,
    }


def _are_starts(content):
    return isinstance(content, list) and all(isinstance(start, dict) for start in content)


def _now():
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _version(library):
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments):
    """Output of a git command in the project's folder, "" without git or a repository."""
    folder = Path(__file__).resolve().parent.parent
    try:
        answer = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
