"""MNIST for autoencoders: the target of an image is the image itself."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from base import BaseDataLoader, InMemoryDataset
from base.data.inputs import ImageInput
from base.data.mnist_files import read_mnist

if TYPE_CHECKING:
    from base.data.seeded import SampleSeeder


class MnistToItself(BaseDataLoader):
    """Batches of MNIST images (N, 1, 28, 28) float32, from 0 to 1, as data and again as target.

    The arguments are those of MnistDataLoader.
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
        fold: str | None = None,
    ) -> None:
        images, _ = read_mnist(data_dir, training, download)
        self.input = ImageInput(1, 28, 28, mean=[0.0], std=[1.0], background="dark", margin=4)
        dataset = ToItself(images, batch_transform=self.input)
        super().__init__(dataset, batch_size, shuffle, validation_split, num_workers, fold=fold)


class ToItself(InMemoryDataset):
    """An InMemoryDataset of one array; the target of a sample is the sample."""

    def __getitems__(self, indices: Sequence[int], seeder: "SampleSeeder | None" = None) -> tuple[torch.Tensor, ...]:
        """Return the batch twice, as data and as target."""
        (samples,) = super().__getitems__(indices, seeder)
        return samples, samples
