"""MNIST for autoencoders: the target of an image is the image."""

from base import BaseDataLoader, InMemoryDataset
from base.data.mnist_files import read_mnist


class MnistToItself(BaseDataLoader):
    """MNIST in batches of images (N, 1, 28, 28) float32, from 0 to 1, twice: as data and as target.

    The arguments are as for MnistDataLoader.
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
    ):
        images, _ = read_mnist(data_dir, training, download)
        dataset = ToItself(images, batch_transform=_from_0_to_1)
        super().__init__(dataset, batch_size, shuffle, validation_split, num_workers, fold=fold)


class ToItself(InMemoryDataset):
    """An InMemoryDataset of one array, whose target is the sample."""

    def __getitems__(self, indices, seeder=None):
        """The batch, twice."""
        (samples,) = super().__getitems__(indices, seeder)
        return samples, samples


def _from_0_to_1(images):
    return images.float() / 255
