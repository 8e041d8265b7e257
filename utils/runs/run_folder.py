"""Folders of runs: checkpoints in <save_dir>/models/<name>/<run>/, logs in <save_dir>/log/<name>/<run>/."""

import contextlib
import errno
import itertools
import logging
import math
import os
import shutil
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from utils.errors import UserError, shown
from utils.files import read_json_beside
from utils.runs.environment import last_start


def run_name(config: dict[str, Any]) -> Any:
    """Return the name of the folder of a job's runs: without slashes, unless it leads elsewhere, and so is refused."""
    name = config.get("name", "run")
    leads_on = isinstance(name, str) and "/" in name and all(part.strip(".") for part in name.split("/"))
    return name.replace("/", "-") if leads_on else name


def claim_run_folder(root: str | Path, name: str, run_id: str | None = None) -> Path:
    """Make and return the checkpoint folder of a new run; no two runs ever get the same one.

    run_id: name of the run; by default the present time, with a number after it if another run has that name.
    Raises UserError if the folder cannot be made, or if run_id is taken.
    """
    runs = Path(root) / "models" / name
    started = datetime.now().strftime("%Y%m%d_%H%M%S")
    names = [run_id] if run_id else (f"{started}-{i}" if i > 1 else started for i in itertools.count(1))
    try:
        _require_inside(root, runs)
        runs.mkdir(parents=True, exist_ok=True)
        for run in names:
            with contextlib.suppress(FileExistsError):  # another process was faster
                (runs / run).mkdir()
                return runs / run
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"trainer.save_dir: cannot make a run folder in {runs}: {reason}") from None
    raise UserError(f"{runs / str(run_id)}: a run of that name exists; choose another run_id")


def make_log_folder(save_dir: Path) -> Path:
    """Make the log folder of the run with this checkpoint folder, unless it exists, and return it."""
    logs = log_folder(save_dir)
    _require_inside(logs.parents[2], logs)
    logs.mkdir(parents=True, exist_ok=True)
    return logs


def log_folder(save_dir: str | Path) -> Path:
    """Return the log folder, which may not exist, of the run with this checkpoint folder.

    It is the folder itself if it lies too near the root of the file system to be that of a run.
    """
    folder = _nested(Path(save_dir))
    if len(folder.parents) < 3:
        return folder
    return folder.parents[2] / "log" / folder.parent.name / folder.name


def _nested(folder):
    """The folder, resolved if its path does not name the three folders around it."""
    return folder if len(folder.parts) >= 3 and ".." not in folder.parts else folder.resolve()


def folders_of(run: str | Path) -> tuple[Path, Path]:
    """Return (folder of checkpoints, folder of logs) of a run, given one of them, or a checkpoint.

    One of them may not exist: a folder that holds a metrics.csv is a run whose checkpoints are elsewhere. Raises
    UserError if there is no such run.
    """
    path = Path(run)
    folder = _nested(path.parent if path.is_file() else path)
    kind = folder.parent.parent.name
    if folder.is_dir() and kind in ("models", "log"):
        root = folder.parents[2]
        save_dir, log_dir = (root / room / folder.parent.name / folder.name for room in ("models", "log"))
        _require_inside(root, log_dir)
        return save_dir, log_dir
    if (folder / "metrics.csv").exists():
        return folder, folder
    what = "not a run" if folder.is_dir() else "there is no such run"
    raise UserError(f"{shown(run)}: {what}; give its folder, saved/models/<name>/<run> or saved/log/<name>/<run>")


def _require_inside(root, folder):
    """Raise UserError if a link below root leads out of it, as one in a stranger's archive may."""
    if not folder.resolve().is_relative_to(Path(root).resolve()):
        out = f"a link in it leads out of {shown(root)}, to {shown(folder.resolve())}"
        raise UserError(f"{shown(folder)}: {out}; nothing is written there")


# and TensorBoard's files
_EMPTY_RUN = {"config.json", "environment.json", ".lock", "info.log", "model.txt", "uncommitted.diff"}
_EARLY_SECONDS = 60


