"""YOURS: the classes that "data_loader" in a config names. A loader yields (data, target) batches."""

from base import BaseDataLoader, InMemoryDataset
from base.data.augmentations import RandomShift
from base.data.inputs import ImageInput
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
        drop_last: bool = False,
    ) -> None:
        images, labels = read_mnist(data_dir, training, download)
        self.classes = list("0123456789")
        self.input = ImageInput(1, 28, 28, mean=[0.1307], std=[0.3081], background="dark", margin=4)
        plain = InMemoryDataset(images, labels, batch_transform=self.input)
        shifted = InMemoryDataset(images, labels, batch_transform=[RandomShift(2), self.input]) if augment else plain
        super().__init__(
            shifted if training else plain,
            batch_size,
            shuffle,
            validation_split,
            num_workers,
            valid_dataset=plain,
            device_resident=device_resident,
            drop_last=drop_last,
            fold=fold,
            stratify=labels if stratify else None,
            balance_classes=labels if balance_classes else None,
        )
