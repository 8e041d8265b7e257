"""InMemoryDataset: samples in arrays, served as whole batches through an ordinary DataLoader."""

import functools
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch.utils.data import Dataset

from utils.device import copied_ahead, held_dtype
from utils.errors import UserError, quantity, shortened

if TYPE_CHECKING:
    from base.data.seeded import SampleSeeder

# Classes of torchvision.transforms.v2 that draw no random numbers and treat each sample of a batch alike.
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
    "ToImage",
    "ToPureTensor",
}


class InMemoryDataset(Dataset):
    """Arrays of equal length; sample i is row i of each. A batch of any size is read by one indexing operation.

    arrays: tensors or NumPy arrays (N, ...), including memory maps that are larger than memory.
    transform: applied to single samples (...) of the first array: a function, a list of functions, or a Compose of
        torchvision. Each sample has its own random numbers. Transforms of torchvision.transforms.v2 that draw none
        are applied to whole batches, which gives the same numbers.
    batch_transform: applied to whole batches (B, ...) of the first array, after transform: a function or a list of
        functions. If one draws random numbers, it must draw for each sample and have draws_per_sample = True.

    A DataLoader needs collate_fn=whole_batch to read it; BaseDataLoader sets that. The attribute draws_for_batches
    tells whether a transform draws for a whole batch at once; several processes then each transform whole batches.

    Raises UserError for arrays that do not fit together, and, when a batch is read, for a transform that changes the
    number of samples.
    """

    def __init__(
        self,
        *arrays: torch.Tensor | np.ndarray,
        transform: Callable | Sequence[Callable] | None = None,
        batch_transform: Callable | Sequence[Callable] | None = None,
    ) -> None:
        if not arrays:
            raise UserError("a dataset needs at least one array")
        self.arrays = [_checked(array, i) for i, array in enumerate(arrays)]
        lengths = [len(array) for array in self.arrays]
        if len(set(lengths)) != 1:
            rows = ", ".join(map(str, lengths))
            raise UserError(f"the arrays of a dataset must have the same number of rows; got {rows}")
        self._sent: list[tuple[Any, Any]] = []  # each array, and what was sent of it
        self._transforms = _Transforms(transform, batch_transform)
        self.draws_for_batches = self._transforms.draws_for_batches

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        """Return the sample: a tuple of the arrays' rows, the first one transformed."""
        index = range(len(self))[index]  # an IndexError ends iteration, and negative indices count from the end
        return tuple(rows[0] for rows in self.__getitems__([index]))

    def __getitems__(self, indices: Sequence[int], seeder: "SampleSeeder | None" = None) -> tuple[torch.Tensor, ...]:
        """Return the batch of these samples: a tuple of tensors (B, ...). seeder: seeds random transforms."""
        rows = [_rows(array, indices) for array in self.arrays]
        rows[0] = self._transforms(rows[0], indices, seeder)
        return tuple(rows)

    def begins_with(self, function: Callable) -> bool:
        """Whether a function is the first of the transforms, so that it is given the rows as they are."""
        return self._transforms.functions[:1] == [function]

    def to(self, device: torch.device | str) -> Self:
        """Move the arrays to the device, where batches are then made and transformed. Returns the dataset.

        Numbers of double precision become those of single precision where the device has no other.
        """
        device = torch.device(device)
        tensors = map(_as_tensor, self.arrays)
        self.arrays = [tensor.to(device, held_dtype(device, tensor.dtype)) for tensor in tensors]
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for worker processes that are not forked: memory maps by file name, the rest as tensors.

        Torch shares a tensor's memory with a process by an open file, which must be there until the process has begun.
        So the tensors live on in this object, and all processes share them.
        """
        known = {id(array): sent for array, sent in self._sent}
        self._sent = [(array, _reopener(array) or _sent_again(known.get(id(array)), array)) for array in self.arrays]
        return {**vars(self), "arrays": [sent for _, sent in self._sent], "_sent": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = [array() if isinstance(array, functools.partial) else array for array in state["arrays"]]
        vars(self).update(state, arrays=[_checked(array, i) for i, array in enumerate(arrays)])


class _Transforms:
    """Applies the functions of transform and then those of batch_transform to batches (B, ...).

    The functions of transform from the first to the last that is not known to be safe on batches are called with one
    sample (...) at a time, those around them with the batch.
    """

    def __init__(self, transform: Any, batch_transform: Any) -> None:
        functions, batch_functions = _functions(transform, "transform"), _functions(batch_transform, "batch_transform")
        first = end = next((i for i, f in enumerate(functions) if not _is_safe_on_batches(f)), len(functions))
        for i, function in enumerate(functions[first:], start=first):
            # ToImage may have to convert a PIL image, which the functions before it make of each sample
            if not _is_safe_on_batches(function) or type(function).__name__ == "ToImage":
                end = i + 1
        self._before, self._per_sample = functions[:first], functions[first:end]
        self._after = functions[end:] + batch_functions
        if any(map(_draws_per_sample, self._per_sample)):
            raise UserError("transform: one with draws_per_sample stands between two that take one sample at a time")
        self.draws_for_batches = any(map(_draws_per_sample, [*functions, *batch_functions]))
        # those that do not say whether they draw random numbers
        self._watched = [function for function in batch_functions if not hasattr(function, "draws_per_sample")]

    @property
    def functions(self) -> list[Callable]:
        """All of them, in the order in which they are applied."""
        return [*self._before, *self._per_sample, *self._after]

    def __call__(self, batch: torch.Tensor, indices: Sequence[int], seeder: "SampleSeeder | None") -> torch.Tensor:
        """Return the batch of the samples at indices, transformed; seeder is a SampleSeeder, or None."""
        for place, function in enumerate(self._before):
            batch = self._apply(function, batch, indices, seeder, place)
        if self._per_sample:
            batch = self._one_by_one(batch, indices, seeder)
        for place, function in enumerate(self._after, len(self._before)):
            batch = self._apply(function, batch, indices, seeder, place)
        return batch

    def _apply(self, function, batch, indices, seeder, place):
        if seeder is not None and _draws_per_sample(function):
            stream = hash((place, *indices))  # of integers only, so the same in every process
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
        if not isinstance(result, torch.Tensor) or result.shape[:1] != (len(indices),):
            made = f"{tuple(result.shape)}" if isinstance(result, torch.Tensor) else type(result).__name__
            raise UserError(
                f"transform: {_name(function)} returns {made} for a batch of {quantity(len(indices), 'sample')}; "
                "it should return a tensor of as many"
            )
        return result

    def _one_by_one(self, batch, indices, seeder):
        if seeder is None:
            samples = [self._apply_to_sample(sample) for sample in batch]
        else:
            samples = seeder.map(self._apply_to_sample, indices, batch)
        try:
            return torch.stack(samples)
        except (TypeError, RuntimeError) as error:  # other types than tensors, or different shapes
            raise UserError(
                f"transform: the samples do not make a batch: {shortened(error)}; "
                "it should return a tensor of the same shape for every sample"
            ) from None

    def _apply_to_sample(self, sample) -> Any:
        sample = sample.clone()  # a function may change it in place, and it may be read again
        for function in self._per_sample:
            sample = function(sample)
        return sample


def _functions(transform, argument):
    """The list of functions in a transform; a Compose of torchvision, old or v2, is taken apart."""
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
    is_known = kind.__module__.startswith("torchvision.transforms.v2.") and kind.__name__ in _SAFE_ON_BATCHES
    return is_known or _draws_per_sample(function)


def _draws_per_sample(function):
    return getattr(function, "draws_per_sample", False)


def _name(function):
    return getattr(function, "__name__", type(function).__name__)


def whole_batch(batch: Any) -> Any:
    """Return the batch unchanged: a collate_fn for datasets that make whole batches."""
    return batch


def memory_map(path: str | Path, sample_shape: Sequence[int] | None = None, dtype: Any = None) -> np.memmap:
    """Return the array in a .npy file, read row by row as it is indexed.

    sample_shape, dtype: required of each row; None accepts any. Raises UserError for a file that is missing, damaged,
    of Python objects, or of another shape or dtype.
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


