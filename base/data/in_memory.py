"""InMemoryDataset: samples held in arrays and served a whole batch at a time, through an ordinary DataLoader."""

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from base.data.batch_transform import BatchTransform
from utils.errors import UserError

_EXAMPLES = 8  # rows on which a transform is tried, to see whether it is random


class InMemoryDataset(Dataset):
    """Arrays of equal length; sample i is row i of each. A batch is one indexing operation, whatever its size.

    arrays: tensors or NumPy arrays (N, ...), also memory maps larger than memory. transform: of batches of the first
    array's rows: a function, a list of them or a Compose of torchvision; see BatchTransform for random ones.

    A DataLoader over it needs collate_fn=whole_batch; BaseDataLoader sees to that. Raises UserError for arrays that
    do not fit together and for a transform that changes the number of samples.
    """

    def __init__(self, *arrays, transform=None):
        if not arrays:
            raise UserError("a dataset needs at least one array")
        self.arrays = [_checked(array, i) for i, array in enumerate(arrays)]
        lengths = [len(array) for array in self.arrays]
        if len(set(lengths)) != 1:
            raise UserError(f"the arrays of a dataset have as many rows each; got {', '.join(map(str, lengths))}")
        spread = sorted({i * (len(self) - 1) // (_EXAMPLES - 1) for i in range(_EXAMPLES)}) if len(self) else []
        self.transform = BatchTransform(transform, [_rows(self.arrays[0], [row]) for row in spread])

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, index):
        """The sample: a tuple of the arrays' rows, the first one transformed."""
        index = range(len(self))[index]  # an IndexError ends iteration, and negative ones count from the end
        return tuple(rows[0] for rows in self.__getitems__([index]))

    def __getitems__(self, indices, seeder=None):
        """The batch of these samples: a tuple of tensors (B, ...). seeder: the SampleSeeder for random transforms."""
        rows = [_rows(array, indices) for array in self.arrays]
        rows[0] = self.transform(rows[0], indices, seeder)
        return tuple(rows)

    def to(self, device):
        """Move the arrays to the device; batches are then made and transformed there."""
        self.arrays = [_as_tensor(array).to(device) for array in self.arrays]
        return self

    def __getstate__(self):
        """For worker processes that are not forked: memory maps travel as names of files, other arrays as tensors."""
        return {**vars(self), "arrays": [_MappedFile.of(array) or _as_tensor(array) for array in self.arrays]}

    def __setstate__(self, state):
        arrays = [array.open() if isinstance(array, _MappedFile) else array for array in state["arrays"]]
        vars(self).update(state, arrays=[_checked(array, i) for i, array in enumerate(arrays)])


def whole_batch(batch):
    """The batch as it is, put together by the dataset already."""
    return batch


def memory_map(path, sample_shape=None, dtype=None):
    """The array in a .npy file, read row by row as it is indexed. sample_shape, dtype: what a row has to be.

    Raises UserError for a file that is missing, damaged, of python objects, or of another shape or dtype.
    """
    path = Path(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise UserError(f"{path}: cannot read the array: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: not a whole .npy file of numbers: {error}") from None
    if not isinstance(array, np.memmap):
        raise UserError(f"{path}: holds several arrays or none; save one with numpy.save")
    if sample_shape is not None and array.shape[1:] != tuple(sample_shape):
        raise UserError(f"{path}: its shape is {array.shape}; it should be (N, {', '.join(map(str, sample_shape))})")
    if dtype is not None and array.dtype != np.dtype(dtype):
        raise UserError(f"{path}: its dtype is {array.dtype}; it should be {np.dtype(dtype)}")
    return array


@dataclass
class _MappedFile:
    """A whole array in a file, and how to map it again."""

    path: str
    dtype: np.dtype
    shape: tuple
    offset: int
    order: str

    @classmethod
    def of(cls, array):
        """The file that a view of a memory map shows whole; None for any other array."""
        mapped = getattr(array, "base", None)
        if not isinstance(mapped, np.memmap) or not isinstance(mapped.base, mmap.mmap) or mapped.filename is None:
            return None
        order = "C" if mapped.flags.c_contiguous else "F"
        return cls(str(mapped.filename), mapped.dtype, mapped.shape, mapped.offset, order)

    def open(self):
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape, self.order)


def _checked(array, i):
    """The array as NumPy sees it, whose take is the fastest; a tensor where NumPy has no such thing."""
    if not isinstance(array, torch.Tensor):
        array = np.asarray(array)
    elif array.device.type == "cpu" and array.dtype != torch.bfloat16:
        array = array.detach().numpy()
    if array.ndim == 0:
        raise UserError(f"array {i} of the dataset is a single number; it should have one row a sample")
    if isinstance(array, np.ndarray):
        try:
            torch.from_numpy(np.empty(0, array.dtype))
        except (TypeError, ValueError):
            raise UserError(f"array {i} of the dataset has dtype {array.dtype.str}, which torch has not") from None
    return array


def _as_tensor(array):
    """A tensor of the array, sharing its memory where that may be written to."""
    if isinstance(array, torch.Tensor):
        return array
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _rows(array, indices):
    if isinstance(array, np.ndarray):
        return torch.from_numpy(array.take(indices, axis=0))
    indices = torch.as_tensor(indices)
    if array.is_cuda:  # from pinned memory, a copy makes nobody wait
        indices = indices.pin_memory().to(array.device, non_blocking=True)
    return array.index_select(0, indices)
