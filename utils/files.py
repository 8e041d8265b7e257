"""Files of a run: replaced whole or not at all, and never written through a link that lies in the run's folder.

A folder of runs may come from a stranger. So a file is written under a random name, which no link can wait at, and then
takes the place of the one before; a file that grows, such as a log, is opened only if it is a plain one of one name.
"""

import contextlib
import errno
import itertools
import os
import secrets
import shutil
import stat
from pathlib import Path

from utils.errors import UserError, shown

_MOST_BYTES = 1 << 28  # of a file beside the checkpoints; a stranger's may be a sparse one without end
_NOT_THROUGH_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # nor waiting at a pipe
_BINARY = getattr(os, "O_BINARY", 0)


@contextlib.contextmanager
def replacing(path, what="the file", error=UserError):
    """A binary file to write, which then, flushed to the disk, takes the place of the one at path, with its mode.

    what: it is, for the message. error: the class of UserError to raise if the system refuses; the file before it is
    untouched then.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:  # which neither follows a link nor takes a file that is there
            yield file
            file.flush()
            _keep_mode(path, file)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as refused:
        reason = (refused.strerror or refused) if path.parent.is_dir() else "there is no such folder"
        untouched = "the file before it is untouched"
        raise error(f"{shown(path)}: cannot save {what}: {reason}; {untouched}") from refused
    finally:
        temporary.unlink(missing_ok=True)
    try:
        flush_folder(path.parent)
    except OSError as refused:
        raise error(f"{shown(path.parent)}: cannot be flushed to the disk: {refused.strerror or refused}") from refused


def write_whole(content, path, what="the file"):
    """Write text, as UTF-8, or bytes; a reader sees the old file or the new one, never half of either."""
    with replacing(path, what) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def read_beside(path):
    """The text of a file beside checkpoints. Raises OSError, also for what is no plain file, and UnicodeDecodeError."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    with open(descriptor, encoding="utf-8", newline="") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            raise OSError(errno.EINVAL, f"not a plain file of at most {_MOST_BYTES:,} bytes", str(path))
        return file.read()


def open_to_append(path):
    """The file at path, made if it is not there, open in binary to be written at its end.

    A second name of it, a hard link, is left to whom it belongs: the file is copied first. Raises UserError for a link
    and for what is no plain file, OSError if the system refuses.
    """
    path = Path(path)
    if path.is_symlink():
        raise UserError(f"{shown(path)}: is a link; nothing is written through one; move it away")
    if path.is_file() and path.stat().st_nlink > 1:
        if path.stat().st_size > _MOST_BYTES:  # a stranger's may be a sparse one, which would fill the disk
            raise UserError(f"{shown(path)}: has a second name, a hard link, and is too large to copy; move it away")
        with open(path, "rb") as original, replacing(path) as copy:
            shutil.copyfileobj(original, copy)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | _NOT_THROUGH_LINKS | _BINARY, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{shown(path)}: not a plain file; move it away")
    return open(descriptor, "ab")


def cut(path, length):
    """Take back what was written behind the first so many bytes of the file, as open_to_append opens it."""
    with open_to_append(path) as file:
        file.truncate(length)


def set_aside_damaged(path):
    """Put "damaged-" before the file's name, or "damaged-2-" and so on; returns the new path."""
    path = Path(path)
    names = (f"damaged-{number}{path.name}" for number in itertools.chain([""], map("{}-".format, itertools.count(2))))
    return path.replace(next(place for place in map(path.with_name, names) if not os.path.lexists(place)))


def delete_left_over(folder, pattern=".*.tmp"):
    """Delete what a kill has left of files that were being written into the folder."""
    for left_over in filter(Path.is_file, Path(folder).glob(pattern)):
        left_over.unlink(missing_ok=True)


def flush_folder(folder):
    """Flush a folder's entries, so that a rename in it survives a power cut; where the file system can do it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)


def _keep_mode(path, file):
    """Give a new file the permissions of the plain one that it replaces."""
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and hasattr(os, "fchmod"):
            os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode) & 0o777)
