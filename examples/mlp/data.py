"""MNIST with the split given as the share to train on."""

from data_loader.data_loaders import MnistDataLoader
from utils.errors import UserError


class MnistByRatio(MnistDataLoader):
    """A MnistDataLoader that trains on the share train_ratio of the 60,000 images and validates on the rest.

    The other arguments are those of MnistDataLoader.
    """

    def __init__(
        self,
        data_dir: str,
        batch_size: int,
        shuffle: bool = True,
        train_ratio: float = 0.8,
        num_workers: int = 0,
        training: bool = True,
        download: bool = False,
        device_resident: bool = False,
    ) -> None:
        validation_samples = round(60_000 * (1 - train_ratio)) if training else 0
        if not 0 < train_ratio <= 1 or (training and validation_samples == 60_000):
            raise UserError(f"train_ratio: got {train_ratio}; it should be a share above 0 and up to 1, such as 0.8")
        super().__init__(
            data_dir,
            batch_size,
            shuffle,
            validation_samples,
            num_workers,
            training=training,
            download=download,
            device_resident=device_resident,
        )
