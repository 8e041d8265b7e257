"""The two halves of a batch, data and target: tensors, or dicts, lists and tuples that hold them."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from utils.errors import UserError, brief, quantity

if TYPE_CHECKING:
    import numpy as np
    import torch


def halves(batch: Any) -> tuple[Any, Any]:
    """Return (data, target) of a loader's batch. Raises UserError for a batch that does not have two parts."""
    if isinstance(batch, (list, tuple)) and len(batch) == 2:
        return batch[0], batch[1]
    given = quantity(len(batch), "part") if isinstance(batch, (list, tuple)) else f"a {describe(batch)}"
    raise UserError(
        f"data_loader: a batch is {given}; it should be (data, target), each a tensor, or a dict, list or tuple of them"
    )


def num_samples(target: Any) -> int:
    """Return the number of samples in a target.

    It is the length of a tensor, and that of a dict's first value. A list or tuple holds either one dict, text or
    number per sample, or tensors whose rows are the samples, as torch's default_collate returns it. Raises UserError
    if the parts differ in length, or have none.
    """
    if shape := getattr(target, "shape", None):
        return shape[0]  # several times as fast as a tensor's len()
    if isinstance(target, Mapping) and target:
        return num_samples(next(iter(target.values())))
    if not isinstance(target, (list, tuple)):
        try:
            return len(target)
        except TypeError:
            what = f"data_loader: a target is a {describe(target)}, which has no number of samples"
            remedy = (
                "it should be or hold a tensor (N, ...) of N samples, or its class have a __len__ that says how many"
            )
            raise UserError(f"{what}; {remedy}") from None
    if not target or not (_is_tensor(target[0]) or isinstance(target[0], (list, tuple))):
        return len(target)
    lengths = list(dict.fromkeys(map(num_samples, target)))
    if len(lengths) == 1:
        return lengths[0]
    raise UserError(
        f"data_loader: a target's tensors have {' and '.join(map(str, lengths))} samples; give each as many as the "
        "batch has, or a dict whose first value has as many, or a dict for each sample"
    )


def require_rows(target: Any, samples: int) -> None:
    """Raise UserError if num_samples counts the rows of a dict's first value, and another has a row for each sample.

    samples: number of samples in the batch, 0 if it is unknown. Averages would be weighted by rows of all sorts, such
    as the characters of transcripts in one tensor.
    """
    if not samples or not isinstance(target, Mapping) or (rows := num_samples(target)) == samples:
        return
    if right := [key for key, value in target.items() if getattr(value, "shape", ())[:1] == (samples,)]:
        raise UserError(
            f"data_loader: {next(iter(target))!r}, the first value of the target, has {quantity(rows, 'row')} for the "
            f"{quantity(samples, 'sample')} of a batch, and averages count its rows; put {right[0]!r} first, which "
            "has a row for each sample"
        )


def map_tensors(function: Callable[[Any], Any], value: Any) -> Any:
    """Return the value with function(tensor) for each tensor; text and numbers stay as they are.

    They may be in dicts, lists, tuples and dataclasses. Anything with the method `to`, such as a PackedSequence or
    another library's batch, counts as one tensor.
    """
    if hasattr(value, "to"):
        return function(value)
    if isinstance(value, Mapping):  # before dataclasses, since the outputs of transformers are both
        parts = {key: map_tensors(function, part) for key, part in value.items()}
        if not isinstance(value, MutableMapping):
            return type(value)(parts)  # pyright: ignore[reportCallIssue]
        made: Any = copy.copy(value)  # keeps its class
        for key, part in parts.items():
            made[key] = part
        return made
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        made = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(made, field.name, map_tensors(function, getattr(value, field.name)))  # also if frozen
        return made
    if isinstance(value, (list, tuple)):
        parts = [map_tensors(function, part) for part in value]
        make: Any = getattr(value, "_make", type(value))  # the former of a named tuple
        return make(parts)
    return value


def common_rows(value: Any) -> int | None:
    """Return the number of rows that all tensors of a value have, as samples do; None if they differ.

    So do the nodes and the edges of graphs, of which some alone make no batch.
    """
    rows: set[int | None] = set()

    def note(tensor):
        shape = getattr(tensor, "shape", None)
        if shape is None or len(shape):  # not a single number
            rows.add(shape[0] if shape else None)

    map_tensors(note, value)
    return rows.pop() if len(rows) == 1 else None


