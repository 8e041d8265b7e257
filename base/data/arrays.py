"""ArrayDataLoader: batches of the rows of arrays in .npy and .npz files."""

import math
import os
from typing import IO

import numpy as np

from base import BaseDataLoader, InMemoryDataset
from base.data.inputs import ArrayInput
from base.data.local_files import local_file, require_ratio
from utils.errors import UserError, brief, shortened, shown


class ArrayDataLoader(BaseDataLoader):
    """Batches of rows of two arrays: (data, target). uint8 data become float32 in [0, 1], other floats float32.

    Integer targets are classes and become int64, floats float32; they keep their shape.

    data, target: "file.npy", memory-mapped and so perhaps larger than memory, or "file.npz:name".
    test_data, test_target: the arrays to serve if training is False.
    stratify: split so that both parts get the same share of each class.
    groups: an array of ids (N,); a split keeps the samples of one id together.
    balance_classes: draw every class equally often in training.

    The other arguments are those of BaseDataLoader. Raises UserError for a file that is not an array of numbers, and
    for stratify or balance_classes without classes.
    """

    def __init__(
        self,
        data: str,
        target: str,
        batch_size: int,
        shuffle: bool = True,
        validation_split: float = 0.0,
        num_workers: int = 0,
        training: bool = True,
        test_data: str | None = None,
        test_target: str | None = None,
        fold: str | None = None,
        stratify: bool = False,
        groups: str | None = None,
        balance_classes: bool = False,
        device_resident: bool = False,
    ) -> None:
        prefix = "" if training else "test_"
        if not training:
            if test_data is None or test_target is None:
                raise UserError("test_data: the config names no arrays to test on; give test_data and test_target")
            data, target = test_data, test_target
        rows, targets = read_array(data, f"{prefix}data"), read_array(target, f"{prefix}target")
        if targets.dtype.kind not in "biuf":
            raise UserError(f"{prefix}target: {shown(target)} holds {targets.dtype.str}; it should hold numbers")
        targets = np.asarray(targets, np.float32 if targets.dtype.kind == "f" else np.int64)
        for argument, asked in (("stratify", stratify), ("balance_classes", balance_classes)):
            if asked and (targets.dtype != np.int64 or targets.ndim != 1):
                held = f"{targets.dtype} {targets.shape}"
                raise UserError(f"{argument}: is for classes, and {shown(target)} holds none: {held}")
        self.input = ArrayInput()
        super().__init__(
            InMemoryDataset(rows, targets, batch_transform=self.input),
            batch_size,
            shuffle,
            validation_split,
            num_workers,
            device_resident=device_resident,
            fold=fold,
            stratify=targets if stratify else None,
            groups=read_array(groups, "groups") if groups and training else None,
            balance_classes=targets if balance_classes else None,
        )


def read_array(place: str, argument: str) -> np.ndarray:
    """Return the array at "file.npy" (a memory map) or "file.npz:name". Raises UserError, naming the argument."""
    path, _, name = place.rpartition(":")
    zipped = path.endswith(".npz")
    if not zipped and place.endswith(".npz"):
        raise UserError(f"{argument}: got {brief(place)}; say which array of it, as in '{shown(place)}:name'")
    path = local_file(path if zipped else place, argument, "the arrays" if zipped else "the array")
    try:
        if zipped:
            return _read_zipped(path, name, argument)
        with open(path, "rb") as file:
            _require_numbers(file, os.path.getsize(path))
        return np.lib.format.open_memmap(path, mode="r")
    except UserError:
        raise
    except OSError as error:
        reason = error.strerror or shortened(error)
        raise UserError(f"{argument}: {shown(path)}: cannot read the arrays: {reason}") from None
    except Exception as error:  # NumPy's readers raise many kinds for a damaged or hostile file
        whole = f"not a whole {'.npz' if zipped else '.npy'} file of numbers"
        raise UserError(f"{argument}: {shown(path)}: {whole}: {shortened(error)}") from error


def _read_zipped(path, name, argument):
    """The array of that name in a .npz file, whose size is checked before it is unpacked."""
    with np.load(path, allow_pickle=False) as arrays:
        if name not in arrays:
            there = ", ".join(map(shown, arrays))
            raise UserError(f"{argument}: {shown(path)} has no array {brief(name)}; there are {there}")
        entry = arrays.zip.getinfo(name if name in arrays.zip.namelist() else f"{name}.npy")
        require_ratio(entry.compress_size, entry.file_size, path, argument)
        with arrays.zip.open(entry) as file:
            _require_numbers(file, entry.file_size)
        return arrays[name]


def _require_numbers(file: IO[bytes], num_bytes: int) -> None:
    """Raise ValueError unless the header of a .npy file declares numbers or strings that fit into num_bytes.

    NumPy itself crashes on types without a size, and allocates an array before it reads it.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"it has version {version} of the format")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.kind in "OV" or dtype.itemsize == 0:
        raise ValueError(f"it holds {dtype}")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > num_bytes:
        raise ValueError(f"its shape {shape} does not fit into its {num_bytes} bytes")
