"""Claim the folders of a run: checkpoints in <save_dir>/models/<name>/<run>/, logs in <save_dir>/log/<name>/<run>/."""

import contextlib
import errno
import itertools
import math
import os
import shutil
import weakref
from datetime import datetime
from pathlib import Path

from utils.errors import UserError, shown
from utils.json_io import read_json_beside


def claim_run_folder(root, name, run_id=None):
    """The checkpoint folder of a new run, made here; no two runs ever get the same one.

    run_id: name of the run, by default the present time, with a number behind it if another run has it.
    Raises UserError if the folder cannot be made, or if the run_id given is taken.
    """
    runs = Path(root) / "models" / name
    started = datetime.now().strftime("%Y%m%d_%H%M%S")
    names = [run_id] if run_id else (f"{started}-{i}" if i > 1 else started for i in itertools.count(1))
    try:
        _require_inside(root, runs)
        runs.mkdir(parents=True, exist_ok=True)
        for run in names:
            try:
                (runs / run).mkdir()  # fails if another process was faster
                return runs / run
            except FileExistsError:
                continue
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"trainer.save_dir: cannot make a run folder in {runs}: {reason}") from None
    raise UserError(f"{runs / run_id}: a run of that name exists; choose another run_id")


def refuse_other_batch(folder, config):
    """Raise UserError if updates would take another number of samples than those of the run in the folder."""
    try:
        run = read_json_beside(Path(folder) / "config.json")
    except (OSError, ValueError):  # there is nothing to compare with; a start writes it again
        return
    before, now = _samples_an_update(run), _samples_an_update(config)
    if before and now and before != now:
        raise UserError(
            f"data_loader.args.batch_size: with trainer.accumulate it makes updates of {now} samples, and this run's "
            f"have {before}; keep that, or start a run of its own from the checkpoint: -r <checkpoint> -c <config>"
        )


def _samples_an_update(config):
    """batch_size times accumulate; None if the config does not say."""
    try:
        return config["data_loader"]["args"]["batch_size"] * config["trainer"].get("accumulate", 1)
    except (KeyError, TypeError, AttributeError):
        return None


class RunLock:
    """Tells other processes, as long as it lives, that this one trains the run in the folder.

    asks: it does not train, and others may ask beside it. Raises UserError if another one trains the run. Where the
    file system has no locks, nobody is told. The lock is of this open file: whoever else opens and closes the file, as
    a copy of the folder does, leaves it alone.
    """

    def __init__(self, folder, asks=False):
        never = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # through a link, or waiting at a pipe
        file = os.open(Path(folder) / ".lock", never | (os.O_RDONLY if asks else os.O_RDWR | os.O_CREAT))
        self._file = _OpenFile(file)
        try:
            import fcntl

            fcntl.flock(file, (fcntl.LOCK_SH if asks else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except ImportError:
            pass
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                self._file = _open_locks.get(self._file.key)  # this process itself may train the run already
                if self._file is None:
                    raise UserError(
                        f"{shown(folder)}: another process trains this run; wait for its end, or start a new one"
                    ) from None
        if not asks:
            _open_locks[self._file.key] = self._file


class _OpenFile:
    """A file that is open as long as this lives, and in no process that is forked meanwhile, such as a worker."""

    def __init__(self, descriptor):
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        self.key = status.st_dev, status.st_ino

    def close(self):
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    __del__ = close


_open_locks = weakref.WeakValueDictionary()  # by what tells files apart


def _close_in_child():
    for file in list(_open_locks.values()):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def seen_runs(runs):
    """Names of the runs in the folder of a job, and of their checkpoints, as <run> and <run>/<file>."""
    return frozenset(str(path.relative_to(runs)) for pattern in ("*", "*/*.pth") for path in runs.glob(pattern))


def refuse_second(folder, seen):
    """Raise UserError if another start of the command has begun a run, or gone on with one, since -r auto looked.

    folder: of the run, which this process has locked; it is deleted if it is new. seen: what seen_runs gave then.
    Of two that begin at once the one goes on that was the first to lock its folder, by the clock of the file system:
    names tell of the clocks of hosts, and of moments before a folder was there.
    """
    new = seen_runs(folder.parent) - seen - {folder.name}
    before = {run for run in new if _place_in_line(folder.parent / run) < _place_in_line(folder)}
    other = min(before | {path for path in new if path.endswith(".pth")}, default=None)
    if other is None:
        return
    if folder.name not in seen:
        shutil.rmtree(folder)
    run = folder.parent / Path(other).parts[0]
    raise UserError(f"{run}: another process has trained this run since -r auto looked; give the same command again")


def _place_in_line(folder):
    """What is lower for a run that was locked before another one."""
    try:
        return (folder / ".lock").lstat().st_mtime_ns, folder.name
    except OSError:  # it is not locked yet, or deleted
        return math.inf, folder.name


def is_being_trained(folder):
    """Whether a process trains the run in the folder now; not where there is no lock that may be read."""
    try:
        RunLock(folder, asks=True)
    except UserError:
        return True
    except OSError:
        pass
    return False


def run_of_launch(roots, launch):
    """(folder, when) of the run below the roots that a launch trained last; None if there is none.

    when: that launch's first start, in seconds since 1970; None if the run itself is the launch's.
    """
    found = [path for root in roots for path in Path(root).glob("models/*/*/environment.json")]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        with contextlib.suppress(
            OSError, ValueError, TypeError, AttributeError, KeyError
        ):  # not what this program wrote
            starts = read_json_beside(path)
            if starts and starts[-1].get("launch") == launch:
                first = next(i for i, start in enumerate(starts) if start.get("launch") == launch)
                return path.parent, datetime.fromisoformat(starts[first]["started"]).timestamp() if first else None
    return None


def is_run_folder(folder):
    """Whether the folder is that of a run, rather than one that a checkpoint happens to lie in."""
    written = (folder / name for name in ("environment.json", ".lock"))  # one of which may be lost
    return folder.resolve().parent.parent.name == "models" and any(path.exists() for path in written)


def log_folder_of(save_dir):
    """The log folder that belongs to a run's checkpoint folder, made if it is not there."""
    nested = len(save_dir.parts) >= 3 and ".." not in save_dir.parts
    folder = save_dir if nested else save_dir.resolve()
    logs = folder.parents[2] / "log" / folder.parent.name / folder.name
    _require_inside(folder.parents[2], logs)
    logs.mkdir(parents=True, exist_ok=True)
    return logs


def _require_inside(root, folder):
    """Raise UserError if a link below root leads out of it, as one in an archive from a stranger may."""
    if not folder.resolve().is_relative_to(Path(root).resolve()):
        out = f"a link in it leads out of {shown(root)}, to {shown(folder.resolve())}"
        raise UserError(f"{shown(folder)}: {out}; nothing is written there")
