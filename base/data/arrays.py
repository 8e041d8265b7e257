"""ArrayDataLoader: batches of the rows of arrays in .npy and .npz files."""

import math
import os
from typing import IO, Any, Literal

import numpy as np

from base import BaseDataLoader, InMemoryDataset
from base.data.inputs import ArrayInput
from base.data.labels import class_numbers, suggestion, text_of
from base.data.local_files import local_file, require_ratio
from base.data.splits import samples_to_serve
from utils.errors import UserError, brief, quantity, shortened, shown

_DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")
_TARGET_DTYPES = ("float32", "int64")
_LOOKED_AT = 1000  # rows of data, which may be larger than memory


class ArrayDataLoader(BaseDataLoader):
    """Batches of rows of two arrays: (data, target).

    uint8 data become float32 in [0, 1]; int32 and int64, which index an embedding, int64; all other numbers float32.
    Integer targets become int64 and floats float32, and keep their shape; with classes they become class numbers.

    data, target: "file.npy", memory-mapped and so perhaps larger than memory, or "file.npz:name".
    test_data, test_target: the arrays to serve if training is False.
    dtype: convert data to this type instead, as they are: "float32" leaves uint8 in [0, 255].
    target_dtype: convert targets to this type instead.
    target_as_column: serve targets (N,) as (N, 1), the shape of the outputs of a model with one output.
    classes: the values of target in the order of their class numbers, such as ["cat", "dog"], [1, 2, 3] or [-1, 1]. Or
        their names, if target holds integers from 0 on or one-hot rows. The attribute classes holds them as text.
    stratify: split so that both parts get the same share of each class.
    groups: an array of ids (N,); a split keeps the samples of one id together.
    test_split: share of the samples, or their number, to set aside as test data, if test_data names none.
    balance_classes: draw every class equally often in training.

    The other arguments are those of BaseDataLoader. Raises UserError for a file that is not an array of numbers, for
    targets that are none of classes, and for stratify or balance_classes without classes.
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
        dtype: Literal["float32", "float64", "float16", "int64", "int32", "uint8", "bool", None] = None,
        target_dtype: Literal["float32", "int64", None] = None,
        target_as_column: bool = False,
        classes: list | None = None,
        drop_last: bool = False,
        test_split: float = 0.0,
    ) -> None:
        prefix = "" if training or test_split else "test_"
        if not training and not test_split:
            if test_data is None or test_target is None:
                raise UserError("test_data: the config names no arrays to test on; give test_data and test_target")
            data, target = test_data, test_target
        for name, value, allowed in (("dtype", dtype, _DTYPES), ("target_dtype", target_dtype, _TARGET_DTYPES)):
            if value is not None and value not in allowed:
                raise UserError(f"{name}: got {brief(value)}; it should be one of {', '.join(allowed)}")
        rows, targets = read_array(data, f"{prefix}data"), read_array(target, f"{prefix}target")
        _require_rows(rows, f"{prefix}data: {shown(data)}")
        if dtype in ("int64", "int32", "uint8") and rows.dtype.kind == "f":
            as_dtype(np.asarray(rows[:_LOOKED_AT]), f"{prefix}data: {shown(data)}", "int64", "dtype")
        self.input = ArrayInput(dtype, rows.dtype.name, rows.shape[1:])
        self.classes = None if classes is None else [str(value) for value in classes]
        labels = as_targets(targets, f"{prefix}target: {shown(target)}", classes)
        targets = as_dtype(labels, f"{prefix}target: {shown(target)}", target_dtype)
        labels = targets if targets.dtype == np.int64 else labels
        if rows.shape[:1] != targets.shape[:1]:
            counts = f"{quantity(len(rows), 'sample')}, and {shown(target)} has {len(targets)}"
            raise UserError(f"{prefix}data: {shown(data)} has {counts}; both should have as many")
        for argument, asked in (("stratify", stratify), ("balance_classes", balance_classes)):
            if asked and (labels.dtype != np.int64 or labels.ndim != 1):
                held = f"{labels.dtype} {labels.shape}"
                raise UserError(f"{argument}: is for classes, and {shown(target)} holds none: {held}")
        if target_as_column and targets.ndim != 1:
            raise UserError(f"target_as_column: is for targets (N,), and {shown(target)} holds {targets.shape}")
        split_by: dict[str, Any] = {
            "stratify": labels if stratify else None,
            "groups": read_array(groups, "groups") if groups and not prefix else None,
        }
        samples = samples_to_serve(len(rows), test_split, training, ("test_data", test_data), **split_by)
        super().__init__(
            InMemoryDataset(
                rows,
                targets[:, None] if target_as_column else targets,
                batch_transform=self.input,
            ),
            batch_size,
            shuffle,
            validation_split,
            num_workers,
            device_resident=device_resident,
            drop_last=drop_last,
            fold=fold,
            balance_classes=labels if balance_classes else None,
            samples=samples,
            **split_by,
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


def _require_rows(array: np.ndarray, where: str) -> None:
    """Raise UserError unless the array holds real numbers, for one sample or more."""
    if array.dtype.kind not in "biuf":
        raise UserError(f"{where} holds {array.dtype.str}; it should hold real numbers")
    if not array.ndim:
        raise UserError(f"{where} is a single number; it should have a row for each sample")
    if not len(array):
        raise UserError(f"{where} holds no samples; its shape is {array.shape}")


def as_targets(targets: np.ndarray, where: str, classes: list | None = None) -> np.ndarray:
    """Return targets as float32 or int64: their class numbers if classes are given, else as they are.

    Raises UserError, whose text begins with where, for what is neither numbers nor of one of the classes.
    """
    targets = text_of(targets, where)
    if classes is not None:
        return class_numbers(targets, classes, where)
    if targets.dtype.kind == "U":
        raise UserError(f"{where} holds text; {suggestion(targets)}")
    _require_rows(targets, where)
    return np.asarray(targets, np.float32 if targets.dtype.kind == "f" else np.int64)


def as_dtype(targets: np.ndarray, where: str, dtype: str | None, argument: str = "target_dtype") -> np.ndarray:
    """Return targets in the dtype, if one is given. Raises UserError for fractions where it is int64."""
    is_whole = targets.dtype.kind != "f" or dtype != "int64"
    if not is_whole and (broken := ~np.isfinite(targets) | (targets % 1 != 0)).any():
        raise UserError(f"{where} holds {targets[broken][0]}, which is not an integer; leave {argument} out")
    return targets if dtype is None else np.asarray(targets, dtype)
