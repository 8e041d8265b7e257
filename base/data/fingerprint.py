"""fingerprint: whether a dataset still holds the same samples in the same order."""

import hashlib
import os
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

_ROWS = 1000  # of each array, spread evenly


def fingerprint(dataset: Any) -> str:
    """Return a hash of a dataset's samples in their order, without reading any through the dataset.

    It covers the length and what datasets keep in attributes: arrays, targets, and lists of files as in torchvision.
    Of an array (N, ...) up to 1,000 rows are hashed, of a file its name and that of its folder. Of a dataset without
    such attributes only the length is known.
    """
    digest = hashlib.blake2b(digest_size=16)
    while type(dataset) is Subset:
        digest.update(np.asarray(dataset.indices).tobytes())
        dataset = dataset.dataset
    digest.update(str(len(dataset)).encode())
    for name in ("arrays", "samples", "files", "paths", "data", "targets", "labels"):
        value = getattr(dataset, name, None)
        for part in value if name == "arrays" and isinstance(value, (list, tuple)) else [value]:
            _add(digest, part)
    return digest.hexdigest()


def fingerprint_of_part(samples: Any, total: int, others: bool = False) -> str:
    """Return a hash of which of `total` samples are used, in any order.

    samples: (M,) their indices; None for all. others: hash those that are not used instead.
    """
    used = np.full(total, samples is None)
    if samples is not None:
        used[np.asarray(samples)] = True
    return hashlib.blake2b(np.packbits(used != others).tobytes(), digest_size=16).hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        rows = _few(value).cpu()
        value = (rows.view(torch.int16) if rows.dtype == torch.bfloat16 else rows).numpy()  # NumPy has no bfloat16
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        digest.update(f"{value.dtype.str}{value.shape}".encode())
        digest.update(np.ascontiguousarray(_few(value)).tobytes())
    elif isinstance(value, (list, tuple)):
        entries = (entry[0] if isinstance(entry, tuple) and entry else entry for entry in value)
        names = (os.sep.join(str(entry).rsplit(os.sep, 2)[-2:]) for entry in entries)
        digest.update("\0".join(names).encode(errors="surrogateescape"))


def _few(rows: Any) -> Any:
    """Up to 1,000 rows, spread evenly; all rows if each is one number."""
    return rows if len(getattr(rows, "shape", ())) < 2 else rows[:: max(1, -(-len(rows) // _ROWS))]