@contextlib.contextmanager
def removed_if_empty(save_dir: Path, log_dir: Path, is_empty: Callable[[], bool]) -> Iterator[None]:
    """A context that removes a new run's folders if an error ends it within a minute and nothing is in them.

    is_empty: whether nothing was logged. Folders with a checkpoint, or with files of another program, stay.
    """
    started = time.monotonic()
    try:
        yield
    except Exception:
        files = [path for folder in (save_dir, log_dir) for path in folder.glob("*")]
        written = all(path.name in _EMPTY_RUN or path.name.startswith("events.out.tfevents.") for path in files)
        if time.monotonic() - started < _EARLY_SECONDS and written and is_empty():
            _remove(save_dir, log_dir)
        raise


def _remove(save_dir, log_dir):
    root = logging.getLogger()
    logging.getLogger("trainer").info("%s: nothing was learned, so the run is removed", save_dir)
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).is_relative_to(log_dir.absolute()):
            root.removeHandler(handler)
            handler.close()
    for folder in (save_dir, log_dir):
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # other runs of the job
            folder.parent.rmdir()


def is_run_folder(folder: Path) -> bool:
    """Whether the folder is that of a run, rather than any folder in which a checkpoint lies."""
    written = (folder / name for name in ("environment.json", ".lock"))  # one of them may be lost
    return folder.resolve().parent.parent.name == "models" and any(path.exists() for path in written)


def refuse_other_batch(folder: Path, config: dict[str, Any]) -> None:
    """Raise UserError if the config makes optimizer steps of another number of samples than the run in the folder."""
    try:
        run = read_json_beside(folder / "config.json")
    except (OSError, ValueError):  # nothing to compare with; a start writes it again
        return
    before, now = _samples_per_step(run), _samples_per_step(config)
    if before and now and before != now:
        raise UserError(
            f"data_loader.args.batch_size: with trainer.accumulate it makes updates of {now} samples, and this run's "
            f"have {before}; keep that, or start a run of its own from the checkpoint: -r <checkpoint> -c <config>"
        )


def _samples_per_step(config):
    """batch_size times accumulate; None if the config does not give them."""
    try:
        return config["data_loader"]["args"]["batch_size"] * config["trainer"].get("accumulate", 1)
    except (KeyError, TypeError, AttributeError):
        return None


# ---- one process trains a run

HAS_LOCKS = find_spec("fcntl") is not None  # not on Windows
IS_TRAINED = "another process trains this run"
WAS_TRAINED = "another process has trained this run since -r auto looked"

_PATIENCE_SECONDS = 0.2  # for others that ask whether the run is being trained, for which they lock it for a moment


class RunLock:
    """Lock of the run in the folder, held while this object lives, so that no other process trains the run.

    asks: only look; several processes may do so at once. Raises UserError if another process trains the run. A file
    system without locks, and Windows, give no protection. The lock belongs to this open file, so that others may open
    and close the file, as a copy of the folder does.
    """

    def __init__(self, folder: str | Path, asks: bool = False) -> None:
        safely = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # neither follow a link nor wait at a pipe
        descriptor = os.open(Path(folder) / ".lock", safely | (os.O_RDONLY if asks else os.O_RDWR | os.O_CREAT))
        self._file = _OpenFile(descriptor)
        until = time.monotonic() + (0 if asks else _PATIENCE_SECONDS)
        while not _lock(descriptor, shared=asks):
            if held := _open_locks.get(self._file.key):  # by this process itself
                self._file = held
                break
            if time.monotonic() >= until:
                raise UserError(f"{shown(folder)}: {IS_TRAINED}; wait for its end, or start a new one")
            time.sleep(0.01)
        if not asks:
            _open_locks[self._file.key] = self._file


def _lock(descriptor, shared):
    """Lock an open file; returns False if another holds it. A file system without locks refuses nobody."""
    try:
        import fcntl

        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


