"""Read a torch file, after what it claims has been held against the bytes that it has."""

import io
import os
import warnings

from utils.errors import Refused
from utils.runs.pickle_claims import Claims
from utils.runs.zip_records import records_of

_INSTRUCTIONS = 2_000_000
_INSTRUCTIONS_PER_BYTE = 4  # more than any pickle has of what costs them, as of empty dicts with a place of their own
_STRETCHED_BYTES = 2**26
_PICKLES_BEFORE_STORAGES = 5  # in the format before torch 1.6


def read_torch_file(path, records=()):
    """What torch.load(weights_only=True) gives, tensors on the CPU, for a small multiple of the file's size in memory.

    records: names of classes that stand for something inert by now. Raises Refused for a file that claims to hold more
    than it does, and errors of many kinds for what is no file of torch's.
    """
    import torch

    _require_sound(path, frozenset(records))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Validating sparse tensor invariants", UserWarning)
        return torch.load(path, map_location="cpu", weights_only=True)


def _require_sound(path, records):
    """Raise Refused, or another error, for what would take memory that the file has no bytes for.

    Those are compressed entries, tensors and storages that are larger than their bytes, and calls of anything but what
    makes tensors and plain values.
    """
    with open(path, "rb") as file:
        num_bytes = os.fstat(file.fileno()).st_size
        zipped = file.read(4) == b"PK\3\4"
        claims = _claims_of_zip(file, num_bytes, records) if zipped else _claims_of_pickles(file, num_bytes, records)
    if claims.stretched_bytes > num_bytes + _STRETCHED_BYTES:
        raise Refused("its tensors are larger than their storages")


def _claims_of_zip(file, num_bytes, records):
    entries = records_of(file, num_bytes)
    pickled = entries["data.pkl"]
    claims = Claims(records, _INSTRUCTIONS + _INSTRUCTIONS_PER_BYTE * pickled.num_bytes)
    file.seek(pickled.start)
    claims.read(io.BytesIO(file.read(pickled.num_bytes)))
    for key, storage in claims.storages.items():
        if storage.num_bytes != entries[f"data/{key}"].num_bytes:
            raise Refused("a storage has another size than its bytes")
    return claims


def _claims_of_pickles(file, num_bytes, records):
    """The same for a file of torch before 1.6: some pickles, and behind them the bytes of all storages."""
    claims = Claims(records, _INSTRUCTIONS + _INSTRUCTIONS_PER_BYTE * num_bytes)
    file.seek(0)
    for _ in range(_PICKLES_BEFORE_STORAGES):
        claims.read(file)
    if sum(storage.num_bytes for storage in claims.storages.values()) > num_bytes - file.tell():
        raise Refused("its storages are larger than the file")
    return claims