def samples_of(value: Any, indices: "slice | torch.Tensor") -> Any:
    """Return the value with the samples of each tensor that a slice or a tensor of indices selects."""
    return map_tensors(lambda tensor: tensor[indices] if getattr(tensor, "ndim", 0) else tensor, value)


def tensors_in(value: Any) -> "Iterator[torch.Tensor]":
    """Yield all tensors that a value of dicts, lists and tuples holds."""
    if hasattr(value, "detach"):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(part)


def as_numpy(tensor: "torch.Tensor") -> "np.ndarray":
    """Return a tensor's numbers as an array of the same dtype; those of 16 bits, which not all programs read, in 32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if str(tensor.dtype) in ("torch.float16", "torch.bfloat16") else tensor).numpy()


def named_tensors(value: Any, what: str) -> "dict[str, torch.Tensor]":
    """Return {"": tensor} for a tensor, and {"box.0": tensor, ...} for what holds tensors; None is left out.

    Names come from the keys of a dict, the fields of a dataclass or a named tuple, and the places of a tuple or list;
    those of nested values are joined by ".". Raises UserError for anything else, such as a list of dicts, which holds a
    dict for each sample.

    what: the value is, for messages, as "Net returns".
    """
    found = {}
    for name, tensor in _leaves_of(value, ""):
        problem = None
        if not hasattr(tensor, "detach"):
            problem = f"{name!r} is a {describe(tensor)}" if name else "it is none"
        elif name in found:
            problem = f"two of them have the name {name!r}"
        if problem:
            raise UserError(f"{what} a {describe(value)}, where a tensor, or a dict or tuple of them, fits; {problem}")
        found[name] = tensor
    if not found:
        raise UserError(f"{what} a {describe(value)}, which holds no tensor")
    return found


def _leaves_of(value, name):
    """Yield (name, tensor) of all that a value holds, and what is no tensor, too."""
    parts = None if hasattr(value, "detach") else _parts_of(value)
    if parts is None:
        yield name, value
    for key, part in (parts or {}).items():
        if part is not None:
            yield from _leaves_of(part, f"{name}.{key}" if name else str(key))


def _parts_of(value):
    """What a value holds, as {key: part}; None if it cannot be named."""
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if not isinstance(value, (list, tuple)) or any(isinstance(part, Mapping) for part in value):
        return None
    return dict(zip(getattr(value, "_fields", range(len(value))), value, strict=True))


def joined_arrays(parts: "Iterable[dict[str, np.ndarray]]", what: str) -> "dict[str, np.ndarray]":
    """Return {name: array (N, ...)} of batches {name: array (B, ...)}, in their order.

    what: the arrays are, for messages. Raises UserError if batches differ in names or shapes, or there are none.
    """
    import numpy as np

    arrays: dict[str, list[np.ndarray]] = {}
    for number, part in enumerate(parts):
        if number and part.keys() != arrays.keys():
            raise UserError(f"data_loader: batches have {what} of names {brief([list(arrays), list(part)])}")
        for name, array in part.items():
            arrays.setdefault(name, []).append(array)
    if not arrays:
        raise UserError("data_loader: it has no batches")
    for name, found in arrays.items():
        if len(shapes := {one.shape[1:]: None for one in found}) > 1:
            remedy = "go through the batches: for data, target in loader: output = model(data)"
            which = f"{what} {name!r}" if name else what
            raise UserError(f"data_loader: batches have {which} of shape {brief(list(shapes))}; {remedy}")
    return {name: np.concatenate(found) for name, found in arrays.items()}


def describe(value: Any) -> str:
    """Return "tensor (64, 10) float32", or "dict of ids: tensor (64, 12) int64, ..."; of a long list, two items."""
    if _is_tensor(value):
        return f"tensor {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return f"{type(value).__name__} of " + ", ".join(f"{key}: {describe(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        more = f" and {len(value) - 2} more" if len(value) > 2 else ""
        return f"{type(value).__name__} of {', '.join(map(describe, value[:2]))}{more}"
    return type(value).__name__


def _is_tensor(value):
    return hasattr(value, "shape") and hasattr(value, "dtype")
