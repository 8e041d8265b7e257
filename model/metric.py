"""YOURS: what "metrics" in a config names.

A metric is a function (output, target) that returns the mean over the batch, which is then averaged over the epoch's
samples; or, if it is not such a mean, a class with update(output, target), compute() and reset(). Return tensors: a
Python number would make every step wait for the device.

Those of this file leave out targets that are ignore_index, by default -100 as in torch's losses.
"""

import torch
from torch import nn

from base import UserError, exact_float


def accuracy(output: torch.Tensor, target: torch.Tensor, ignore_index: int = -100) -> torch.Tensor:
    """Return the share of targets that are the largest entry. output (N, C, ...) float, target (N, ...) int64."""
    _require_class_targets(output, target)
    return _share(output.argmax(dim=1) == target, target, ignore_index)


def top_k_acc(output: torch.Tensor, target: torch.Tensor, k: int = 3, ignore_index: int = -100) -> torch.Tensor:
    """Return the share of targets among the k largest entries. output (N, C, ...) float, target (N, ...) int64."""
    _require_class_targets(output, target)
    if not 1 <= k <= output.shape[1]:
        raise UserError(f"metrics: top_k_acc: k is {k}, and the model gives {output.shape[1]} classes")
    hits = (output.topk(k, dim=1).indices == target.unsqueeze(1)).any(dim=1)
    return _share(hits, target, ignore_index)


# averages over batches weight each by its targets that count
accuracy.counted = top_k_acc.counted = "targets"  # pyright: ignore[reportFunctionMemberAccess]


def _require_class_targets(output, target):
    """Raise UserError unless the output is (N, C, ...), with two or more classes C, and the target (N, ...).

    Other shapes could broadcast, and the result would be wrong.
    """
    if output.ndim < 2 or output.shape[1] < 2 or target.shape != (output.shape[0], *output.shape[2:]):
        shapes = f"the output is {tuple(output.shape)} and the target {tuple(target.shape)}"
        wanted = "an output (N, C), with two or more classes C, and a target (N,) with the numbers of classes"
        raise UserError(f"metrics: {shapes}; counting hits needs {wanted}")


def _share(hits, target, ignore_index):
    """The share of the targets that are hits, without those that are ignored; nan if all are."""
    counted = target != ignore_index
    if ignore_index >= 0:  # else no class has this number, and it is never hit
        hits = hits & counted
    number = hits.count_nonzero().to(exact_float(hits.device))  # so that averages give exact counts
    return number / counted.count_nonzero()


class ConfusionMatrix(nn.Module):
    """How often each class (row) was predicted as each class (column): counts (num_classes, num_classes) int64.

    A metric over the whole epoch. It is a module so that its buffer is moved to the device and saved.

    ignore_index: targets that are not counted.
    """

    counts: torch.Tensor

    def __init__(self, num_classes: int, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        if not 1 <= num_classes <= 10_000:
            raise UserError(f"num_classes: got {num_classes}; it should be a number from 1 to 10000")
        self.register_buffer("counts", torch.zeros(num_classes, num_classes, dtype=torch.int64))

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Count a batch. output (N, num_classes, ...) float, target (N, ...) int64."""
        num_classes = len(self.counts)
        if output.shape[1] != num_classes:
            raise ValueError(f"num_classes is {num_classes}, and the model gives {output.shape[1]}")
        _require_class_targets(output, target)
        counted = (target != self.ignore_index).flatten()
        cells = (target * num_classes + output.argmax(dim=1)).flatten()
        self.counts.view(-1).index_add_(0, torch.where(counted, cells, 0), counted.to(cells.dtype))

    def compute(self) -> torch.Tensor:
        """Return the counts."""
        return self.counts

    def reset(self) -> None:
        """Forget all batches."""
        self.counts.zero_()

    def merge_state(self, other: "ConfusionMatrix") -> None:
        """Add the counts of another process."""
        self.counts += other.counts.to(self.counts.device)


class MacroF1(ConfusionMatrix):
    """The mean of 2 TP / (2 TP + FP + FN) over the classes that occur in targets or predictions."""

    def compute(self) -> torch.Tensor:
        """Return the mean, a 0-dim tensor; 0 before the first batch."""
        counts = self.counts.cpu().double()  # MPS has no double precision
        hits, occurrences = counts.diagonal(), counts.sum(dim=0) + counts.sum(dim=1)
        return (2 * hits / occurrences.clamp(min=1)).sum() / (occurrences > 0).sum().clamp(min=1)
