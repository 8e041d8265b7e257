"""Fashion-MNIST, read from the four files that its authors published."""

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
import torch

from base import BaseDataLoader, InMemoryDataset
from base.data.augmentations import RandomShift
from base.data.inputs import ImageInput
from utils.errors import UserError, shortened, shown

DEBIAN = "/usr/share/datasets/fashion-mnist"  # where the package dataset-fashion-mnist puts the files
_MOST_BYTES = 60_000 * 28 * 28


class FashionMnistDataLoader(BaseDataLoader):
    """Batches of images (N, 1, 28, 28) float32, normalized, and labels (N,) int64.

    data_dir: folder of the four files, as train-images-idx3-ubyte.gz. Files that are not there are looked for where
        Debian's package puts them.
    training: serve the 60,000 training images instead of the 10,000 test images.
    augment: in training, shift images by up to two pixels and mirror half of them.

    The other arguments are those of BaseDataLoader.
    """

    def __init__(
        self,
        data_dir: str,
        batch_size: int,
        shuffle: bool = True,
        validation_split: float = 0.0,
        num_workers: int = 0,
        training: bool = True,
        augment: bool = False,
        device_resident: bool = False,
    ) -> None:
        part = "train" if training else "t10k"
        images = read_idx(_find(data_dir, f"{part}-images-idx3-ubyte.gz"), 3)[:, None]
        labels = read_idx(_find(data_dir, f"{part}-labels-idx1-ubyte.gz"), 1).long()
        self.classes = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
        self.classes += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
        self.input = ImageInput(1, 28, 28, mean=[0.2860], std=[0.3530])  # of the training pixels
        plain = InMemoryDataset(images, labels, batch_transform=self.input)
        varied = InMemoryDataset(images, labels, batch_transform=[RandomShift(2, flip=True), self.input])
        super().__init__(
            varied if augment and training else plain,
            batch_size,
            shuffle,
            validation_split,
            num_workers,
            valid_dataset=plain,
            device_resident=device_resident,
        )


def read_idx(path: str | Path, dimensions: int) -> torch.Tensor:
    """Return the uint8 array of a gzipped file in MNIST's format: 0, 0, 8, the dimensions, each size, and the values.

    Raises UserError for a file that is not one of so many dimensions.
    """
    try:
        with gzip.open(path) as file:
            magic = file.read(4)
            sizes = np.frombuffer(file.read(4 * dimensions), ">u4").tolist()
            content = file.read(_MOST_BYTES + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{shown(path)}: damaged: {shortened(error)}") from None
    if magic != bytes([0, 0, 8, dimensions]) or len(content) != math.prod(sizes):
        raise UserError(f"{shown(path)}: damaged: its header does not fit the {len(content)} bytes after it")
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy()).view(*sizes)


def _find(data_dir, name):
    places = [Path(data_dir, name), Path(DEBIAN, name)]
    found = next((path for path in places if os.path.isfile(path)), None)
    if found is None:
        remedy = (
            "put the files of github.com/zalandoresearch/fashion-mnist there, or: apt install dataset-fashion-mnist"
        )
        raise UserError(f"data_dir: no {name} in {shown(data_dir)}; {remedy}")
    return found
