"""What a run says of its data at its start: how many samples, how many of each class, how they are read."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset

from base.data.in_memory import InMemoryDataset
from base.data.seeded import SeededDataset
from base.training.batch_stream import num_batches

if TYPE_CHECKING:
    from trainer.trainer import Trainer

_WIDTH = 80  # letters in the line of the classes
_MOST_CLASSES = 1000  # more different numbers are hardly classes
_MOST_LABELS = 20_000_000  # more take too long to count


def data_lines(trainer: "Trainer") -> list[str]:
    """Return lines on the samples, on the classes of the training part, and on what the loader says of itself."""
    loader = trainer.data_loader
    counts = [num_samples_of(part) for part in (loader, trainer.valid_data_loader)]
    lines = []
    if counts[0] is not None:
        valid = "none" if trainer.valid_data_loader is None else _number(counts[1])
        size = getattr(loader, "batch_size", None)
        batches = "1 batch" if trainer.len_epoch == 1 else f"{trainer.len_epoch:,} batches"
        batches += f" of {size}" if size else ""
        lines.append(f"{_number(counts[0])} samples to train on, {valid} to validate on; an epoch is {batches}")
    if classes := class_line(loader):
        lines.append(classes)
    describe = getattr(loader, "describe_data", None)
    described: Any = describe() if callable(describe) else []
    return [*lines, *([described] if isinstance(described, str) else described)]


def single_batch_warning(trainer: "Trainer") -> str | None:
    """Return a line if an epoch is a single batch although the config does not ask for that; None otherwise."""
    settings, loader = trainer.settings, trainer.data_loader
    asked = settings.overfit_batches or settings.limit_train_batches or trainer.stream.by_iterations
    if asked or num_batches(loader) != 1:
        return None
    size, number = getattr(loader, "batch_size", None), num_samples_of(loader)
    if size and number and size > number:
        what = f"got {size}, but there are {number} samples to train on"
    else:
        what = f"all {number} samples are one batch" if number else "an epoch is one batch"
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
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, SeededDataset):
        dataset = dataset.dataset
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
    texts = [f"{names[label] if names else label} ({number:,})" for label, number in counts.items()]
    return elided(f"{len(texts):,} classes: ", texts)


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


def elided(head: str, texts: Sequence[str] | Iterable[str]) -> str:
    """Return head and the texts, with commas between them, on one line; "..." stands for those that do not fit."""
    texts = list(texts)
    whole = head + ", ".join(texts)
    while len(whole) > _WIDTH and len(texts) > 1:
        texts.pop()
        whole = head + ", ".join([*texts, "..."])
    return whole


def _number(count):
    return "an unknown number" if count is None else f"{count:,}"
