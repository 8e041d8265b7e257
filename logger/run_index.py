"""All runs below a folder, as RunSummary objects; of runs that have not changed, from an index that keeps them.

The index is a file beside the runs. It only saves time: an entry counts if size, time and inode of all files that it
summarizes are what they were, and a lost, damaged or foreign index is written again.
"""

import contextlib
import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from logger.run_summary import LOG_FILES, RUN_FILES, RunSummary, summarize
from utils.errors import UserError, shown
from utils.files import read_beside, write_whole

_PROJECT = Path(__file__).resolve().parents[1]
_SOURCES = (
    "logger/run_summary.py",
    "logger/run_files.py",
    "logger/csv_log.py",
    "logger/pace.py",
    "utils/runs/checkpoint.py",
)
INDEX = ".runs-index.json"
_DEPTH = 8  # of folders below the given one in which runs are looked for
_SETTLED_SECONDS = 2.0  # a file may change again within the resolution of a file system's clock, and keep its size
_LEFT_OUT = 0.01  # share of runs that the index may lack before it is written again


def read_runs(*folders: str | Path) -> list[RunSummary]:
    """Return a RunSummary of every run below the folders, in the order of their paths.

    folders: each a save_dir such as "saved", any folder above it, one of the folders in it, or that of a single run.

    A run that cannot be read has the state "damaged" and a reason; one whose process is gone has "died". Files are read
    only, but for the index. Raises UserError for a folder that does not exist or cannot be listed.
    """
    found: dict[Path, list[str]] = {}
    for folder in dict.fromkeys(os.path.abspath(folder) for folder in folders):
        for root, run in _find_runs(folder):
            found.setdefault(root, []).append(run)
    return [run.with_present_state() for root in sorted(found) for run in _read_below(root, sorted(set(found[root])))]


def _find_runs(folder: str) -> Iterator[tuple[Path, str]]:
    """Yield (save_dir, "<name>/<run>") of each folder of a run in or below this one."""
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"{shown(folder)}: no such folder; give one with runs, such as saved")
    kinds = [part.name for part in (path, *path.parents)][:3]
    if "log" in kinds and (models := path.parents[kinds.index("log")] / "models").is_dir():
        kinds[kinds.index("log")] = "models"  # a folder of logs stands for the one of the checkpoints
        path = models.joinpath(*reversed(kinds[: kinds.index("models")]))
    if kinds[2:] == ["models"] and _is_run(path):
        yield path.parents[2], f"{path.parent.name}/{path.name}"
    elif kinds[1:2] == ["models"] and path.is_dir():
        yield from ((path.parents[1], f"{path.name}/{run}") for run in _folders_in(path) if _is_run(path / run))
    else:
        yield from _walk(path, set(), 0)


def _walk(path, seen, depth):
    """Yield what _find_runs does, of all folders below. seen: (device, inode) of folders, against loops of links."""
    status = path.stat()
    if (status.st_dev, status.st_ino) in seen or depth > _DEPTH:
        return
    seen.add((status.st_dev, status.st_ino))
    if path.name == "models":
        for name in _folders_in(path):
            yield from (
                (path.parent, f"{name}/{run}") for run in _folders_in(path / name) if _is_run(path / name / run)
            )
        return
    inner = _folders_in(path)
    for name in inner:
        if name != "log" or "models" not in inner:
            yield from _walk(path / name, seen, depth + 1)


def _folders_in(path):
    """The names of the folders in a folder, without hidden ones."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and entry.name[:1] not in (".", "_"))
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be listed: {error.strerror or error}") from None


def _is_run(folder):
    """Whether a folder below models/<name>/ is that of a run, perhaps a damaged one."""
    if any(os.path.lexists(f"{folder}/{name}") for name in RUN_FILES[:2]):
        return True
    try:
        return any(name.endswith(".pth") for name in os.listdir(folder))
    except OSError:  # reported as a damaged run
        return True


# ---- the index


def _read_below(root: Path, runs: list[str]) -> list[RunSummary]:
    """The summaries of runs, named "<name>/<run>", below the save_dir `root`."""
    version = _version()
    index = _load(root / INDEX, version)
    summaries, entries, new, now = [], {}, 0, time.time()
    for name in runs:
        state, changed = _fingerprint(root, name)
        entry, settled = index.get(name), now - changed > _SETTLED_SECONDS
        summary = _from_entry(entry[1], root, name) if entry is not None and entry[0] == state else None
        if summary is None:
            summary = summarize(root / "models" / name, changed)
            entry = [state, {key: getattr(summary, key) for key in _KINDS}]
            new += settled
        if settled:
            entries[name] = entry
        summaries.append(summary)
    if new > _LEFT_OUT * len(runs):
        kept = {name: entry for name, entry in index.items() if (root / "models" / name).is_dir()}  # of other folders
        _store(root / INDEX, version, kept | entries)
    return summaries


def _fingerprint(root: Path, name: str) -> tuple[str, float]:
    """(text that differs once a file of the run does, time of the last change) for the files of a run."""
    logs = f"{root}/log/{name}"
    folder = f"{root}/models/{name}"
    places = [folder, *(f"{folder}/{file}" for file in RUN_FILES), *(f"{logs}/{file}" for file in LOG_FILES)]
    marks, newest = [], 0
    for place in places:
        try:
            status = os.stat(place)
        except OSError as error:
            marks.append(f"-{error.errno}")
            continue
        marks.append(f"{status.st_ino},{status.st_size},{status.st_mtime_ns},{status.st_ctime_ns}")
        newest = max(newest, status.st_mtime_ns, status.st_ctime_ns)
    return " ".join(marks), newest / 1e9


def _version() -> int:
    """A number that changes with the code that makes summaries, so that a new version reads the runs again."""
    return zlib.crc32(b"".join((_PROJECT / name).read_bytes() for name in _SOURCES))


def _load(path: Path, version: int) -> dict[str, list[Any]]:
    """{run: [fingerprint, summary]} of an index; {} if there is none, or none that this program wrote."""
    try:
        content = json.loads(read_beside(path))
        if content["version"] == version and isinstance(content["runs"], dict):
            return {name: entry for name, entry in content["runs"].items() if type(entry) is list and len(entry) == 2}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    return {}


_KINDS = {
    "state": str,
    "reason": str,
    "epoch": int,
    "batch": int,
    "epochs": (int, type(None)),
    "monitor": str,
    "best": (int, float, type(None)),
    "best_epoch": (int, type(None)),
    "values": dict,
    "test": dict,
    "test_checkpoint": str,
    "test_epoch": (int, type(None)),
    "seconds": (int, float, type(None)),
    "started": str,
    "environment": dict,
    "changed": (int, float),
    "config": dict,
}


def _from_entry(entry: Any, root: Path, name: str) -> RunSummary | None:
    """The RunSummary that an entry of the index holds; None for anything else."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), kind) for key, kind in _KINDS.items()):
        return None
    if not all(type(value) is float for key in ("values", "test") for value in entry[key].values()):
        return None
    job, _, run = name.partition("/")
    return RunSummary(f"{root}/models/{name}", job, run, **{key: entry[key] for key in _KINDS})


def _store(path: Path, version: int, entries: dict[str, list[Any]]) -> None:
    """Write an index; one that cannot be written, as on a disk that is read only, is missing the next time, too."""
    with contextlib.suppress(UserError, OSError):
        write_whole(json.dumps({"version": version, "runs": entries}), path)
