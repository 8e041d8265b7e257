"""Torch files: written for any device, and read only if they claim no more memory than their bytes account for.

torch's reader allocates memory by the sizes that a file states: those of the archive's entries, and those of the
storages and tensors in its pickle. A small file could so take any amount of memory.
"""

import contextlib
import contextvars
import encodings.cp437  # noqa: F401  zipfile needs it, and a stranger's file should import nothing
import functools
import io
import os
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from utils.errors import CheckpointError, Refused
from utils.runs.pickle_claims import Claims

_INSTRUCTIONS = 2_000_000
_INSTRUCTIONS_PER_BYTE = 4  # above the cost of any honest pickle: an empty dict with its memo entry costs the most
_EXPANDED_BYTES = 2**26
_PICKLES_BEFORE_STORAGES = 5  # in the format before torch 1.6
_END_BYTES, _END64_BYTES = 22, 76  # of an archive's end record; of the two records before it in a ZIP64 archive
_MOST_COMMENT_BYTES = 2**16
_NAME_LENGTH_AT = 26  # in the 30 bytes before an entry's name; its extra field's length follows
_ZIP64, _UNICODE_PATH = 0x0001, 0x7075  # kinds of extra fields


_writes_for_cpu = contextvars.ContextVar("_writes_for_cpu", default=False)


def write_torch_file(state: Any, file: Any) -> None:
    """Do torch.save(state, file), as if all tensors were on the CPU: torch.load then needs no other device.

    file: has write and flush.
    """
    import torch

    _let_files_be_for_cpu()
    before = _writes_for_cpu.set(True)
    try:
        torch.save(state, file)
    finally:
        _writes_for_cpu.reset(before)


@functools.cache
def _let_files_be_for_cpu():
    """Have torch write "cpu" as the place of each storage, which it copies to the CPU one by one, while we save."""
    import torch

    # torch asks the least number first, and compares functions of equal ones, which is an error
    torch.serialization.register_package(-id(_place_to_write), _place_to_write, lambda storage, location: None)


def _place_to_write(storage):
    return "cpu" if _writes_for_cpu.get() else None


@contextlib.contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Raise each error of reading the file as a CheckpointError, in one line that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except FileNotFoundError:  # since it was found: a run that still trains deletes its older ones
        raise CheckpointError(f"{path}: was deleted while it was read; give a newer checkpoint") from None
    except Exception as error:  # a damaged or hostile file makes torch's reader raise errors of any kind
        name = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it refers to {name[1]}" if name else "its content is not that of a checkpoint"
        reason = error if isinstance(error, Refused) else reason
        raise CheckpointError(f"{path}: refused: {reason}; only tensors and plain values are read") from error


def read_torch_file(path: Path, stand_in: Callable[[str], Any] = lambda name: None) -> Any:
    """Return torch.load(path, weights_only=True), tensors on the CPU, using a small multiple of the file's size.

    stand_in: returns the inert stand-in for the class of a dotted name, None for a name that is refused. Raises Refused
    for a file that claims more than it holds, and errors of many kinds for one that is not torch's.
    """
    import torch

    stand_ins = [(stand_in(name), name) for name in require_sound(path, stand_in)]
    with _allowed_alone(stand_ins), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Validating sparse tensor invariants", UserWarning)
        return torch.load(path, map_location="cpu", weights_only=True)


def allowed_name(entry: Any) -> str:
    """Return the dotted name of a class that torch.load allows: an entry of torch.serialization.get_safe_globals()."""
    return entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}"


@contextlib.contextmanager
def _allowed_alone(pairs):
    """Within it torch.load takes the (class, name) pairs, whatever a script has allowed under these names."""
    from torch import serialization

    names = {name for _, name in pairs}
    before = serialization.get_safe_globals()
    hidden = [entry for entry in before if allowed_name(entry) in names]
    if hidden:  # torch would take any of two classes of one name
        serialization.clear_safe_globals()
        serialization.add_safe_globals([entry for entry in before if entry not in hidden])
    try:
        with serialization.safe_globals(pairs):
            yield
    finally:
        serialization.add_safe_globals(hidden)


