"""CIFAR-10, read from the plain bytes of its binary version, shifted and mirrored at random for training."""

import os
import tarfile
from pathlib import Path

import numpy as np
import torch

from base import BaseDataLoader, InMemoryDataset
from base.data.augmentations import RandomShift
from base.data.inputs import ImageInput
from base.data.local_files import local_file
from utils.errors import UserError, shortened, shown

_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_FOLDER = "cifar-10-batches-bin"  # in the archive
_FILES = {True: [f"data_batch_{i}.bin" for i in range(1, 6)], False: ["test_batch.bin"]}  # by training
_MOST_RECORDS = 10_000  # in a file
_RECORD_BYTES = 1 + 3 * 32 * 32  # a label, then the red, the green and the blue pixels


class Cifar10DataLoader(BaseDataLoader):
    """Batches of CIFAR-10 images (N, 3, 32, 32) float32, normalized, and labels (N,) int64.

    data_dir: folder of the six .bin files, or of cifar-10-batches-bin/.
    training: serve the 50,000 training images instead of the 10,000 test images.
    augment: in training, shift images by up to four pixels and mirror half of them.
    download: fetch missing files into data_dir.

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
        augment: bool = True,
        download: bool = False,
        device_resident: bool = False,
        fold: str | None = None,
        drop_last: bool = False,
    ) -> None:
        arrays = read_cifar10(data_dir, training, download)
        mean, std = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]  # of the training pixels
        self.input = ImageInput(3, 32, 32, mean, std)
        self.classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
        plain = InMemoryDataset(*arrays, batch_transform=self.input)
        shifted = InMemoryDataset(*arrays, batch_transform=[RandomShift(4, flip=True), self.input])
        super().__init__(
            shifted if augment and training else plain,
            batch_size,
            shuffle,
            validation_split,
            num_workers,
            valid_dataset=plain,
            device_resident=device_resident,
            drop_last=drop_last,
            fold=fold,
        )


def read_cifar10(data_dir: str | Path, training: bool, download: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (images (N, 3, 32, 32) uint8, labels (N,) int64). Raises UserError for missing or damaged files."""
    folder = _find(data_dir, training)
    if folder is None and download:
        _download(Path(data_dir))
        folder = _find(data_dir, training)
    if folder is None:
        raise UserError(
            f"data_dir: no {_FILES[training][0]} in {shown(data_dir)}, nor in {_FOLDER}/ below it; "
            'set "download": true, or unpack cifar-10-binary.tar.gz there'
        )
    records = np.concatenate([_read(folder / name) for name in _FILES[training]])
    images = records[:, 1:].reshape(-1, 3, 32, 32)
    return torch.from_numpy(images), torch.from_numpy(records[:, 0]).long()


def _find(data_dir, training):
    folders = [Path(data_dir), Path(data_dir, _FOLDER)]
    return next((folder for folder in folders if os.path.isfile(folder / _FILES[training][0])), None)


def _read(path):
    """The records (N, 3073) uint8 of a file."""
    path = local_file(path, "data_dir", "the images")
    try:
        content = np.fromfile(path, np.uint8, count=_MOST_RECORDS * _RECORD_BYTES)
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot read it: {error.strerror}") from None
    if not len(content) or len(content) % _RECORD_BYTES or content[::_RECORD_BYTES].max() > 9:
        raise UserError(f"{shown(path)}: damaged: it should be labels from 0 to 9, each before an image's 3,072 bytes")
    return content.reshape(-1, _RECORD_BYTES)


def _download(data_dir):
    """Download an archive, check its MD5, and unpack the six files into data_dir/cifar-10-batches-bin/."""
    from torchvision.datasets.utils import download_url

    try:
        download_url(_URL, data_dir, md5=_MD5)
        with tarfile.open(data_dir / Path(_URL).name) as archive:
            (data_dir / _FOLDER).mkdir(exist_ok=True)
            for name in [*_FILES[True], *_FILES[False]]:
                file = archive.extractfile(f"{_FOLDER}/{name}")
                assert file is not None  # the checked archive holds ordinary files
                (data_dir / _FOLDER / name).write_bytes(file.read())
    except (OSError, RuntimeError) as error:
        raise UserError(f"data_dir: cannot download CIFAR-10 into {shown(data_dir)}: {shortened(error)}") from error