def _reopener(array):
    """A function that maps the array's file again; None unless the array is the whole of a memory map."""
    mapped = getattr(array, "base", None)
    if not isinstance(mapped, np.memmap) or not isinstance(mapped.base, mmap.mmap) or mapped.filename is None:
        return None
    order = "C" if mapped.flags.c_contiguous else "F"
    return functools.partial(np.memmap, mapped.filename, mapped.dtype, "r", mapped.offset, mapped.shape, order)


def _checked(array, i):
    """The array as a NumPy array, whose take is fastest, or as a tensor where NumPy has no equivalent."""
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
            what = f"array {i} of the dataset has dtype {array.dtype.str}, unknown to torch"
            remedy = "; make numbers of its texts and objects" if array.dtype.kind in "OSU" else ""
            raise UserError(what + remedy) from None
    return array


def _as_tensor(array):
    """A tensor of the array; it shares the memory if that is writable."""
    if isinstance(array, torch.Tensor):
        return array
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _sent_again(sent, array):
    """A tensor of the array to send; the one sent before, since each new one would take as much shared memory."""
    if not (isinstance(sent, torch.Tensor) and isinstance(array, np.ndarray)):
        return _as_tensor(array)
    np.copyto(sent.numpy(), array)  # which may have been changed in place
    return sent


def _rows(array, indices):
    if isinstance(array, np.ndarray):
        return torch.from_numpy(array.take(indices, axis=0))
    return array.index_select(0, copied_ahead(torch.as_tensor(indices), array.device))
