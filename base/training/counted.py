"""What the mean over a batch is taken over, where that is not its samples: the targets that count, by class weights.

torch's cross_entropy and nll_loss divide by the number, or by the sum of the class weights, of the targets that are not
ignore_index. Averages over batches are exact only if each batch is weighted by what its mean was divided by.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset, default_collate

from base.data.in_memory import InMemoryDataset, whole_batch
from base.data.seeded import unseeded
from utils.batches import collate
from utils.device import exact_float
from utils.epoch_metrics import of_training
from utils.errors import UserError
from utils.nested import num_samples
from utils.signatures import signature

if TYPE_CHECKING:
    from trainer.trainer import Trainer

Count = Callable[[Any], "int | torch.Tensor"]
"""A function of a batch's target that returns what the mean over the batch is divided by: a number or 0-dim tensor."""

IGNORED = -100  # torch's default for ignore_index
_NO_CLASSES = (1, 0)  # the range of targets that are no class numbers, such as shares of classes
_MOST_LABELS = 10_000_000  # that are searched for ignored ones; beyond it each batch is counted


def counts_of(criterion: Any, metric_ftns: Sequence[Any], loader: Iterable[Any]) -> dict[str, Count]:
    """Return {"loss" or the name of a metric: its Count}, without those that are means over samples.

    loader: batches of the data; its labels may tell that there is nothing to ignore.

    A loss or metric of the project's own may have an attribute `counted`: "targets" if it counts as torch's
    cross_entropy does, or a Count.
    """
    labels = functools.cache(lambda: _range_of_labels(loader))
    counts = {"loss": _count_of("loss", criterion, labels)}
    for metric in metric_ftns:
        counts[metric.__name__] = _count_of(f"metrics: {metric.__name__}", metric, labels)
    return {name: count for name, count in counts.items() if count is not None}


def declares_count(function: Any) -> bool:
    """Whether it is known what the mean of a loss or metric is taken over: it is torch's, or has `counted`."""
    inner = getattr(function, "func", function)
    return _is_of_torch(inner) or getattr(inner, "counted", None) is not None


def counts_in_training(trainer: "Trainer") -> dict[str, Count]:
    """Return counts_of for training; of a compute_loss of the trainer's own, nothing is known of what it counts."""
    counts = counts_of(trainer.criterion, of_training(trainer.metric_ftns), trainer.data_loader)
    if _has_own_loss(trainer):
        counts.pop("loss", None)
    return counts


def averaged_over(trainer: "Trainer") -> str | None:
    """Return a line about what the loss is averaged over, None if it is samples as far as is known before training."""
    if trainer.has_own_loop:
        return None
    count = counts_of(trainer.criterion, (), trainer.data_loader).get("loss")
    what = "what its counted() returns"
    if isinstance(count, CountedTargets):
        weights = "" if count.weight is None else ", each by the weight of its class"
        what = f"the targets other than {count.ignore_index}{weights}"
    if count is None or (isinstance(count, CountedTargets) and not count.is_unusual):
        return None
    if _has_own_loss(trainer):
        how = "in training over samples, since compute_loss is the trainer's own (see trains_on_criterion)"
        return f"loss: averaged in validation over {what}; {how}"
    return f"loss: averaged over {what}, not over samples"


def _has_own_loss(trainer):
    """Whether the loss of training may be another one than the criterion's."""
    own = trainer.overrides("compute_loss") or trainer.overrides("_train_batch")
    return own and not getattr(trainer, "trains_on_criterion", False)


class CountedTargets:
    """The Count of torch's cross_entropy and nll_loss of class numbers; of shares of classes, the number of samples.

    weight: (C,) the weight of each class, None for 1.
    ignore_index: targets that do not count.

    The attribute is_unusual says whether the run is known to weight or to ignore targets.
    """

    def __init__(self, weight: torch.Tensor | None = None, ignore_index: int = IGNORED) -> None:
        self.weight = weight
        self.ignore_index = ignore_index
        self.is_unusual = weight is not None or ignore_index != IGNORED

    def __call__(self, target: Any) -> int | torch.Tensor:
        if not isinstance(target, torch.Tensor) or target.is_floating_point() or target.ndim == 0:
            return num_samples(target)
        counts = target != self.ignore_index
        if self.weight is None:
            return counts.count_nonzero()
        weights = self.weight.to(target.device)[torch.where(counts, target, 0)] * counts
        return weights.sum(dtype=exact_float(target.device))


