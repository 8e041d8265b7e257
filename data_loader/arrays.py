"""YOURS: arrays in .npy and .npz files, named in a config as "arrays.ArrayDataLoader"."""

import zipfile

import numpy as np
import torch

from base import BaseDataLoader, InMemoryDataset, memory_map
from utils import UserError


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
                raise UserError(f"{argument}: is for classes, and {target} holds none: {targets.dtype} {targets.shape}")
        super().__init__(
            InMemoryDataset(rows, targets, transform=as_input),
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
    if not path.endswith(".npz"):
        if place.endswith(".npz"):
            raise UserError(f"{argument}: got {place!r}; say which array of it, as in '{place}:name'")
        try:
            return memory_map(place)
        except UserError as error:
            raise UserError(f"{argument}: {error}") from None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if name not in arrays:
                raise UserError(f"{argument}: {path} has no array {name!r}; there are {', '.join(arrays)}")
            return arrays[name]
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{argument}: {path}: cannot read the arrays: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{argument}: {path}: not a whole .npz file of numbers: {error}") from None


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
