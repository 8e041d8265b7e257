"""YOURS: arrays in .npy and .npz files, named in a config as "arrays.ArrayDataLoader"."""

import math
import os

import numpy as np
import torch

from base import BaseDataLoader, InMemoryDataset, memory_map
from base.data.local_files import local_file, require_ratio
from utils import UserError
from utils.errors import brief, shortened, shown


class ArrayDataLoader(BaseDataLoader):
    """Batches of rows of two arrays: (data, target). uint8 data become float32 in [0, 1], other floats float32.

    data, target: "file.npy", read row by row as it is needed and so perhaps larger than memory, or "file.npz:name".
    Targets keep their shape: integers are classes, int64, and floats are float32. test_data, test_target: the arrays
    that training=False serves. stratify: split so that both parts hold the same share of each class. groups: an array
    of ids, whose samples stay together in a split. fold: "3/5" validates on the third of five parts. balance_classes:
    draw every class equally often. device_resident: keep the arrays on the GPU.
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
    ):
        if not training and (test_data is None or test_target is None):
            raise UserError("test_data: the config names no arrays to test on; give test_data and test_target")
        rows = read_array(data if training else test_data, "data" if training else "test_data")
        targets = as_target(read_array(target if training else test_target, "target" if training else "test_target"))
        classes = targets if np.issubdtype(targets.dtype, np.integer) and targets.ndim == 1 else None
        for argument, asked in (("stratify", stratify), ("balance_classes", balance_classes)):
            if asked and classes is None:
                held = f"{targets.dtype} {targets.shape}"
                raise UserError(f"{argument}: is for classes, and {shown(target)} holds none: {held}")
        super().__init__(
            InMemoryDataset(rows, targets, batch_transform=as_input),
            batch_size,
            shuffle,
            validation_split,
            num_workers,
            device_resident=device_resident,
            fold=fold,
            stratify=classes if stratify else None,
            groups=read_array(groups, "groups") if groups and training else None,
            balance_classes=classes if balance_classes else None,
        )


def read_array(place, argument):
    """The array at "file.npy" (a memory map) or "file.npz:name". Raises UserError, naming the argument."""
    path, _, name = place.rpartition(":")
    zipped = path.endswith(".npz")
    if not zipped and place.endswith(".npz"):
        raise UserError(f"{argument}: got {brief(place)}; say which array of it, as in '{shown(place)}:name'")
    path = local_file(path if zipped else place, argument, "the arrays" if zipped else "the array")
    try:
        return _read_zipped(path, name, argument) if zipped else _mapped(path)
    except UserError as error:
        raise UserError(str(error) if zipped else f"{argument}: {shown(error)}") from None
    except OSError as error:
        reason = error.strerror or shortened(error)
        raise UserError(f"{argument}: {shown(path)}: cannot read the arrays: {reason}") from None
    except Exception as error:  # what a damaged or hostile file makes numpy's readers raise
        whole = f"not a whole {'.npz' if zipped else '.npy'} file of numbers"
        raise UserError(f"{argument}: {shown(path)}: {whole}: {shortened(error)}") from error


def _mapped(path):
    with open(path, "rb") as file:
        _require_numbers(file, os.path.getsize(path))
    return memory_map(path)


def _read_zipped(path, name, argument):
    """An array of a .npz file, whose size is looked at before it is unpacked."""
    with np.load(path, allow_pickle=False) as arrays:
        if name not in arrays:
            there = ", ".join(map(shown, arrays))
            raise UserError(f"{argument}: {shown(path)} has no array {brief(name)}; there are {there}")
        entry = arrays.zip.getinfo(name if name in arrays.zip.namelist() else f"{name}.npy")
        require_ratio(entry.compress_size, entry.file_size, path, argument)
        with arrays.zip.open(entry) as file:
            _require_numbers(file, entry.file_size)
        return arrays[name]


def _require_numbers(file, num_bytes):
    """Raise ValueError unless the header of a .npy file promises numbers or names, no more than there are bytes for.

    numpy itself crashes on types without a size, and reserves the memory of an array before it reads it.
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


def as_target(targets):
    """Integers and bools as int64, floats as float32."""
    if np.issubdtype(targets.dtype, np.floating):
        return np.asarray(targets, np.float32)
    return np.asarray(targets, np.int64)


def as_input(rows):
    """uint8 as float32 from 0 to 1, other floats as float32, other integers (indices) as int64."""
    if rows.dtype == torch.uint8:
        return rows.float().div_(255)
    return rows.float() if rows.is_floating_point() else rows.long()
