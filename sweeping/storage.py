"""Where a study is stored: a journal in a folder, which several machines may share, or a database with a URL."""

import contextlib
import errno
import os
import random
import re
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from utils.errors import UserError, shortened, shown

WAIT_SECONDS = 600.0
"""How long to wait for a storage that does not answer."""
Result = TypeVar("Result")
_JOURNAL = b'{"op_code"'  # how each line of a journal begins
_TRIES_AT_ONCE = 10  # several sweeps may make a database's tables at once, and one of them succeeds


class StorageGone(UserError):
    """The storage has not answered for too long."""


def open_storage(where: str | Path) -> BaseStorage:
    """Return the storage: of a database if `where` is a URL, else of the journal file at that path. Raises UserError.

    A journal that does not exist is made.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    if "://" in str(where):
        return _open_database(str(where))
    path = Path(where)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _require_journal(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_lock_for(path)))
    except OSError as error:
        raise UserError(f"--storage {shown(where)}: {error.strerror or error}") from None
    except (ValueError, KeyError, AssertionError) as error:
        raise UserError(f"--storage {shown(where)}: not a journal of Optuna; {shortened(error)}") from None


def _require_journal(path):
    """Raise ValueError for a file of another kind, whose end the lock of a journal would cut off."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        head = file.read(len(_JOURNAL))
        if head != _JOURNAL[: len(head)]:
            raise ValueError("a SQLite file is given as sqlite:///FILE")


def _open_database(url):
    if url.startswith("postgresql://") and find_spec("psycopg") is None:  # which SQLAlchemy asks for by default
        url = url.replace("postgresql://", "postgresql+psycopg2://", 1)
    for attempt in range(1, _TRIES_AT_ONCE + 1):
        try:
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except ImportError as error:
            missing = f"needs a package that is not installed ({error.__cause__ or error}); pip install '.[sweep]'"
            raise UserError(f"--storage {without_password(url)}: {missing}") from None
        except Exception as error:
            if attempt == _TRIES_AT_ONCE or not _made_at_once(error):
                raise UserError(f"--storage {without_password(url)}: {_reason(error)}") from None
        time.sleep(random.uniform(0.05, 0.5))
    raise AssertionError


def _made_at_once(error):
    """Whether another process has made the same table in the same moment."""
    return any(word in str(error) for word in ("already exists", "duplicate key", "UNIQUE constraint"))


def without_password(url: str | Path) -> str:
    """Return the URL for a message."""
    return shown(re.sub(r"(://[^:/@]*):.*@", r"\1:***@", str(url)))


def _reason(error):
    """The first line of what a database's error says."""
    inner = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
    return shortened(str(inner).strip().split("\n")[0])


class _KernelLock(JournalFileSymlinkLock):
    """A lock that the kernel frees when its process dies, so that a killed sweep holds up no other.

    Whoever gets it cuts off half a line that a full disk, or a loss of power, has left at the end of the journal.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path, self._descriptor = path, -1

    def acquire(self) -> bool:
        import fcntl

        self._descriptor = os.open(f"{self._path}.flock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            _cut_half_line(self._path)
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        os.close(self._descriptor)


def _lock_for(path):
    """The kernel's lock; None, for Optuna's own, where the system or the file system has none."""
    try:
        lock = _KernelLock(path)
        lock.acquire()
        lock.release()
        return lock
    except ImportError:
        return None
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            return None
        raise


def _cut_half_line(path):
    with contextlib.suppress(FileNotFoundError), open(path, "rb+") as file:
        end = file.seek(0, os.SEEK_END)
        start = end
        while start > 0:
            step = min(start, 4096)
            file.seek(start - step)
            found = file.read(step).rfind(b"\n")
            if found >= 0:
                start = start - step + found + 1
                break
            start -= step
        if start < end:
            file.truncate(start)


class Patience:
    """Calls the storage again while it does not answer.

    tell: called with a line when the storage is gone, and when it is back. asked: called before each wait; returns
    whether to give up. It raises StorageGone after WAIT_SECONDS.
    """

    def __init__(self, tell: Callable[[str], Any], asked: Callable[[], Any] = lambda: False) -> None:
        self._tell, self._asked, self._seconds = tell, asked, WAIT_SECONDS

    def __call__(self, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """Return function(*args, **kwargs); it may be called several times, so it must be harmless to repeat."""
        first = None
        while True:
            try:
                result = function(*args, **kwargs)
            except (OSError, optuna.exceptions.StorageInternalError, *_database_errors()) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else _reason(error)
                if first is None:
                    first = time.monotonic()
                    self._tell(f"the storage does not answer: {reason}; waiting for it")
                if time.monotonic() - first > self._seconds or self._asked():
                    self._seconds = 0.0
                    waited = f"{time.monotonic() - first:.0f} s"
                    raise StorageGone(
                        f"the storage has not answered for {waited}: {reason}; trials are kept; repeat the command to "
                        "continue"
                    ) from None
                time.sleep(min(1.0, self._seconds / 10 + 0.01))
            else:
                if first is not None:
                    self._tell(f"the storage answers again, after {time.monotonic() - first:.0f} s")
                return result


def _database_errors():
    """Errors of databases that Optuna passes on as they are; () unless a database is in use."""
    import sys

    errors = sys.modules.get("sqlalchemy.exc")
    return (errors.DBAPIError, errors.TimeoutError) if errors else ()
