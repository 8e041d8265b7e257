"""The entries of a zip archive as torch.save writes one, each held against the bytes that are there.

torch's reader takes memory by the sizes that the archive's directory names. Here they are read the strictest way, so
that torch cannot understand them otherwise: one directory at the archive's end, entries that are stored as they are,
inside the file and beside each other, under names that differ.
"""

import struct
from dataclasses import dataclass

from utils.errors import Refused

_END = struct.Struct("<4s4H2LH")  # APPNOTE.TXT of PKWARE, 4.3.16: numbers of disks and of entries, size and place
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_PLACE_OF_END64 = struct.Struct("<4sLQL")  # 4.3.15
_ENTRY = struct.Struct("<4s6H3L5H2L")  # 4.3.12
_BEFORE_DATA = struct.Struct("<4s5H3L2H")  # 4.3.7
_MOST_COMMENT = 2**16
_MAX_32_BITS = 2**32 - 1
_ENCRYPTED = 1


@dataclass(frozen=True)
class Record:
    start: int
    """Where its bytes begin in the file."""
    num_bytes: int


def records_of(file, num_bytes):
    """{name: Record} of the archive of so many bytes, names without the folder that all are in. Raises Refused."""
    place, size, number = _directory(file, num_bytes)
    file.seek(place)
    entries = list(_entries(file.read(size), number))
    names = [name for name, _, _ in entries]
    folder = names[0].partition("/")[0] + "/" if names else ""
    if not all(name.startswith(folder) and name.isprintable() for name in names):
        raise Refused("its entries are not in one folder")
    if len({name.lower() for name in names}) < len(names):  # torch's reader does not tell them apart
        raise Refused("two of its entries have one name")
    end, records = 0, {}
    for name, header, size in sorted(entries, key=lambda entry: entry[1]):
        start = _start_of_data(file, header)
        if header < end or start + size > place:
            raise Refused("its entries overlap, or are larger than the file")
        end = start + size
        records[name.removeprefix(folder)] = Record(start, size)
    return records


def _directory(file, num_bytes):
    """(place, bytes, number of entries) of the archive's directory."""
    file.seek(max(0, num_bytes - _END.size - _MOST_COMMENT))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")  # where both readers look
    if at < 0 or len(tail) - at < _END.size:
        raise Refused("it has no directory of its entries")
    _, disk, first_disk, here, number, size, place, comment = _END.unpack_from(tail, at)
    end = num_bytes - len(tail) + at
    if (disk, first_disk, here) != (0, 0, number) or len(tail) - at - _END.size != comment:
        raise Refused("its directory is not at its end")
    if at >= _PLACE_OF_END64.size and tail[at - _PLACE_OF_END64.size :].startswith(b"PK\6\7"):
        end, place, size, number = _directory64(file, end - _PLACE_OF_END64.size, (place, size, number))
    if place + size != end:
        raise Refused("its directory is not at its end")
    return place, size, number


def _directory64(file, end, in_32_bits):
    """(its end, place, bytes, number of entries) of the directory of a large archive, or of one written like that."""
    file.seek(max(0, end - _END64.size))
    signature, _, _, _, disk, first_disk, here, number, size, place = _END64.unpack(file.read(_END64.size))
    _, _, named, _ = _PLACE_OF_END64.unpack(file.read(_PLACE_OF_END64.size))
    cut = (min(place, _MAX_32_BITS), min(size, _MAX_32_BITS), min(number, 2**16 - 1))
    if signature != b"PK\6\6" or named != end - _END64.size or (disk, first_disk, here) != (0, 0, number):
        raise Refused("its directory is not at its end")
    if cut != in_32_bits:
        raise Refused("it has two directories that differ")
    return named, place, size, number


def _entries(directory, number):
    """(name, place of its header, bytes) of each."""
    at = 0
    for _ in range(number):
        fields = _ENTRY.unpack_from(directory, at)
        signature, flags, method, (packed, size), header = fields[0], fields[3], fields[4], fields[8:10], fields[-1]
        len_name, len_extra, len_comment = fields[10:13]
        at += _ENTRY.size
        name = directory[at : at + len_name].decode("utf-8")
        extra = directory[at + len_name : at + len_name + len_extra]
        at += len_name + len_extra + len_comment
        size, packed, header = _in_64_bits(extra, [size, packed, header])
        if signature != b"PK\1\2" or method != 0 or packed != size or flags & _ENCRYPTED:
            raise Refused("its entries are compressed")
        yield name, header, size
    if at != len(directory):
        raise Refused("its directory names another number of entries")


def _in_64_bits(extra, fields):
    """The fields, those that need it taken from the entry's extra ones (4.5.3)."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            large = iter(struct.unpack(f"<{length // 8}Q", extra[4 : 4 + length // 8 * 8]))
            return [next(large, field) if field == _MAX_32_BITS else field for field in fields]
        extra = extra[4 + length :]
    return fields


def _start_of_data(file, header):
    file.seek(header)
    fields = _BEFORE_DATA.unpack(file.read(_BEFORE_DATA.size))
    if fields[0] != b"PK\3\4":
        raise Refused("its directory does not say where its entries are")
    return header + _BEFORE_DATA.size + fields[-2] + fields[-1]
