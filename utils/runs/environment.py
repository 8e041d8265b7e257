"""environment.json of a run: the circumstances of each start, and whether the run has ended; uncommitted.diff."""

import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from utils.distributed.launch import launch_id
from utils.files import read_json_beside, read_record, write_json, write_whole

_LIBRARIES = ("torch", "torchvision", "numpy", "pandas", "tensorboard", "tqdm", "pydantic")
_PROJECT = Path(__file__).resolve().parents[2]
_MOST_BYTES = 1_000_000  # of uncommitted.diff
_MOST_FILES = 1_000  # untracked ones that are looked at
_FIRST_BYTES = 8_000  # in which a binary file has a zero byte


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

    def warnings(self) -> Iterator[str]:
        """Yield a line each for a damaged record and for another number of torch's threads than in the last start."""
        if self.damaged:
            yield f"environment.json was damaged and was moved to {self.damaged}"
        counts = [start.get("threads") for start in self._starts[-2:]]
        before, now = counts if len(counts) == 2 else (None, None)
        if type(before) is int and now is not None and before != now:
            yield f"threads: {now} now, {before} before; on a CPU the last bits of all numbers may differ"

    def begin(self, resumed_from: Path | None, overridden: Sequence[str] = (), log_dir: Path | None = None) -> None:
        """Record this start, and the changes to the project's files that are in no commit.

        overridden: lines on the values that the command line sets. log_dir: folder of uncommitted.diff, or of
        uncommitted-2.diff for a second start with other changes; None writes none.
        """
        start = {**describe_environment(), "overridden": list(overridden)}
        start["resumed_from"] = str(resumed_from) if resumed_from else None
        if log_dir is not None and start["git_dirty"]:
            start["git_diff"] = self._save_changes(log_dir)
        before = self._starts[-1] if self._starts else {}  # which holds if this start trains nothing
        self._starts.append(start | {key: before[key] for key in ("ended", "data") if before.get(key) is not None})
        write_json(self._starts, self._path)

    def _save_changes(self, log_dir):
        """Name of the file that holds the uncommitted changes: that of an earlier start if they are the same."""
        changes, number = uncommitted_changes(), len(self._starts) + 1
        before = self._starts[-1].get("git_diff") if self._starts else None
        if isinstance(before, str) and before in map(_diff_name, range(number)):
            path = log_dir / before
            if path.is_file() and path.stat().st_size == len(changes) and path.read_bytes() == changes:
                return before
        write_whole(changes, log_dir / _diff_name(number), "the uncommitted changes")
        return _diff_name(number)

    def train(self, data_loader: Any = None) -> None:
        """Record that the run is trained, so that it has not ended, and on which data."""
        before = dict(self._starts[-1])
        self._starts[-1].pop("ended", None)
        self._starts[-1] |= {"data": data} if (data := describe_data(data_loader)) else {}
        if self._starts[-1] != before:
            write_json(self._starts, self._path)

    def end(self) -> None:
        """Record that the run has ended."""
        self._starts[-1]["ended"] = _now()
        write_json(self._starts, self._path)


def last_start(folder: Path) -> dict[str, Any]:
    """Return what environment.json in a run's folder says of its last start; {} if it cannot be read."""
    try:
        starts = read_json_beside(folder / "environment.json")
    except (OSError, ValueError):
        return {}
    newest = starts[-1] if isinstance(starts, list) and starts else {}
    return newest if isinstance(newest, dict) else {}


def changes_file(start: dict[str, Any]) -> str | None:
    """Return the name of the file with a start's uncommitted changes, in the log folder; None if they are not saved."""
    name = start.get("git_diff")
    return name if isinstance(name, str) and name and Path(name).name == name != ".." else None


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


def describe_data(loader: Any) -> dict[str, Any]:
    """Return what checkpoints hold of the data of a BaseDataLoader: number, fingerprint and part; {} for another."""
    state = loader.state_dict() if hasattr(loader, "changes_since") else {}
    return {key: state[key] for key in ("samples", "fingerprint", "part") if key in state}


def uncommitted_changes() -> bytes:
    """Return the changes since the last commit, as git diff shows them, with new text files; at most 1 MB."""
    changes = _git_bytes("diff", "HEAD", "--no-color", "--no-ext-diff", "--", ".")
    untracked = _git_bytes("ls-files", "--others", "--exclude-standard", "-z").decode("utf-8", "surrogateescape")
    for name in untracked.split("\0")[:_MOST_FILES]:
        if len(changes) > _MOST_BYTES:
            break
        changes += _as_new_file(name)
    if len(changes) > _MOST_BYTES:
        note = b"(cut here, since there are more than a megabyte of changes)\n"
        changes = changes[: _MOST_BYTES - len(note)].rpartition(b"\n")[0] + b"\n" + note
    return changes


def _as_new_file(name):
    """The lines by which a diff adds an untracked text file; b"" for any other file, and one that cannot be read."""
    path = _PROJECT / name
    try:
        if not name or path.is_symlink() or not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return b""
        with open(path, "rb", buffering=0) as file:
            content = file.read(_FIRST_BYTES)
            content += b"" if b"\0" in content else file.read()
    except OSError:
        return b""
    if b"\0" in content:
        return b""
    place, lines = name.encode("utf-8", "surrogateescape"), content.splitlines()
    head = b"diff --git a/%b b/%b\nnew file mode 100644\n" % (place, place)
    if not lines:
        return head
    end = b"" if content.endswith(b"\n") else b"\\ No newline at end of file\n"
    added = b"".join(b"+" + line + b"\n" for line in lines)
    return head + b"--- /dev/null\n+++ b/%b\n@@ -0,0 +1,%d @@\n" % (place, len(lines)) + added + end


def _diff_name(number):
    return f"uncommitted-{number}.diff" if number > 1 else "uncommitted.diff"


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
    return _git_bytes(*arguments).decode("utf-8", "replace").strip()


def _git_bytes(*arguments):
    """The first megabyte that a git command prints in the project's folder, b"" without git or a repository."""
    try:
        with tempfile.TemporaryFile() as output:  # not in memory, since a diff may be of any size
            command = ["git", *arguments]
            subprocess.run(command, cwd=_PROJECT, stdout=output, stderr=subprocess.DEVNULL, timeout=10, check=True)
            output.seek(0)
            return output.read(_MOST_BYTES + 1)
    except (OSError, subprocess.SubprocessError):
        return b""
