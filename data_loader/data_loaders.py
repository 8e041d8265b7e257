"""YOURS: the classes that "data_loader" in a config names. A loader yields (data, target) batches."""

from torch.utils.data import Dataset

from base import BaseDataLoader
from data_loader.mnist_files import read_mnist


class MnistDataLoader(BaseDataLoader):
    """MNIST in batches of images (N, 1, 28, 28) float32, normalized, and labels (N,) int64.

    data_dir: folder of the four files. training: the 60,000 training images instead of the 10,000 test images.
    download: fetch the files into data_dir if they are not there.
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
    ):
        dataset = MnistDataset(*read_mnist(data_dir, training, download))
        super().__init__(dataset, batch_size, shuffle, validation_split, num_workers, collate_fn=whole_batch)


class MnistDataset(Dataset):
    """Images and labels in memory, served a whole batch at a time: one tensor operation instead of one a sample."""

    mean, std = 0.1307, 0.3081  # of all training pixels, scaled to [0, 1]

    def __init__(self, images, labels):
        self.images = images
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices):
        images = self.images[indices].float()
        return images.div_(255).sub_(self.mean).div_(self.std), self.labels[indices]


def whole_batch(batch):
    """The batch as it is: the dataset has put it together already."""
    return batch
