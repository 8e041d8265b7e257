"""Find and read the four files of MNIST; files other than those that LeCun and colleagues published are refused."""

import gzip
import hashlib
import os
import zlib
from pathlib import Path

import numpy as np
import torch

from utils.errors import UserError, shortened, shown

# MD5 of the unpacked file, bytes in its header, and bytes after it
_FILES = {
    "train-images-idx3-ubyte": ("6bbc9ace898e44ae57da46a324031adb", 16, 60_000 * 28 * 28),
    "train-labels-idx1-ubyte": ("a25bea736e30d166cdddb491f175f624", 8, 60_000),
    "t10k-images-idx3-ubyte": ("2646ac647ad5339dbf082846283269ea", 16, 10_000 * 28 * 28),
    "t10k-labels-idx1-ubyte": ("27ae3e4e09519cfbb04c329615203637", 8, 10_000),
}


def read_mnist(data_dir: str | Path, training: bool, download: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (images (N, 1, 28, 28) uint8, labels (N,) int64): 60,000 for training, 10,000 for testing.

    Looks in data_dir, data_dir/mnist and data_dir/MNIST/raw (where torchvision puts them). download: fetch missing
    files into data_dir with torchvision. Raises UserError for files that are missing or altered.
    """
    part = "train" if training else "t10k"
    names = (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
    if download and not all(_find(data_dir, name) for name in names):
        _download(data_dir)
    images, labels = (_read(data_dir, name) for name in names)
    return images.view(-1, 1, 28, 28), labels.long()


def _find(data_dir, name):
    folders = [Path(data_dir), Path(data_dir, "mnist"), Path(data_dir, "MNIST", "raw")]
    candidates = [folder / file for folder in folders for file in (f"{name}.gz", name)]
    return next((path for path in candidates if os.path.isfile(path)), None)


def _read(data_dir, name):
    path = _find(data_dir, name)
    if path is None:
        raise UserError(
            f"data_dir: no {name}.gz in {shown(data_dir)}, nor in mnist/ or MNIST/raw/ below it; "
            'give "data/", where the project keeps MNIST, or set "download": true'
        )
    checksum, header_bytes, num_bytes = _FILES[name]
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(header_bytes + num_bytes + 1)  # one byte more shows a longer file without unpacking it
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{shown(path)}: damaged: {shown(error)}; put the original file in its place") from None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != checksum:
        raise UserError(
            f"{shown(path)}: damaged or altered: its MD5 is not {checksum}; put the original file in its place"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header_bytes).copy())


def _download(data_dir):
    from torchvision.datasets import MNIST

    try:
        MNIST(data_dir, download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"data_dir: cannot download MNIST into {shown(data_dir)}: {shortened(error)}") from error
