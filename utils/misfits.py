"""Explain an error of a step by its batch: its shapes and dtypes, or a dtype or an index that is the cause."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from utils.batches import file_of
from utils.errors import UserError, quantity, shortened, shown
from utils.nested import describe, map_tensors, num_samples

if TYPE_CHECKING:
    import torch

# How layers of torch refuse an input of another dtype than their weights.
_OTHER_THAN_WEIGHTS = re.compile(
    "same dtype|should be the same|does not match weight dtype|share same datatype|"
    "not implemented for '(Bool|Byte|Char|Short|Int|Long|UInt)|input must have the type"
)
_NO_INDICES = re.compile("argument #1 'indices'|index tensor of type LongTensor")
_NO_TARGET = re.compile(r"Found dtype (Double|Long) but expected Float")  # of a backward pass; Long before torch 2.9
_NO_GRADIENT = re.compile("does not require grad")  # of torch.autograd.grad
_NO_ROW = "index out of range in self"  # of an embedding, on the CPU
_NO_PART = "Expected to have finished reduction in the prior iteration"  # of DistributedDataParallel
_NO_CLASS = re.compile(r"Target (-?\d+) is out of bounds")  # of a loss of class numbers, on the CPU
_NOT_REPEATABLE = re.compile(r"(\S+) does not have a deterministic implementation")
_ON_DEVICE = "device-side assert"  # of a GPU's kernel, told by an operation after it
_PLACES = re.compile(r"did not receive grad for rank \d+: ([\d ]+)")
# What errors call a dtype.
_NAMES = {
    "bool": "bool",
    "uint8": "byte|unsigned char",
    "int8": "char|signed char",
    "uint16": "short unsigned int",
    "int16": "short",
    "int32": "int",
    "int64": "long|long int",
    "float16": "half|c10::half",
    "float64": "double",
    "float32": "float",
    "bfloat16": "c10::bfloat16",
}


def explain(
    error: Exception,
    data: Any,
    target: Any,
    model: "torch.nn.Module",
    samples: Sequence[int] = (),
    dataset: Any = None,
) -> None:
    """Add a note about the batch to an error of a step, which the caller raises again.

    samples: indices of the samples in the batch, if they are known; dataset: of these, whose files are named.

    Raises UserError instead if the dtype of the data or the target, an index or a class number is the cause.
    """
    cause = None if isinstance(error, UserError) else _cause(error, data, target, model, samples, dataset)
    if cause is not None:
        raise UserError(cause) from error
    kinds = sorted({_name(parameter) for parameter in model.parameters()})
    parameters = f"; the model's parameters: {' and '.join(kinds)}" if kinds else ""
    error.add_note(f"the batch's data: {describe(data)}; its target: {describe(target)}{parameters}")


def outside_on_device(error: Exception) -> str | None:
    """Return one line on an index outside of its range, if that is what a GPU tells, some operations later; or None."""
    if _ON_DEVICE not in str(error):
        return None
    return (
        "an index lies outside of its range, as the number of a class for which the model has no output, or of a row "
        "that an embedding does not have; the device does not tell which: the CPU does, with -d cpu"
    )


def _cause(error, data, target, model, samples, dataset):
    """One line on the dtype, index or class number that has caused an error; None if it was none of them."""
    if outside := outside_on_device(error):
        return outside
    reason = str(error).partition("\n")[0]
    if found := _NOT_REPEATABLE.search(reason):
        remedy = "set it to false, or take another layer or loss"
        return f"deterministic: {found[1]} gives other bits in each run on this device; {remedy}"
    weights = {_name(parameter) for parameter in model.parameters() if parameter.is_floating_point()}
    wanted = weights.pop() if len(weights) == 1 else "float32"
    if _NO_GRADIENT.search(reason) and _is_without_gradients():
        remedy = "compute it within `with torch.enable_grad():`, with an input for which requires_grad_() is called"
        return f"the model or the loss takes a gradient, and validation and use compute none: {reason}; {remedy}"
    if _NO_INDICES.search(reason) and _dtypes(data) - {"int64", "int32"}:
        return _problem("data", data, "an embedding takes int64", reason, "long", "dtype", "int64")
    if _OTHER_THAN_WEIGHTS.search(reason) and any(_is_told(dtype, reason) for dtype in _dtypes(data) - {wanted}):
        convert = "float" if wanted == "float32" else f"to(torch.{wanted})"
        return _problem("data", data, f"the model's weights are {wanted}", reason, convert, "dtype", wanted)
    if _NO_TARGET.search(reason) and _dtypes(target) & {"float64", "int64"}:
        return _problem("target", target, "the loss takes float32", reason, "float", "target_dtype", "float32")
    if isinstance(error, IndexError) and reason == _NO_ROW and (outside := _outside(data, model)):
        return f"data_loader: the batch's data is {describe(data)}, {outside}"
    if reason.startswith(_NO_PART) and (places := _PLACES.search(str(error))):
        return _no_part([int(place) for place in places[1].split()], model)
    if found := _NO_CLASS.search(reason):
        return _no_class(int(found[1]), target, samples, dataset)
    return None


def _is_without_gradients():
    import torch

    return not torch.is_grad_enabled()


def _no_part(places, model):
    """One line on the parameters at these places, of those that are trained, that the loss does not depend on."""
    named = [name.removeprefix("module.") for name, parameter in model.named_parameters() if parameter.requires_grad]
    names = [named[place] for place in places if place < len(named)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"arch: {', '.join(map(shown, names[:3]))}{more} have no part in the loss, and several processes wait for the "
        "gradients of all; take them out of the model, set requires_grad_(False), or set "
        "parallel.args.find_unused_parameters to true"
    )


def _no_class(number, target, samples, dataset):
    """One line on a class number for which the model has no output."""
    rows = []

    def find(tensor):
        if tensor.ndim and _name(tensor).startswith(("int", "uint")):
            rows.extend((tensor == number).nonzero()[:, 0].tolist())

    map_tensors(find, target)
    places = sorted(set(rows))
    where = "a sample"
    if places and len(samples) == num_samples(target):  # and not the part of one of several processes
        file = file_of(dataset, samples[places[0]])
        where = f"sample {samples[places[0]]}" + (f" ({shown(file)})" if file else "")
    elif places:
        where = f"sample {places[0] + 1} of the batch"
    more = f", and of {len(places) - 1} more of its batch," if len(places) > 1 else ""
    outputs = f"give the model {quantity(number + 1, 'output')}" if number >= 0 else "count classes from 0"
    return (
        f"data_loader: the target of {where}{more} holds the class number {number}, for which the model has no output; "
        f"correct it, {outputs}, or leave it out by the loss's ignore_index"
    )


def _problem(what, value, wanted, reason, convert, argument, dtype):
    call = convert if "(" in convert else f"{convert}()"
    remedy = f'convert it in the dataset, as with .{call}; for ArrayDataLoader, give "{argument}": "{dtype}"'
    return f"data_loader: the batch's {what} is {describe(value)}, and {wanted}: {shortened(reason)}; {remedy}"


def _is_told(dtype, reason):
    """Whether an error's text names the dtype, or names none."""
    names = rf"\b({_NAMES.get(dtype, dtype)}|{dtype})\b"
    return "same datatype" in reason or re.search(names, reason, re.IGNORECASE) is not None


def _outside(data, model):
    """What is wrong with the integers of a value as rows of the model's smallest embedding; None if nothing is."""
    integers = []
    map_tensors(lambda tensor: integers.append(tensor) if _name(tensor) in ("int64", "int32") else None, data)
    integers = [tensor for tensor in integers if tensor.numel()]
    sizes = [module.num_embeddings for module in model.modules() if hasattr(module, "num_embeddings")]
    low = min((int(tensor.min()) for tensor in integers), default=0)
    high = max((int(tensor.max()) for tensor in integers), default=0)
    if not sizes or (low >= 0 and high < min(sizes)):
        return None
    remedy = "count from 0" if low < 0 else f"give it {high + 1}"
    return (
        f"with integers from {low} to {high}, and an embedding of the model has {quantity(min(sizes), 'row')}; {remedy}"
    )


def _dtypes(value):
    """The names of the dtypes of all tensors in a value."""
    found = set()
    map_tensors(lambda tensor: found.add(_name(tensor)), value)
    return found


def _name(tensor):
    return str(getattr(tensor, "dtype", "")).removeprefix("torch.")
