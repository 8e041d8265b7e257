"""What a run says of itself at its start: its model, its data, and what is unusual about them."""

import itertools
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset

from base.data.in_memory import InMemoryDataset
from base.data.seeded import unseeded
from base.training.batch_stream import num_batches
from base.training.counted import averaged_over
from base.training.optimizers import parameters_of_loss
from base.training.schedules import unfit_lengths
from logger.logger import IN_FILE_ONLY
from utils.batches import DataError, batches_of
from utils.distributed.world import is_main, part_of, world_size
from utils.errors import quantity
from utils.files import write_whole
from utils.nested import common_rows, map_tensors, samples_of
from utils.runs.weights import class_name
from utils.seed import seeded

if TYPE_CHECKING:
    from trainer.trainer import Trainer

_WIDTH = 80  # letters in a line
_LINES = 24  # of the table of layers
_MOST_CLASSES = 1000  # more different numbers are hardly classes
_MOST_LABELS = 20_000_000  # more take too long to count


def describe_run(trainer: "Trainer", summary: str) -> None:
    """Log what is trained, where and how, and which settings are unusual. summary: of the model, as text."""
    logger, settings = trainer.logger, trainer.settings
    model, _, layers = summary.partition("\n")
    logger.info("run %s on %s, seed %d", trainer.checkpoint_dir, trainer.device, trainer.config.settings.seed)
    logger.info("%s%s", model, "; its layers are in info.log" if layers and not trainer.config.keeps_nothing else "")
    if layers:
        logger.info("%s", layers, extra=IN_FILE_ONLY)
    if is_main():
        write_whole(f"{summary}\n", trainer.config.log_dir / "model.txt", "the table of layers")
    if own := parameters_of_loss(trainer.criterion):
        total, name = sum(parameter.numel() for parameter in own.values()), type(trainer.criterion).__name__
        logger.info("loss: the parameters of %s are trained, too: %s", name, f"{total:,}")
    for line in [*data_lines(trainer), *_batch_lines(trainer.data_loader, settings.accumulate), averaged_over(trainer)]:
        if line:
            logger.info("%s", line)
    if (warning := single_batch_warning(trainer)) and not trainer.config.keeps_nothing:
        logger.warning("%s", warning)
    if not trainer.resumes_within_epochs and not trainer.has_own_loop:
        logger.warning("data_loader cannot report its position: a run stopped within an epoch repeats that epoch")
    if settings.compile == "dynamic":
        what = "a resumed run may differ in the last bits, since kernels are made for the first shape they see"
        logger.warning('trainer.compile: "dynamic": %s', what)
    for line in unfit_lengths(trainer):
        logger.warning("%s", line)


def _batch_lines(loader, accumulate):
    """Lines on any split of batches between processes, and on any accumulation."""
    size, lines = getattr(loader, "batch_size", None), []
    if size is None:
        return lines
    parts = [part_of(size, number).own for number in range(world_size())]
    if len(parts) > 1:
        each = " or ".join(map(str, dict.fromkeys(parts)))
        lines.append(f"batch_size {size}: {each} samples in each of {len(parts)} processes")
    if accumulate > 1:
        lines.append(f"an optimizer step takes {accumulate} batches, {accumulate * size} samples")
    return lines


# ---- the data


def data_lines(trainer: "Trainer") -> list[str]:
    """Return lines on the samples, on the classes of the training part, and on what the loader says of itself."""
    loader = trainer.data_loader
    counts = [num_samples_of(part) for part in (loader, trainer.valid_data_loader)]
    lines = []
    if counts[0] is not None:
        valid = "none" if trainer.valid_data_loader is None else _number(counts[1])
        size = getattr(loader, "batch_size", None)
        batches = quantity(trainer.len_epoch, "batch") + (f" of {size}" if size else "")
        lines.append(f"{quantity(counts[0], 'sample')} to train on, {valid} to validate on; an epoch is {batches}")
    if classes := class_line(loader):
        lines.append(classes)
    describe = getattr(loader, "describe_data", None)
    described: Any = describe() if callable(describe) else []
    return [*lines, *([described] if isinstance(described, str) else described)]


