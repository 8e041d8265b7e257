"""Checks of the files that a config names: files on this machine that do not unpack to fill its memory."""

import bz2
import gzip
import lzma
import os
import zipfile
import zlib

from utils.errors import UserError, shown

# What the readers of compressed files raise for damaged or hostile ones.
UNPACK_ERRORS = (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)

_MAX_RATIO = 100  # unpacked to packed; tables and arrays that are worth learning from shrink to about a tenth
_ALWAYS_BYTES = 1_000_000_000  # may be unpacked at any ratio
_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_BLOCK_BYTES = 1 << 20


def local_file(path: str | os.PathLike, argument: str, what: str) -> str:
    """Return the path with "~" expanded. Raises UserError, naming the argument, unless it is an ordinary file.

    Addresses such as "s3://..." are refused, and so are devices and pipes, whose reader might wait or never finish.
    argument: "" if no argument is to be named. what: what the file holds, for messages, such as "the table".
    """
    place = f"{argument}: " if argument else ""
    path = os.path.expanduser(os.fspath(path))
    if "://" in path:
        raise UserError(f"{place}{shown(path)}: is an address; give the path of a file on this machine")
    if not os.path.isfile(path):
        reason = "not an ordinary file" if os.path.exists(path) else "No such file or directory"
        raise UserError(f"{place}{shown(path)}: cannot read {what}: {reason}")
    return path


def require_unpackable(path: str, argument: str) -> None:
    """Raise UserError for an archive of files, and for a compressed file that unpacks to far more than its size.

    A damaged file raises one of UNPACK_ERRORS.
    """
    kind = os.path.splitext(path)[1].lower()
    if kind in (".zst", ".tar") or path.lower().endswith((".tar.gz", ".tar.bz2", ".tar.xz")):
        raise UserError(f"{argument}: {shown(path)}: unpack it first, and give what it holds")
    packed = os.path.getsize(path)
    if kind == ".zip":
        with zipfile.ZipFile(path) as archive:
            require_ratio(packed, sum(entry.file_size for entry in archive.infolist()), path, argument)
    elif kind in _OPENERS:
        with _OPENERS[kind](path) as file:
            unpacked = 0
            while block := file.read(_BLOCK_BYTES):
                unpacked += len(block)
                require_ratio(packed, unpacked, path, argument)


def require_ratio(packed: int, unpacked: int, path: str, argument: str) -> None:
    """Raise UserError if the ratio of the sizes, in bytes, is larger than that of any ordinary file."""
    if unpacked > max(_ALWAYS_BYTES, _MAX_RATIO * packed):
        raise UserError(
            f"{argument}: {shown(path)}: unpacks to more than {_MAX_RATIO} times its size; if that is right, unpack it"
        )
