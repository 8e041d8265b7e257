"""Files of a run: replaced whole or not at all, and never written through a link in the run's folder.

A folder of runs may come from a stranger. So a file is written under a random name, at which no link can be prepared,
and then replaces the old one; a file that grows, such as a log, is opened only if it is a plain file with one name.
"""

import contextlib
import errno
import itertools
import json
import math
import os
import secrets
import shutil
import stat
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from utils.errors import UserError, shown

if TYPE_CHECKING:
    import numpy as np

_MAX_BYTES = 1 << 28  # of a file beside the checkpoints; a stranger's may be huge and sparse
_NOT_THROUGH_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # the second: not waiting at a pipe
_BINARY = getattr(os, "O_BINARY", 0)
_IN_USE = 5, 32  # Windows' numbers for a file that another program has open: it is not replaced or deleted then
_PATIENCE_SECONDS = 5  # for that program, which may only read the file
_ABSENT = object()


@contextlib.contextmanager
def replacing(path: str | Path, what: str = "the file", error: type[UserError] = UserError) -> Iterator[BinaryIO]:
    """Yield a binary file to write; then flush it to the disk and let it replace the one at path, with its mode.

    what: the content, for the message. error: the class of UserError to raise if the system refuses; the file at path
    is unchanged then.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:  # fails at a link or an existing file
            yield file
            file.flush()
            _keep_mode(path, file)
            os.fsync(file.fileno())
        replace_file(temporary, path)
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


def replace_file(temporary: str | Path, path: str | Path) -> None:
    """Give a file the name of another, which it replaces. On Windows, first wait while another program reads that."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return os.replace(temporary, path)
        except PermissionError as error:
            if not _is_in_use(error) or time.monotonic() > until:
                raise
        time.sleep(0.05)


def delete_unless_in_use(path: str | Path) -> None:
    """Delete the file if it exists; on Windows, leave a file that another program has open."""
    try:
        Path(path).unlink(missing_ok=True)
    except PermissionError as error:
        if not _is_in_use(error):
            raise


def _is_in_use(error):
    return getattr(error, "winerror", None) in _IN_USE


def write_whole(content: str | bytes, path: str | Path, what: str = "the file") -> None:
    """Write text, as UTF-8, or bytes; a reader sees the old file or the new one, never a part of it."""
    with replacing(path, what) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def read_beside(path: str | Path, errors: str = "strict") -> str:
    """Return the text of a file beside checkpoints. Raises OSError, also unless it is a plain file, and ValueError.

    errors: what to do with bytes that are not UTF-8, as in bytes.decode.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    with open(descriptor, encoding="utf-8", errors=errors, newline="") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise OSError(errno.EINVAL, f"not a plain file of at most {_MAX_BYTES:,} bytes", str(path))
        return file.read()


def open_to_append(path: str | Path) -> BinaryIO:
    """Open a binary file to write at its end, and make it if it does not exist.

    A file with a second name, a hard link, is copied first, so that the other name keeps its content. Raises UserError
    for a link and for anything but a plain file, OSError if the system refuses.
    """
    path = Path(path)
    if path.is_symlink():
        raise UserError(f"{shown(path)}: is a link; nothing is written through one; move it away")
    if path.is_file() and path.stat().st_nlink > 1:
        if path.stat().st_size > _MAX_BYTES:  # a sparse one would fill the disk
            raise UserError(f"{shown(path)}: has a second name, a hard link, and is too large to copy; move it away")
        with open(path, "rb") as original, replacing(path) as copy:
            shutil.copyfileobj(original, copy)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | _NOT_THROUGH_LINKS | _BINARY, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{shown(path)}: not a plain file; move it away")
    return open(descriptor, "ab")


def cut(path: str | Path, length: int) -> None:
    """Cut the file after `length` bytes, opened as open_to_append does."""
    with open_to_append(path) as file:
        file.truncate(length)


def set_aside_damaged(path: str | Path) -> Path:
    """Put "damaged-" before the file's name, or "damaged-2-" and so on; return the new path."""
    path = Path(path)
    names = (f"damaged-{number}{path.name}" for number in itertools.chain([""], map("{}-".format, itertools.count(2))))
    return path.replace(next(place for place in map(path.with_name, names) if not os.path.lexists(place)))


def delete_left_over(folder: str | Path, pattern: str = ".*.tmp") -> None:
    """Delete the temporary files of writes into the folder that were killed."""
    for left_over in filter(Path.is_file, Path(folder).glob(pattern)):
        left_over.unlink(missing_ok=True)


def flush_folder(folder: str | Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut, if the file system supports it."""
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
    """Give a new file the permissions of the plain file that it replaces."""
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and hasattr(os, "fchmod"):
            os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode) & 0o777)


def ensure_dir(path: str | Path) -> None:
    """Make the folder and its parents unless they exist."""
    Path(path).mkdir(parents=True, exist_ok=True)


# ---- JSON


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file. Raises ValueError for another form, OSError if there is no such file."""
    return _parsed(Path(path).read_text(encoding="utf-8"))


def write_json(content: Any, path: str | Path) -> None:
    """Write content as indented JSON, as write_whole does."""
    write_whole(json.dumps(content, indent=4) + "\n", path)


def without_nan(value: Any) -> Any:
    """Return a value of dicts, lists and numbers with None for nan and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    """Return a line 'path: old -> new' for every value that differs between two configs."""
    lines = []
    for key in dict.fromkeys([*before, *after]):
        path = f"{where}.{key}" if where else str(key)
        old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, path)
        elif old != new:
            old, new = ("(absent)" if value is _ABSENT else json.dumps(value, default=repr) for value in (old, new))
            lines.append(f"{path}: {old} -> {new}")
    return lines


def _parsed(text):
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_arrays(path: str | Path, arrays: "dict[str, np.ndarray]") -> None:
    """Write {name: array} as a .npz file, which is complete or as it was before."""
    import numpy as np

    with replacing(path, "the outputs") as binary, zipfile.ZipFile(binary, "w") as file:
        for name, array in arrays.items():  # np.savez takes no array with the name "file"
            with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
