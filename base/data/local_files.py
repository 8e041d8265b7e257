"""What a config may give a loader to read: a file on this machine, and none that unpacks to fill its memory."""

import bz2
import gzip
import lzma
import os
import zipfile
import zlib

from utils.errors import UserError, shown

# What damaged or hostile files make the readers of compressed ones raise.
UNPACK_ERRORS = (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)

_MAX_RATIO = 100  # unpacked to packed; tables and arrays that are worth learning from shrink to a tenth or so
_ALWAYS_BYTES = 1_000_000_000  # that may be unpacked whatever the ratio
_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_BLOCK_BYTES = 1 << 20


def local_file(path, argument, what):
    """The path, "~" expanded, of an ordinary file. Raises UserError, naming the argument, unless it is one.

    Not so are addresses, as "s3://...", and devices and pipes, at which a reader would wait or never come to an end.
    what: the file holds, for errors, as "the table".
    """
    path = os.path.expanduser(os.fspath(path))
    if "://" in path:
        raise UserError(f"{argument}: {shown(path)}: is an address; give the path of a file on this machine")
    if not os.path.exists(path):
        raise UserError(f"{argument}: {shown(path)}: cannot read {what}: No such file or directory")
    if not os.path.isfile(path):
        raise UserError(f"{argument}: {shown(path)}: cannot read {what}: not an ordinary file")
    return path


def require_unpackable(path, argument):
    """Raise UserError for a compressed file that unpacks to far more than it seems, or is an archive.

    One that is damaged raises some of UNPACK_ERRORS.
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


def require_ratio(packed, unpacked, path, argument):
    """Raise UserError for numbers of bytes that no honest file has."""
    if unpacked > max(_ALWAYS_BYTES, _MAX_RATIO * packed):
        raise UserError(
            f"{argument}: {shown(path)}: unpacks to more than {_MAX_RATIO} times its size; if that is right, unpack it"
        )
