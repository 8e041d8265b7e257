"""Make MNIST-1D with its authors' package (python -m examples.mnist1d.data), and read it."""

import os
import sys
from pathlib import Path

import numpy as np

from base.data.arrays import ArrayDataLoader
from utils.errors import UserError, clean_exit, shown


class Mnist1dDataLoader(ArrayDataLoader):
    """Batches of series (N, 40) float32 and their digits (N,) int64.

    path: the file that write_mnist1d makes.
    training: serve the 4,000 training series instead of the 1,000 test series.

    The other arguments are those of BaseDataLoader.
    """

    def __init__(
        self,
        path: str,
        batch_size: int,
        shuffle: bool = True,
        validation_split: float = 0.0,
        num_workers: int = 0,
        training: bool = True,
        device_resident: bool = False,
    ) -> None:
        if not os.path.isfile(path):
            remedy = "make it: pip install mnist1d, then python -m examples.mnist1d.data"
            raise UserError(f"path: there is no file {shown(path)}; {remedy}")
        super().__init__(
            f"{path}:x",
            f"{path}:y",
            batch_size,
            shuffle,
            validation_split,
            num_workers,
            training,
            test_data=f"{path}:x_test",
            test_target=f"{path}:y_test",
            device_resident=device_resident,
            classes=list(range(10)),
        )


def write_mnist1d(path: Path) -> Path:
    """Write MNIST-1D with the package's own settings, seed included, and return the path.

    Arrays x (4000, 40) and x_test (1000, 40) float32, y and y_test int64. Source: Greydanus and Kobak, Scaling Down
    Deep Learning with MNIST-1D, 2024.
    """
    try:
        from mnist1d.data import get_dataset_args, make_dataset  # pyright: ignore
    except ImportError:
        raise UserError(
            "the data are made by the package mnist1d, which is not installed: pip install mnist1d"
        ) from None
    made = make_dataset(get_dataset_args())
    series = {name: made[name].astype(np.float32) for name in ("x", "x_test")}
    digits = {name: made[name].astype(np.int64) for name in ("y", "y_test")}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **series, **digits)
    return path


if __name__ == "__main__":
    with clean_exit():
        print(write_mnist1d(Path(*sys.argv[1:2] or ["data/mnist1d/mnist1d.npz"])))
