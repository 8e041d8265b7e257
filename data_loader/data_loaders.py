"""YOURS: the classes that "data_loader" in a config names. A loader yields (data, target) batches."""

from base import BaseDataLoader, InMemoryDataset
from data_loader.mnist_files import read_mnist


class MnistDataLoader(BaseDataLoader):
    """MNIST in batches of images (N, 1, 28, 28) float32, normalized, and labels (N,) int64.

    data_dir: folder of the four files. training: the 60,000 training images instead of the 10,000 test images.
    download: fetch the files into data_dir if they are not there. device_resident: keep the images on the GPU.
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
    ):
        dataset = InMemoryDataset(*read_mnist(data_dir, training, download), transform=normalize)
        super().__init__(dataset, batch_size, shuffle, validation_split, num_workers, device_resident=device_resident)


def normalize(images):
    """Images as float32 with the mean 0 and the standard deviation 1 of all training pixels. images: uint8."""
    mean, std = 0.1307 * 255, 0.3081 * 255
    return images.float().sub_(mean).div_(std)