def _count_of(place: str, function: Any, range_of_labels: Callable[[], tuple[int, int] | None]) -> Count | None:
    """The Count of a loss or metric; None for the number of samples."""
    inner, bound = getattr(function, "func", function), getattr(function, "keywords", {})
    counted: Any = "targets" if _is_of_torch(inner) else getattr(inner, "counted", None)
    if isinstance(counted, str) and counted != "targets":
        raise UserError(f"{place}: counted is {counted!r}; it should be 'targets', or a function of the target")
    if counted != "targets":
        return _with_arguments(place, counted, inner, bound) if callable(counted) else None
    weight, ignore_index, reduction = (_setting(inner, bound, name) for name in ("weight", "ignore_index", "reduction"))
    if reduction == "sum":
        return None
    count = CountedTargets(weight, IGNORED if ignore_index is None else ignore_index)
    labels = range_of_labels()
    if labels is not None:
        if labels == _NO_CLASSES or (weight is None and not labels[0] <= count.ignore_index <= labels[1]):
            return None
        count.is_unusual = True
    return count


def _with_arguments(place: str, counted: Any, function: Any, bound: dict[str, Any]) -> Count:
    """The Count with those of the loss function's arguments, as given or by default, that `counted` takes, too.

    Raises UserError for one that the function does not have.
    """
    if not inspect.isfunction(function):  # an object, whose method knows its own
        return counted
    own = {one.name: one.default for one in signature(function).parameters.values() if one.default is not one.empty}
    own |= bound
    _, *named = signature(counted).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in named):
        return functools.partial(counted, **own)
    for one in named:
        if one.name not in own:
            has = f"whose arguments are {', '.join(own)}" if own else "which has none besides output and target"
            raise UserError(f"{place}: counted takes {one.name!r}, and is given the arguments of the function, {has}")
    return functools.partial(counted, **{one.name: own[one.name] for one in named})


def _is_of_torch(function):
    """Whether it is torch's cross_entropy or nll_loss, as a function or as an object of its class."""
    if any(function is one for one in (F.cross_entropy, F.nll_loss)):
        return True
    forward = getattr(type(function), "forward", None)  # a subclass may have its own
    return forward is not None and forward in (torch.nn.CrossEntropyLoss.forward, torch.nn.NLLLoss.forward)


def _setting(inner, bound, name):
    """The argument that was bound to a function, or its default; or the attribute of an object."""
    if name in bound:
        return bound[name]
    if hasattr(inner, name) or not inspect.isroutine(inner):
        return getattr(inner, name, None)
    parameter = signature(inner).parameters.get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def _range_of_labels(loader):
    """(least, greatest) of the class numbers of all samples; None if they are known only batch by batch."""
    labels = _targets_passed_on(loader)
    if labels is None or not 0 < np.prod(labels.shape) <= _MOST_LABELS:
        return None
    if "int" not in str(labels.dtype):
        return _NO_CLASSES
    if isinstance(labels, torch.Tensor) and "uint" in str(labels.dtype):  # torch has no min of most of these
        labels = labels.long()
    if isinstance(labels, torch.Tensor):
        least, greatest = torch.stack(labels.aminmax()).tolist()  # in one read
        return least, greatest
    return int(labels.min()), int(labels.max())


def _targets_passed_on(loader):
    """The array or tensor of the targets of all samples, as the loader passes them on; None if there is none."""
    if isinstance(loader, (list, tuple)):  # of batches
        different = {id(batch): batch for batch in loader}.values()
        targets = [batch[1] for batch in different if isinstance(batch, (list, tuple)) and len(batch) == 2]
        if len(targets) == len(different) and all(isinstance(target, torch.Tensor) for target in targets):
            return torch.cat([target.flatten() for target in targets]) if targets else None
        return None
    dataset = unseeded(getattr(loader, "dataset", None))
    if getattr(loader, "collate_fn", None) not in (collate, default_collate, whole_batch):
        return None
    # a subclass may make other targets of its arrays
    name = {InMemoryDataset: "arrays", TensorDataset: "tensors"}.get(type(dataset))
    arrays = getattr(dataset, name) if name else ()
    return arrays[1] if len(arrays) == 2 else None