def single_batch_warning(trainer: "Trainer") -> str | None:
    """Return a line if an epoch is a single batch although the config does not ask for that; None otherwise."""
    settings, loader = trainer.settings, trainer.data_loader
    asked = settings.overfit_batches or settings.limit_train_batches or trainer.stream.by_iterations
    size, number = getattr(loader, "batch_size", None), num_samples_of(loader)
    if asked or num_batches(loader) != 1 or number == 1:  # a single sample, such as one graph, makes no more batches
        return None
    if size and number and size > number:
        what = f"got {size}, for {quantity(number, 'sample')} to train on"
    else:
        what = f"one batch holds all data, {quantity(number, 'sample')}" if number else "an epoch is one batch"
    return f"data_loader.args.batch_size: {what}, so an epoch is a single optimizer step"


def num_samples_of(loader: Any) -> int | None:
    """Return how many samples a pass over the loader draws; None if it does not say."""
    for source in (getattr(loader, "sampler", None), getattr(loader, "dataset", None)):
        try:
            return len(source)  # pyright: ignore[reportArgumentType]
        except TypeError:
            continue
    return None


def labels_of(loader: Any) -> np.ndarray | None:
    """Return the integer label of every sample of the loader's dataset (N,), if the dataset holds them in an array.

    No sample is read. None for other datasets.
    """
    dataset = unseeded(getattr(loader, "dataset", None))
    labels = _labels_in(dataset)
    if isinstance(labels, torch.Tensor):
        labels = labels.detach().cpu().numpy() if not labels.is_floating_point() else None
    if isinstance(labels, (list, tuple)):
        labels = np.asarray(labels) if labels and all(type(label) is int for label in labels) else None
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.shape != (_length(dataset),):
        return None
    return labels if 0 < len(labels) <= _MOST_LABELS else None


def drawn_labels(loader: Any) -> np.ndarray | None:
    """Return the labels of the samples that the loader draws, the training part or the validation part; else None."""
    labels = labels_of(loader)
    indices = getattr(getattr(loader, "sampler", None), "indices", None)
    if labels is None or indices is None or len(indices) == len(labels):
        return labels
    return labels[np.asarray(indices)]


def _labels_in(dataset):
    """The array of targets that a dataset holds, in any form."""
    for kind, name in ((InMemoryDataset, "arrays"), (TensorDataset, "tensors")):
        if isinstance(dataset, kind):
            arrays = getattr(dataset, name)
            return arrays[1] if len(arrays) == 2 else None
    if not isinstance(dataset, Dataset) or getattr(dataset, "target_transform", None) is not None:
        return None
    return next((vars(dataset)[name] for name in ("targets", "labels") if name in vars(dataset)), None)


def _length(dataset):
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None


def class_line(loader: Any) -> str | None:
    """Return "10 classes: 0 (5,405), 1 (6,090), ..." of the samples to train on; None if the labels are not known."""
    labels = drawn_labels(loader)
    if labels is None:
        return None
    names = getattr(loader, "classes", None)
    names = names if isinstance(names, (list, tuple)) else ()
    counts = _counts(labels)
    if counts is None or (names and not all(0 <= label < len(names) for label in counts)):
        return None
    counts = dict.fromkeys(range(len(names)), 0) | counts
    head = f"{len(counts):,} classes: "
    texts = [f"{names[label] if names else label} ({number:,})" for label, number in counts.items()]
    line = head + ", ".join(texts)
    while len(line) > _WIDTH and len(texts) > 1:
        texts.pop()
        line = head + ", ".join([*texts, "..."])
    return line


def _counts(labels):
    """{label: number of samples}, in order; None if there are too many different ones."""
    low, high = int(labels.min()), int(labels.max())
    if high - low >= 100 * _MOST_CLASSES:
        return None
    counts = np.bincount(labels - low if low else labels)
    (present,) = counts.nonzero()
    if len(present) > min(_MOST_CLASSES, max(2, len(labels) // 2)):
        return None
    return {int(label) + low: int(counts[label]) for label in present}


def _number(count):
    return "an unknown number" if count is None else f"{count:,}"


# ---- the model


def example_input(data_loader: Iterable[Any], device: torch.device) -> Any:
    """The first two inputs of the loader's first batch, on the device; the whole batch if it is not made of rows.

    Of a graph, the first rows of each tensor would have edges to nodes that are left out. None for a batch that is not
    a list or tuple, for a loader that can be read only once, and for a batch that cannot be read. Raises DataError for
    a loader that cannot start its workers.
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
    data = batch[0] if common_rows(batch[0]) is None else samples_of(batch[0], slice(2))
    return map_tensors(lambda part: part.to(device), data)


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
        with torch.no_grad(), seeded(0):
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
