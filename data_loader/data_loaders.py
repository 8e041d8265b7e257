"""YOURS: the classes that "data_loader" in a config names. A loader yields (data, target) batches."""

import torch

from base import BaseDataLoader, InMemoryDataset
from base.data.augmentations import RandomShift
from base.data.mnist_files import read_mnist


class MnistDataLoader(BaseDataLoader):
    """Batches of MNIST images (N, 1, 28, 28) float32, normalized, and labels (N,) int64.

    data_dir: folder of the four files.
    training: serve the 60,000 training images instead of the 10,000 test images.
    download: fetch missing files into data_dir.
    augment: in training, shift images by up to two pixels.
    stratify: split so that both parts get the same share of each digit.
    balance_classes: draw every digit equally often in training.

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
        download: bool = False,
        device_resident: bool = False,
        augment: bool = False,
        fold: str | None = None,
        stratify: bool = False,
        balance_classes: bool = False,
    ) -> None:
        images, labels = read_mnist(data_dir, training, download)
        plain = InMemoryDataset(images, labels, batch_transform=normalize)
        shifted = InMemoryDataset(images, labels, batch_transform=[RandomShift(2), normalize]) if augment else plain
        super().__init__(
            shifted if training else plain,
            batch_size,
            shuffle,
            validation_split,
            num_workers,
            valid_dataset=plain,
            device_resident=device_resident,
            fold=fold,
            stratify=labels if stratify else None,
            balance_classes=labels if balance_classes else None,
        )


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images as float32, with mean 0 and standard deviation 1 over all training pixels."""
    mean, std = 0.1307 * 255, 0.3081 * 255
    return images.float().sub_(mean).div_(std)