def require_sound(path: Path, stand_in: Callable[[str], Any]) -> list[str]:
    """Return the names in the file for which there is a stand-in. Raises as read_torch_file does."""
    with open(path, "rb") as file:
        num_bytes = os.fstat(file.fileno()).st_size
        read = _read_archive if file.read(4) == b"PK\3\4" else _read_pickles
        file.seek(0)
        claims = read(file, num_bytes, stand_in)
    if claims.expanded_bytes > num_bytes + _EXPANDED_BYTES:
        raise Refused("its tensors are larger than their storages")
    return sorted(claims.records)


def _read_archive(file, num_bytes, stand_in):
    """Claims of a zip archive: the pickle is one entry, and each storage another one."""
    _require_one_directory(file, num_bytes)
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
    folder = infos[0].orig_filename.partition("/")[0] + "/"
    # orig_filename is what torch reads; Python may take filename from an extra field, and ends it at a NUL
    entries = {info.orig_filename.removeprefix(folder): info for info in infos}
    in_folder = all(info.orig_filename.startswith(folder) and info.orig_filename.isprintable() for info in infos)
    if not in_folder or not all(name.isascii() for name in entries):
        raise Refused("its entries are not in one folder, under plain names")
    if len({name.lower() for name in entries}) < len(infos):  # torch's reader ignores the case
        raise Refused("two of its entries have one name")
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise Refused("its entries are compressed")
        if info.header_offset < end:
            raise Refused("its entries overlap")
        _require_one_name_and_size(info.extra)
        end = info.header_offset + info.file_size
    if end > num_bytes:
        raise Refused("its entries are larger than the file")
    pickled = _content(file, entries["data.pkl"])
    claims = Claims(stand_in, _INSTRUCTIONS + _INSTRUCTIONS_PER_BYTE * len(pickled))
    claims.read(io.BytesIO(pickled))
    for key, storage in claims.storages.items():
        if storage.num_bytes != entries[f"data/{key}"].file_size:
            raise Refused("a storage has another size than its bytes")
    return claims


def _require_one_name_and_size(extra):
    """Raise Refused if Python and torch could read different names or sizes from an entry's extra fields."""
    kinds = []
    while len(extra) >= 4:
        kind, num_bytes = struct.unpack_from("<2H", extra)
        kinds.append(kind)
        extra = extra[4 + num_bytes :]
    if _UNICODE_PATH in kinds or kinds.count(_ZIP64) > 1:
        raise Refused("an extra field gives one of its entries a second name or size")


def _content(file, info):
    """The bytes of an entry, without the check of their CRC-32, which torch does not make either.

    set_crc32_options(False) makes torch.save write sums of its own kind.
    """
    file.seek(info.header_offset + _NAME_LENGTH_AT)
    file.seek(sum(struct.unpack("<2H", file.read(4))), os.SEEK_CUR)
    return file.read(info.file_size)


def _require_one_directory(file, num_bytes):
    """Raise Refused unless the archive's only directory is at its end.

    Python's reader and torch's would otherwise look at different ones. The records are those of PKWARE's APPNOTE.TXT:
    4.3.16 (end), 4.3.14 and 4.3.15 (ZIP64).
    """
    file.seek(max(0, num_bytes - _MOST_COMMENT_BYTES - _END_BYTES - _END64_BYTES))
    tail = bytes(_END64_BYTES) + file.read()
    at = tail.rfind(b"PK\5\6")
    end = num_bytes - len(tail) + at
    size, place, comment_bytes = struct.unpack_from("<2LH", tail, at + 12)
    is_one = at + _END_BYTES + comment_bytes == len(tail)
    if tail[at - 20 :].startswith(b"PK\6\7"):
        end -= _END64_BYTES
        size, place, _, _, named = struct.unpack_from("<2Q2LQ", tail, at - 36)
        is_one &= named == end and tail[at - _END64_BYTES :].startswith(b"PK\6\6")
    if not is_one or place + size != end:
        raise Refused("its directory is not at its end")


def _read_pickles(file, num_bytes, stand_in):
    """Claims of a file of torch before 1.6: several pickles, followed by the bytes of all storages."""
    claims = Claims(stand_in, _INSTRUCTIONS + _INSTRUCTIONS_PER_BYTE * num_bytes)
    for _ in range(_PICKLES_BEFORE_STORAGES):
        claims.read(file)
    if sum(storage.num_bytes for storage in claims.storages.values()) > num_bytes - file.tell():
        raise Refused("its storages are larger than the file")
    return claims
