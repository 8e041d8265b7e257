"""InMemoryDataset: samples held in arrays and served a whole batch at a time, through an ordinary DataLoader."""

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from utils.errors import UserError
from utils.sample_seeder import try_out

_TRIALS = 8  # samples for which a function draws nothing and repeats itself, before it is believed not to be random


class InMemoryDataset(Dataset):
    """Arrays of equal length; sample i is row i of each. A batch is one indexing operation, whatever its size.

    arrays: tensors or NumPy arrays (N, ...), also memory maps larger than memory. transform: a function of a batch of
    the first array's rows (B, ...), or a list of functions, or a Compose of torchvision. One that draws random numbers,
    or does not take a batch, is called with one sample (...) at a time, so that each has its own draw; so are those
    between two such. A function that draws for each sample of a batch itself has the attribute draws_per_sample = True.

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
        self._before, self._per_sample, self._after = self._split(_functions(transform))
        if len(self) > 0:
            try_out(self.__getitems__, list(range(min(2, len(self)))))  # a transform that does not fit fails here

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, index):
        """The sample: a tuple of the arrays' rows, the first one transformed."""
        index = range(len(self))[index]  # an IndexError ends iteration, and negative ones count from the end
        return tuple(rows[0] for rows in self.__getitems__([index]))

    def __getitems__(self, indices, seeder=None):
        """The batch of these samples: a tuple of tensors (B, ...). seeder: the SampleSeeder for random transforms."""
        rows = [_rows(array, indices) for array in self.arrays]
        rows[0] = self._transformed(rows[0], indices, seeder)
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

    def _transformed(self, batch, indices, seeder):
        num_samples = len(batch)
        for i, function in enumerate(self._before):
            batch = _apply_to_batch(function, batch, indices, seeder, place=i)
        if self._per_sample:
            batch = self._drawn(batch, indices, seeder)
        for i, function in enumerate(self._after):
            batch = _apply_to_batch(function, batch, indices, seeder, place=len(self._before) + i)
        if len(batch) != num_samples:
            raise UserError(f"transform: it makes {len(batch)} samples of {num_samples}; labels would no longer fit")
        return batch

    def _drawn(self, batch, indices, seeder):
        samples = list(map(self._draw, batch)) if seeder is None else seeder.map(self._draw, indices, batch)
        if not all(isinstance(sample, torch.Tensor) for sample in samples):
            raise UserError(f"transform: it makes a {type(samples[0]).__name__} of a sample; it should make a tensor")
        shapes = {tuple(sample.shape) for sample in samples}
        if len(shapes) > 1:
            raise UserError(f"transform: samples come out in different shapes, {sorted(shapes)}; a batch needs one")
        return torch.stack(samples)

    def _draw(self, sample):
        sample = sample.clone()  # it may be changed in place, and made anew
        for function in self._per_sample:
            sample = function(sample)
        return sample

    def _split(self, functions):
        """(functions of batches, from the first to the last that takes single samples, the rest), found by trying."""
        if len(self) == 0:
            return functions, [], []
        rows = sorted({i * (len(self) - 1) // (_TRIALS - 1) for i in range(_TRIALS)})
        values, single = [_rows(self.arrays[0], [row]) for row in rows], []
        for i, function in enumerate(functions):
            values, takes_single = _tried(function, values)
            single += [i] if takes_single else []
        if not single:
            return functions, [], []
        first, end = single[0], single[-1] + 1
        per_sample = functions[first:end]
        if any(getattr(function, "draws_per_sample", False) for function in per_sample):
            raise UserError("transform: one with draws_per_sample stands between two that want one sample at a time")
        return functions[:first], per_sample, functions[end:]


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


def _functions(transform):
    """The functions that a transform consists of. A Compose of torchvision, of either generation, is taken apart."""
    if transform is None:
        return []
    if type(transform).__name__ == "Compose" and isinstance(getattr(transform, "transforms", None), (list, tuple)):
        transform = transform.transforms
    functions = list(transform) if isinstance(transform, (list, tuple)) else [transform]
    wrong = [function for function in functions if not callable(function)]
    if wrong:
        raise UserError(f"transform: {wrong[0]!r} cannot be called")
    return functions


def _tried(function, values):
    """(the function's results for the values, whether it is to be called with single samples).

    values: batches of one sample each, or, after a function that makes images of PIL's of them, the samples.
    """
    refusal = None
    if isinstance(values[0], torch.Tensor):
        try:
            results, drew = try_out(_results, function, values)
            again, _ = try_out(_results, function, values)
        except Exception as error:  # perhaps it takes single samples only
            refusal = error
        else:
            known = getattr(function, "draws_per_sample", False)
            if known or (not drew and all(map(_equal, results, again))):
                _require_batches_of_one(function, results)
                return results, False
        values = [value[0] for value in values]
    try:
        results, _ = try_out(_results, function, values)
    except Exception as error:
        raise refusal or error from None
    return [result.unsqueeze(0) if isinstance(result, torch.Tensor) else result for result in results], True


def _results(function, values):
    return [function(value.clone() if isinstance(value, torch.Tensor) else value) for value in values]


def _equal(left, right):
    """Whether two results are equal; nan equals nan."""
    if not isinstance(left, torch.Tensor) or not isinstance(right, torch.Tensor):
        return type(left) is type(right)
    return left.shape == right.shape and torch.allclose(left, right, rtol=0, atol=0, equal_nan=True)


def _require_batches_of_one(function, results):
    name = getattr(function, "__name__", type(function).__name__)
    for result in results:
        if not isinstance(result, torch.Tensor):
            raise UserError(f"transform: {name} makes a {type(result).__name__} of a batch; it should make a tensor")
        if result.dim() == 0 or len(result) != 1:
            made = len(result) if result.dim() else "no"
            raise UserError(f"transform: {name} makes {made} samples of 1; labels would no longer fit")


def _rows(array, indices):
    if isinstance(array, np.ndarray):
        return torch.from_numpy(array.take(indices, axis=0))
    indices = torch.as_tensor(indices)
    if array.is_cuda:  # from pinned memory, a copy makes nobody wait
        indices = indices.pin_memory().to(array.device, non_blocking=True)
    return array.index_select(0, indices)


def _apply_to_batch(function, batch, indices, seeder, place):
    if seeder is None or not getattr(function, "draws_per_sample", False):
        return function(batch)
    stream = hash((place, *indices))  # of integers alone, so the same in every process
    return seeder.map(lambda samples: function(samples.clone()), [stream], [batch])[0]
