"""Average numbers over an epoch, each batch weighted by its samples, or by what a loss or metric counts instead."""

import itertools
import math
import operator
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from utils.distributed.world import gather, sums
from utils.epoch_metrics import EpochMetrics, is_epoch_metric
from utils.errors import UserError
from utils.untrusted import as_list, as_number, as_weight

if TYPE_CHECKING:
    import torch


NAN_OF_WRITER = float("nan")
"""The average of a name that was never updated in a tracker with a writer; an object of its own, unlike math.nan."""


_NAMES_OF_LOG = "epoch", "lr", "grad_norm"


class MetricTracker:
    """Weighted averages by name. Values may be 0-dim tensors on any device; they are read only when asked for.

    With several processes, each updates with its own samples. Averages are over the samples of all processes, which
    must ask for them together.

    keys: names that can be updated.
    writer: if given, every update also writes a scalar at once, which waits for the device.
    finite_only: leave a batch's value out of the averages if it is nan or infinite in any process.
    over_epoch: metrics that are computed over the whole epoch.

    The attribute counts is {key: function of a batch's target that returns the weight of its value}, for values that
    are not means over samples. The attribute apart names the metrics that a batch does not update by their name: those
    of over_epoch, and those that are not measured in training.
    """

    own_by_process = True

    def __init__(
        self, *keys: str, writer: Any = None, finite_only: bool = False, over_epoch: EpochMetrics | None = None
    ) -> None:
        self.keys = keys
        self._extra = ()
        self.apart: Collection[str] = ()
        self.writer = writer
        self.finite_only = finite_only
        self.over_epoch = over_epoch
        self.counts: Mapping[str, Any] = {}
        self.counted_for: tuple[Any, ...] = ()  # the loss and the loader for which evaluate has set counts
        self.reset()

    @classmethod
    def of(
        cls,
        metrics: Sequence[Any],
        device: "torch.device | None" = None,
        finite_only: bool = False,
        only: Sequence[Any] | None = None,
    ) -> Self:
        """Return a tracker of the loss and of metrics: functions, and objects, which it copies to the device.

        metrics: as the config lists them, since errors tell their places. only: those to track; by default all.
        """
        tracked = {id(metric) for metric in (metrics if only is None else only)}
        listed = {f"metrics.{i}": metric for i, metric in enumerate(metrics) if id(metric) in tracked}
        objects = {place: metric for place, metric in listed.items() if is_epoch_metric(metric)}
        names = [metric.__name__ for place, metric in listed.items() if place not in objects]
        over_epoch = EpochMetrics(objects, device) if objects else None
        tracker = cls("loss", *names, finite_only=finite_only, over_epoch=over_epoch)
        tracker.apart = {metric.__name__ for metric in metrics} - {*names}
        return tracker

    def reset(self) -> None:
        """Forget all values, and the names that update_extra added."""
        self.keys = tuple(key for key in self.keys if key not in self._extra)
        self._extra = ()
        self._sums = dict.fromkeys(self.keys, 0.0)
        self._weights: dict[str, float] = dict.fromkeys(self.keys, 0)
        # of each batch since the last collect: (value, number of samples, or what counted of them); of each since the
        # last read: the same, but in two lists, since the garbage collector would walk through a pair of every update
        self._window = {key: [] for key in self.keys}
        self._unread = {key: ([], []) for key in self.keys}
        self.forget()

    def forget(self) -> None:
        """Forget what the metrics over the epoch have seen, so that checkpoints do not hold it."""
        if self.over_epoch is not None:
            self.over_epoch.reset()

    def track(self, *keys: str) -> None:
        """Add names that a subclass of the Trainer updates; forgets all values."""
        self.keys += keys
        self.reset()

    def update_extra(self, key: str, value: "float | torch.Tensor", n: "float | torch.Tensor" = 1) -> None:
        """Add the mean over n samples under a name, which is added if it is new. Raises UserError for one in use."""
        if key not in self._extra:
            names = [*self.keys, *(self.over_epoch.names if self.over_epoch else ())]
            if key in names or key in _NAMES_OF_LOG or key.startswith("val_"):
                what = "is the name of a metric already" if key in names else "names what a run itself logs"
                raise UserError(f"loss: {key!r} {what}; give this part of the loss another one")
            self._add_key(key)
        self.update(key, value, n)

    def _add_key(self, key):
        self.keys += (key,)
        self._extra += (key,)
        self._sums[key], self._weights[key], self._window[key], self._unread[key] = 0.0, 0, [], ([], [])

    def update(self, key: str, value: Any, n: "float | torch.Tensor" = 1) -> None:
        """Add the mean over n samples. value, n: numbers or 0-dim tensors, which are not copied to the CPU yet.

        n may also be a sum of weights. A value over 0 samples is left out, whatever it is.
        """
        if key not in self._unread:
            remedy = "add it by the constructor of the MetricTracker, or by its method track"
            raise UserError(f"metric {key!r} is not tracked; tracked are {', '.join(self.keys)}; {remedy}")
        if self.writer is not None:
            self.writer.add_scalar(key, float(value))
        values, counts = self._unread[key]
        if getattr(value, "is_cpu", False) and value.dim() == 0:
            value = value.item()  # on the CPU nothing waits, and it is faster than to keep the tensor
        elif getattr(value, "requires_grad", False):
            value = value.detach()
        values.append(value)
        counts.append(n)

    def avg(self, key: str) -> float:
        """Return the average over all samples so far, nan before the first."""
        self.collect()
        return self._average(key)

    def result(self) -> dict[str, float]:
        """Return {name: average} of all names, and the results of the metrics over the epoch."""
        self.collect()
        averages = {key: self._average(key) for key in self.keys}
        return averages if self.over_epoch is None else averages | self.over_epoch.result()

    def _average(self, key):
        before_first = math.nan if self.writer is None else NAN_OF_WRITER
        return self._sums[key] / self._weights[key] if self._weights[key] else before_first

    @property
    def tables(self) -> dict[str, list[list[float]]]:
        """{name: rows} of the metrics that are tables, such as a confusion matrix, as of the last result()."""
        return {} if self.over_epoch is None else self.over_epoch.tables

    def window(self, key: str) -> list[float]:
        """Return the values since the last collect, as floats."""
        self._read()
        return [value for value, _ in self._window[key]]

    def collect(self) -> dict[str, float]:
        """Return {name: average since the last call}. Fetches all waiting tensors in one transfer per device."""
        self._read()
        masks = gather({key: _finite(window) for key, window in self._window.items()}) if self.finite_only else []
        totals = iter(sums([number for key in self.keys for number in _total(self._window[key], key, masks)]))
        latest = {}
        for key, total, weight in zip(self.keys, totals, totals, strict=True):
            self._sums[key] += total
            self._weights[key] += int(weight) if weight % 1 == 0 else weight
            self._window[key] = []
            latest[key] = total / weight if weight else math.nan
        return latest

    def _read(self):
        """Move all unread values into the window, as floats. Raises UserError for a value that is not a number."""
        read_together([self])

    def _waiting(self):
        """The values and counts of the keys where some of them may be tensors."""
        parts = (part for values, counts in self._unread.values() for part in ((values, float), (counts, int)))
        return [value for values, kind in parts if not _are_all(values, kind) for value in values]

    def _take(self, numbers):
        """Move the unread values into the window. numbers: an iterator of the values of _waiting()."""
        for key, (values, counts) in self._unread.items():
            if not _are_all(values, float):
                values = [next(numbers) for _ in values]
            if not _are_all(counts, int):
                counts = [as_weight(next(numbers)) for _ in counts]
            # a mean over nothing, such as that of targets that are all ignored, is nan
            self._window[key] += [(value if n else 0.0, n) for value, n in zip(values, counts, strict=True)]
            self._unread[key] = [], []

    def _require_numbers(self):
        for key, value in ((key, value) for key, both in self._unread.items() for part in both for value in part):
            shape = tuple(getattr(value, "shape", ()))
            if math.prod(shape) != 1 or not hasattr(value, "__float__"):
                kind = "None" if value is None else f"a {type(value).__name__}"
                kind += f" of shape {shape}" if shape else ""
                where = key if key == "loss" else f"metrics: {key!r}"
                raise UserError(f"{where} returned {kind}; it should return a number or a 0-dim tensor") from None

    def state_dict(self) -> dict[str, Any]:
        """Return all values so far; reading them waits for the device."""
        self._read()
        window = {key: list(self._window[key]) for key in self.keys}
        state = {"sums": dict(self._sums), "weights": dict(self._weights), "window": window}
        state |= {"extra": list(self._extra)} if self._extra else {}
        return state if self.over_epoch is None else state | {"over_epoch": self.over_epoch.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the values of the names that are tracked here. Raises ValueError for a state that does not fit."""
        self.reset()
        for key in as_list(state.get("extra", ())):
            if isinstance(key, str) and key not in self.keys:
                self._add_key(key)
        for key in self.keys:
            if key in state["sums"]:
                self._sums[key], self._weights[key] = as_number(state["sums"][key]), as_weight(state["weights"][key])
                for value, n in as_list(state["window"][key]):
                    self.update(key, as_number(value), as_weight(n))
        if self.over_epoch is not None:
            self.over_epoch.load_state_dict(state.get("over_epoch", {}))

    def merged(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """Return one state for any number of processes, given the states that several had within an epoch."""
        state = {**states[0], "window": {key: [] for key in states[0]["window"]}}
        state["sums"], state["weights"] = dict(state["sums"]), dict(state["weights"])
        windows = [one["window"] for one in states]
        masks = [{key: _finite(one[key]) for key in one} for one in windows] if self.finite_only else []
        for key in state["window"]:
            for one in windows:
                total, weight = _total(one[key], key, masks)
                state["sums"][key] += total
                state["weights"][key] += weight
        if self.over_epoch is not None:
            state["over_epoch"] = self.over_epoch.merged([one.get("over_epoch", {}) for one in states])
        return state


def _are_all(values, kind):
    return set(map(type, values)) <= {kind}


def _finite(window):
    return [math.isfinite(value) for value, _ in window]


def _total(window, key, masks):
    """(sum, weight) of a process's values. masks: {key: whether each value is finite} of all processes, or none."""
    if masks:
        counted = map(all, zip(*(mask[key] for mask in masks), strict=True))
        window = [batch for batch, counts in zip(window, counted, strict=True) if counts]
    values, weights = zip(*window, strict=True) if window else ((), ())
    return sum(map(operator.mul, values, weights)), sum(weights)  # a value of weight 0 is 0


def read_together(trackers: Sequence[MetricTracker], flags: "Sequence[torch.Tensor]" = ()) -> list[list[float]]:
    """Read all waiting values of the trackers, and the flags, in one transfer per device; returns those of the flags.

    flags: 1-dim tensors, at most one for each device; their order may change.

    Raises UserError for a value that is not a number.
    """
    waiting = [value for tracker in trackers for value in tracker._waiting()]
    try:
        numbers, found = read_numbers(waiting, flags)
    except (TypeError, ValueError, RuntimeError):
        for tracker in trackers:
            tracker._require_numbers()
        raise
    numbers = iter(numbers)
    for tracker in trackers:
        tracker._take(numbers)
    return found


def read_numbers(values: Sequence[Any], flags: "Sequence[torch.Tensor]" = ()) -> tuple[list[float], list[list[float]]]:
    """Return (numbers and 0-dim tensors as floats, [the numbers of each 1-dim tensor]).

    The tensors of one device are transferred together.
    """
    groups: dict[Any, dict[Any, list[int]]] = {one.device: {one.dtype: []} for one in flags}
    for position, value in enumerate(values):
        if hasattr(value, "detach"):  # a tensor; NumPy scalars also have a device
            groups.setdefault(value.device, {}).setdefault(value.dtype, []).append(position)
    fetched, found = list(values), []
    for device, by_dtype in groups.items():
        of_device = {one.dtype: one for one in flags if one.device == device}
        stacks = [_stacked([values[i] for i in group], of_device.get(dtype)) for dtype, group in by_dtype.items()]
        numbers = iter(_fetched(stacks))
        for dtype, group in by_dtype.items():
            for position in group:
                fetched[position] = next(numbers)
            if dtype in of_device:
                found.append(list(itertools.islice(numbers, len(of_device[dtype]))))
    return [float(value) for value in fetched], found


def _stacked(values, flags):
    """One 1-dim tensor of 0-dim tensors and, behind them, of the flags (N,), unless these are None."""
    import torch

    stack = [torch.stack([one if one.dim() == 0 else one.reshape(()) for one in values])] if values else []
    parts = stack if flags is None else [*stack, flags]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _fetched(stacks):
    """The numbers of 1-dim tensors of one device, each of another dtype, after one transfer if double holds them."""
    import torch

    from utils.device import exact_float

    holds_all = exact_float(stacks[0].device) is torch.float64 and not any(stack.is_complex() for stack in stacks)
    if len(stacks) == 1 or not holds_all:
        return [number for stack in stacks for number in stack.tolist()]
    return torch.cat([stack.double() for stack in stacks]).tolist()
