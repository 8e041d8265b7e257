"""A table of a model's layers, as logged when a run starts."""

import itertools
import textwrap
from collections.abc import Iterable
from typing import Any

import torch

from utils.batches import DataError, batches_of
from utils.nested import map_tensors, samples_of
from utils.runs.weights import class_name

_LINES, _WIDTH = 24, 80


def example_input(data_loader: Iterable[Any], device: torch.device) -> Any:
    """The first two inputs of the loader's first batch, on the device; inputs without tensors are returned whole.

    None for a batch that is not a list or tuple, for a loader that can be read only once, and for a batch that cannot
    be read. Raises DataError for a loader that cannot start its workers.
    """
    if hasattr(data_loader, "__next__"):
        return None
    batches = batches_of(data_loader)
    try:
        batch = next(batches, None)
    except DataError:  # training reports it, and saves before it ends
        return None
    if not isinstance(batch, (list, tuple)) or not batch:
        return None
    return map_tensors(lambda part: part.to(device), samples_of(batch[0], slice(2)))


def model_summary(model: torch.nn.Module, example: Any) -> str:
    """Text of at most 80 columns: each layer's name, type, output shape and parameters, and the totals.

    example: input on the model's device, for one forward pass in evaluation mode; None for the totals alone.

    A model of many layers is shown by the modules that contain them. Modules with parameters that the forward pass
    does not call, such as a GAN's generator, are listed at the end without an output shape.
    """
    rows, missing = [], []
    try:
        rows = [] if example is None else _rows(model, _parts(model), example)
    except Exception as error:  # it may need several inputs; training reports a broken model
        why = (str(error).splitlines() or [type(error).__name__])[0]
        missing = [textwrap.shorten(f"no table of its layers: {why}", _WIDTH, placeholder=" ...")]
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    fixed = f", {total - trained:,} of them frozen" if trained < total else ""
    return "\n".join([f"{class_name(model)}: {total:,} parameters{fixed}", *missing, *_table(rows)])


def _parts(model):
    """{name: module} of the layers, or of the smallest modules that contain them if there are too many."""
    parts = _within(model, depth=1)
    for depth in itertools.count(2):
        smaller = _within(model, depth)
        if len(smaller) > _LINES or smaller.keys() == parts.keys():
            return parts
        parts = smaller


def _within(module, depth, prefix=""):
    """{name: module} at this depth below the module; a ModuleList or ModuleDict does not count as a level."""
    found = {}
    for name, child in module.named_children():
        below = depth if isinstance(child, (torch.nn.ModuleList, torch.nn.ModuleDict)) else depth - 1
        leaf = below == 0 or not list(child.children())
        found |= {prefix + name: child} if leaf else _within(child, below, f"{prefix}{name}.")
    return found


def _rows(model, parts, example):
    """(name, type, output shape, parameters) of each module, in the order of the forward pass."""
    rows = []
    hooks = [module.register_forward_hook(_recorder(name, rows)) for name, module in parts.items()]
    was_training = model.training
    try:
        with torch.no_grad(), torch.random.fork_rng():
            model.eval()(example)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    seen = {row[0] for row in rows}
    left = {name: module for name, module in parts.items() if name not in seen and list(module.parameters())}
    return rows + [_row(name, module, "-") for name, module in left.items()]


def _table(rows):
    if not rows:
        return []
    if len(rows) > _LINES:
        rows = [*rows[: _LINES - 1], ("...", f"and {len(rows) - _LINES + 1} more", "", "")]
    rows = [("layer", "type", "output", "parameters"), *rows]
    widths = [min(26, max(len(row[i]) for row in rows)) for i in range(3)]
    rows = [(_end_of(row[0], widths[0]), *row[1:]) for row in rows]
    cells = [[cell[:width].ljust(width) for cell, width in zip(row, widths, strict=False)] for row in rows]
    return ["  ".join([*left, row[3].rjust(12)]) for left, row in zip(cells, rows, strict=True)]


def _end_of(name, width):
    """The name, shortened to its end, which distinguishes it from others."""
    return name if len(name) <= width else f"...{name[3 - width :]}"


def _recorder(name, rows):
    def record(module, inputs, output):
        shape = " x ".join(map(str, output.shape)) if isinstance(output, torch.Tensor) else type(output).__name__
        rows.append(_row(name, module, shape))

    return record


def _row(name, module, output):
    return name, class_name(module), output, f"{sum(parameter.numel() for parameter in module.parameters()):,}"