class _OpenFile:
    """A file that is open while this object lives, but not in forked processes, such as workers of a DataLoader."""

    def __init__(self, descriptor):
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        self.key = status.st_dev, status.st_ino

    def close(self, close=os.close):  # bound here, as modules are cleared when Python ends
        if self._descriptor is not None:
            close(self._descriptor)
            self._descriptor = None

    __del__ = close


_open_locks = weakref.WeakValueDictionary()  # {device and inode: _OpenFile}


def _close_in_child():
    for file in list(_open_locks.values()):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def is_being_trained(folder: Path) -> bool:
    """Whether a process trains the run in the folder now; False if there is no lock that can be read."""
    try:
        RunLock(folder, asks=True)
    except UserError:
        return True
    except OSError:
        pass
    return False


def training_note(where: str | Path, checkpoint: Path) -> str | None:
    """Return a line if this checkpoint was found by its run or a word, and that run is still being trained."""
    folder = checkpoint.parent
    # a notebook that has trained the run holds its lock
    if Path(where) == checkpoint or "ended" in last_start(folder) or not is_being_trained(folder):
        return None
    return f"{shown(folder)}: is still being trained; {shown(checkpoint.name)} is used, as it is now"


def unsaved_since(run: Path, others: Iterable[Path]) -> list[str]:
    """Return a line, if there are any, on other runs that began after the last save of a run and saved nothing."""
    saved = max((path.stat().st_mtime_ns for path in run.glob("*.pth") if path.is_file()), default=math.inf)
    begun = [(_locked_at(folder)[0], str(folder)) for folder in others if not any(folder.glob("*.pth"))]
    found = [folder for when, folder in sorted(begun) if saved < when < math.inf]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return [f"{', '.join(found[-3:])}{more}: began later, and saved no checkpoint"] if found else []


# ---- -r auto


def run_of_launch(roots: Iterable[str | Path], launch: str) -> tuple[Path, float | None] | None:
    """Return (folder, when) of the run below the roots that a launch trained last; None if there is none.

    when: time of that launch's first start, in seconds since 1970; None if the launch began the run.
    """
    found = [path for root in roots for path in Path(root).glob("models/*/*/environment.json")]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            starts = read_json_beside(path)
            if starts and starts[-1].get("launch") == launch:
                first = next(i for i, start in enumerate(starts) if start.get("launch") == launch)
                return path.parent, datetime.fromisoformat(starts[first]["started"]).timestamp() if first else None
        except (OSError, ValueError, TypeError, AttributeError, KeyError):  # not written by this program
            continue
    return None


def seen_runs(runs: Path) -> frozenset[str]:
    """Return the names of the runs in the folder of a job, and of their checkpoints, as <run> and <run>/<file>."""
    return frozenset(str(path.relative_to(runs)) for pattern in ("*", "*/*.pth") for path in runs.glob(pattern))


def refuse_second(folder: Path, seen: Collection[str]) -> None:
    """Raise UserError if another start of the command has begun or resumed a run since -r auto looked.

    folder: of the run, which this process has locked; it is deleted if it is new. seen: what seen_runs returned then.
    Of two that begin at once, the first to lock its folder proceeds, by the clock of the file system: the names of runs
    depend on the clocks of hosts, and on moments before the folders existed.
    """
    new = seen_runs(folder.parent) - set(seen) - {folder.name}
    before = {run for run in new if _locked_at(folder.parent / run) < _locked_at(folder)}
    other = min(before | {path for path in new if path.endswith(".pth")}, default=None)
    if other is None:
        return
    if folder.name not in seen:
        shutil.rmtree(folder, ignore_errors=True)  # Windows keeps the lock, which is open
    run = folder.parent / Path(other).parts[0]
    raise UserError(f"{run}: {WAS_TRAINED}; give the same command again")


def _locked_at(folder):
    """(time, name), which is lower for a run that was locked earlier."""
    try:
        return (folder / ".lock").lstat().st_mtime_ns, folder.name
    except OSError:  # not locked yet, or deleted
        return math.inf, folder.name
