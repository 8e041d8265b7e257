"""InMemoryDataset: samples held in arrays and served a whole batch at a time, through an ordinary DataLoader."""

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from utils.errors import UserError

# classes of torchvision.transforms.v2 that draw nothing, and treat each sample of a batch as they treat it alone
_SAFE_ON_BATCHES = {
    "CenterCrop",
    "ConvertImageDtype",
    "Grayscale",
    "Identity",
    "LinearTransformation",
    "Normalize",
    "Pad",
    "Resize",
    "RGB",
    "ToDtype",
    "ToPureTensor",
}


class InMemoryDataset(Dataset):
    """Arrays of equal length; sample i is row i of each. A batch is one indexing operation, whatever its size.

    arrays: tensors or NumPy arrays (N, ...), also memory maps larger than memory.
    transform: applied to single samples (...) of the first array: a function, a list of them or a Compose of
        torchvision. Each sample has random numbers of its own. Transforms of torchvision.transforms.v2 that draw none
        are applied to whole batches, which gives the same numbers.
    batch_transform: applied to whole batches (B, ...) of the first array, after transform: a function or a list of
        them. One that draws random numbers must draw for each sample, and say so: draws_per_sample = True.

    A DataLoader over it needs collate_fn=whole_batch; BaseDataLoader sees to that. Raises UserError for arrays that
    do not fit together, and, when a batch is read, for a transform that changes the number of samples.
    """

    def __init__(
        self,
        *arrays: torch.Tensor | np.ndarray,
        transform: Callable | Sequence[Callable] | None = None,
        batch_transform: Callable | Sequence[Callable] | None = None,
    ):
        if not arrays:
            raise UserError("a dataset needs at least one array")
        self.arrays = [_checked(array, i) for i, array in enumerate(arrays)]
        lengths = [len(array) for array in self.arrays]
        if len(set(lengths)) != 1:
            raise UserError(f"the arrays of a dataset have as many rows each; got {', '.join(map(str, lengths))}")
        self._transforms = _Transforms(transform, batch_transform)

    @property
    def draws_for_batches(self) -> bool:
        """Whether a transform draws for a whole batch at once; of several processes, each then reads whole batches."""
        return self._transforms.draws_for_batches

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, index):
        """The sample: a tuple of the arrays' rows, the first one transformed."""
        index = range(len(self))[index]  # an IndexError ends iteration, and negative ones count from the end
        return tuple(rows[0] for rows in self.__getitems__([index]))

    def __getitems__(self, indices, seeder=None):
        """The batch of these samples: a tuple of tensors (B, ...). seeder: the SampleSeeder for random transforms."""
        rows = [_rows(array, indices) for array in self.arrays]
        rows[0] = self._transforms(rows[0], indices, seeder)
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


class _Transforms:
    """Applies the functions of transform and then those of batch_transform to batches (B, ...).

    The functions of transform from the first to the last that is not known to be safe on batches are called with one
    sample (...) at a time, those around them with the batch.
    """

    def __init__(self, transform, batch_transform):
        functions, batch_functions = _functions(transform, "transform"), _functions(batch_transform, "batch_transform")
        single = []
        for i, function in enumerate(functions):
            from_pil = bool(single) and type(function).__name__ == "ToImage"  # may have to make a tensor of each image
            if from_pil or not _is_safe_on_batches(function):
                single.append(i)
        first, end = (single[0], single[-1] + 1) if single else (len(functions), len(functions))
        self._before, self._per_sample, self._after = functions[:first], functions[first:end], functions[end:]
        self._after += batch_functions
        if any(map(_draws_per_sample, self._per_sample)):
            raise UserError("transform: one with draws_per_sample stands between two that take one sample at a time")
        self.draws_for_batches = any(map(_draws_per_sample, [*functions, *batch_functions]))
        self._watched = [function for function in batch_functions if not _draws_per_sample(function)]

    def __call__(self, batch, indices, seeder=None):
        """The batch transformed. indices: of its samples. seeder: the SampleSeeder for random functions."""
        for place, function in enumerate(self._before):
            batch = self._apply(function, batch, indices, seeder, place)
        if self._per_sample:
            batch = self._one_by_one(batch, indices, seeder)
        for place, function in enumerate(self._after, len(self._before)):
            batch = self._apply(function, batch, indices, seeder, place)
        return batch

    def _apply(self, function, batch, indices, seeder, place):
        if seeder is not None and _draws_per_sample(function):
            stream = hash((place, *indices))  # of integers alone, so the same in every process
            result = seeder.map(lambda samples: function(samples.clone()), [stream], [batch])[0]
        elif seeder is not None and function in self._watched:  # in the first batch only, for speed
            result, drew = seeder.watch(function, batch)
            if drew:
                raise UserError(
                    f"batch_transform: {_name(function)} draws random numbers; give it as transform, or set "
                    "draws_per_sample = True on it if it draws for each sample of the batch"
                )
            self._watched.remove(function)
        else:
            result = function(batch)
        if not isinstance(result, torch.Tensor):
            kind = type(result).__name__
            raise UserError(f"transform: {_name(function)} makes a {kind} of a batch; it should make a tensor")
        if result.dim() == 0 or len(result) != len(indices):
            made = len(result) if result.dim() else "no"
            raise UserError(
                f"transform: {_name(function)} makes {made} samples of {len(indices)}; labels would no longer fit"
            )
        return result

    def _one_by_one(self, batch, indices, seeder):
        if seeder is None:
            samples = [self._apply_to_sample(sample) for sample in batch]
        else:
            samples = seeder.map(self._apply_to_sample, indices, batch)
        if not all(isinstance(sample, torch.Tensor) for sample in samples):
            raise UserError(f"transform: it makes a {type(samples[0]).__name__} of a sample; it should make a tensor")
        shapes = {tuple(sample.shape) for sample in samples}
        if len(shapes) > 1:
            raise UserError(f"transform: samples come out in different shapes, {sorted(shapes)}; a batch needs one")
        return torch.stack(samples)

    def _apply_to_sample(self, sample):
        sample = sample.clone()  # it may be changed in place, and read again
        for function in self._per_sample:
            sample = function(sample)
        return sample


def _functions(transform, argument):
    """The functions that a transform consists of. A Compose of torchvision, of either generation, is taken apart."""
    if transform is None:
        return []
    if type(transform).__name__ == "Compose" and isinstance(getattr(transform, "transforms", None), (list, tuple)):
        transform = transform.transforms
    if isinstance(transform, (list, tuple)):
        return [function for part in transform for function in _functions(part, argument)]
    if not callable(transform):
        raise UserError(f"{argument}: {transform!r} cannot be called")
    return [transform]


def _is_safe_on_batches(function):
    kind = type(function)
    of_torchvision = kind.__module__.startswith("torchvision.transforms.v2.")
    return _draws_per_sample(function) or (of_torchvision and kind.__name__ in {*_SAFE_ON_BATCHES, "ToImage"})


def _draws_per_sample(function):
    return getattr(function, "draws_per_sample", False)


def _name(function):
    return getattr(function, "__name__", type(function).__name__)


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
    if array.is_cuda:  # from pinned memory, a copy does not wait
        indices = indices.pin_memory().to(array.device, non_blocking=True)
    return array.index_select(0, indices)
