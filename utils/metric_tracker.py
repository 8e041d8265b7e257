"""Average numbers over an epoch, each batch weighted by its samples."""

import itertools
import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from utils.distributed.world import gather, sums
from utils.epoch_metrics import EpochMetrics, is_epoch_metric
from utils.errors import UserError
from utils.untrusted import as_count, as_list, as_number

if TYPE_CHECKING:
    import torch


class MetricTracker:
    """Weighted averages by name. Values may be 0-dim tensors on any device: they are read only when asked for.

    Of several processes each is told of its own samples; averages are those of all, and all ask for them together.

    keys: the names that can be updated. writer: if given, every update also writes a scalar at once, which waits
    for the device. finite_only: leave values that are nan or infinite out of the averages. over_epoch: EpochMetrics,
    which are no averages.
    """

    own_by_process = True

    def __init__(
        self, *keys: str, writer: Any = None, finite_only: bool = False, over_epoch: EpochMetrics | None = None
    ) -> None:
        self.keys = keys
        self._extra = ()
        self.writer = writer
        self.finite_only = finite_only
        self.over_epoch = over_epoch
        self.reset()

    @classmethod
    def of(cls, metrics: Sequence[Any], device: "torch.device | None" = None, finite_only: bool = False) -> Self:
        """A tracker of the loss and of metrics, functions and objects; of the objects it has copies, on the device."""
        objects = {f"metrics.{i}": metric for i, metric in enumerate(metrics) if is_epoch_metric(metric)}
        names = [metric.__name__ for metric in metrics if not is_epoch_metric(metric)]
        over_epoch = EpochMetrics(objects, device) if objects else None
        return cls("loss", *names, finite_only=finite_only, over_epoch=over_epoch)

    def reset(self) -> None:
        """Forget all values, and the names that came with update_extra."""
        self.keys = tuple(key for key in self.keys if key not in self._extra)
        self._extra = ()
        self._sums = dict.fromkeys(self.keys, 0.0)
        self._weights = dict.fromkeys(self.keys, 0)
        self._clear()
        self.forget()

    def forget(self) -> None:
        """Forget what the metrics over an epoch have seen, and so leave it out of checkpoints."""
        if self.over_epoch is not None:
            self.over_epoch.reset()

    def track(self, *keys: str) -> None:
        """Take further names, which a subclass of the Trainer updates; forgets all values."""
        self.keys += keys
        self.reset()

    def update_extra(self, key: str, value: "float | torch.Tensor", n: int = 1) -> None:
        """Add the mean of n samples under a name that need not have been there before."""
        if key not in self._values:
            self._add_key(key)
        elif key not in self._extra:
            raise UserError(f"loss: {key!r} is the name of a metric already; give this part of the loss another one")
        self.update(key, value, n)

    def _add_key(self, key):
        self.keys += (key,)
        self._extra += (key,)
        self._sums[key], self._weights[key] = 0.0, 0
        self._values[key], self._counts[key], self._num_read[key] = [], [], 0

    def update(self, key: str, value: "float | torch.Tensor", n: int = 1) -> None:
        """Add the mean of n samples. value: a number or a 0-dim tensor, which is not copied to the CPU yet."""
        if key not in self._values:
            raise ValueError(f"metric {key!r} is not tracked; tracked are {', '.join(self.keys)}")
        if self.writer is not None:
            self.writer.add_scalar(key, float(value))
        self._values[key].append(value.detach() if getattr(value, "requires_grad", False) else value)
        self._counts[key].append(n)

    def avg(self, key: str) -> float:
        """The average of all samples so far as a float, nan before the first."""
        self.collect()
        return self._average(key)

    def result(self) -> dict[str, float]:
        """{name: average} of all names, and what the metrics over an epoch give."""
        self.collect()
        averages = {key: self._average(key) for key in self.keys}
        return averages if self.over_epoch is None else averages | self.over_epoch.result()

    @property
    def tables(self) -> dict[str, list[list[float]]]:
        """{name: rows} of the metrics that are no numbers, such as a confusion matrix, as of the last result()."""
        return {} if self.over_epoch is None else self.over_epoch.tables

    def window(self, key: str) -> list[float]:
        """The values since the last collect, as floats."""
        self._read()
        return self._values[key]

    def collect(self) -> dict[str, float]:
        """{name: average since the last call}. Fetches all waiting tensors in one transfer a device."""
        self._read()
        latest, counted = {}, self._counted()
        totals = iter(sums([number for key in self.keys for number in self._total(key, counted[key])]))
        for key, total, weight in zip(self.keys, totals, totals, strict=True):
            self._sums[key] += total
            self._weights[key] += int(weight)
            latest[key] = total / weight if weight else float("nan")
        self._clear()
        return latest

    def state_dict(self) -> dict[str, Any]:
        """All values so far; they are read, which waits for the device."""
        self._read()
        window = {key: list(zip(self._values[key], self._counts[key], strict=True)) for key in self.keys}
        state = {"sums": dict(self._sums), "weights": dict(self._weights), "window": window}
        state |= {"extra": list(self._extra)} if self._extra else {}
        return state if self.over_epoch is None else state | {"over_epoch": self.over_epoch.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the values so far of those names that are tracked here."""
        self.reset()
        for key in as_list(state.get("extra", ())):
            if isinstance(key, str) and key not in self.keys:
                self._add_key(key)
        for key in self.keys:
            if key in state["sums"]:
                self._sums[key], self._weights[key] = as_number(state["sums"][key]), as_count(state["weights"][key])
                for value, n in as_list(state["window"][key]):
                    self.update(key, as_number(value), as_count(int(n)))
        if self.over_epoch is not None:
            self.over_epoch.load_state_dict(state.get("over_epoch", {}))

    def merged(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """One state for every process of as many as there may be now, of those that several had within an epoch."""
        state = {**states[0], "window": {key: [] for key in states[0]["window"]}}
        state["sums"], state["weights"] = dict(state["sums"]), dict(state["weights"])
        for key, windows in _by_key([one["window"] for one in states]).items():
            finite = [all(math.isfinite(v) for v, _ in batch) for batch in zip(*windows, strict=self.finite_only)]
            for window in windows:
                counted = finite if self.finite_only else itertools.repeat(True)
                good = [(v, n) for (v, n), counts in zip(window, counted, strict=False) if counts and n > 0]
                state["sums"][key] += sum(v * n for v, n in good)
                state["weights"][key] += sum(n for _, n in good)
        if self.over_epoch is not None:
            state["over_epoch"] = self.over_epoch.merged([one.get("over_epoch", {}) for one in states])
        return state

    def _average(self, key):
        return self._sums[key] / self._weights[key] if self._weights[key] else float("nan")

    def _clear(self):
        self._values = {key: [] for key in self.keys}  # since the last collect
        self._counts = {key: [] for key in self.keys}  # the samples of each
        self._num_read = dict.fromkeys(self.keys, 0)  # floats already, at the front

    def _read(self):
        """Turn all values into floats. Raises UserError for what is no number."""
        waiting = [value for key in self.keys for value in self._values[key][self._num_read[key] :]]
        try:
            numbers = iter(read_numbers(waiting))
        except (TypeError, ValueError, RuntimeError):
            self._refuse_what_is_no_number()
            raise
        for key, values in self._values.items():
            values[self._num_read[key] :] = itertools.islice(numbers, len(values) - self._num_read[key])
            self._num_read[key] = len(values)

    def _refuse_what_is_no_number(self):
        for key, value in ((key, value) for key, values in self._values.items() for value in values):
            shape = tuple(getattr(value, "shape", ()))
            if math.prod(shape) != 1 or not hasattr(value, "__float__"):
                kind = "None" if value is None else f"a {type(value).__name__}"
                kind += f" of shape {shape}" if shape else ""
                where = key if key == "loss" else f"metrics: {key!r}"
                raise UserError(f"{where} returned {kind}; it should return a number or a 0-dim tensor") from None

    def _counted(self):
        """{key: whether each value since the last collect counts}, None for all.

        Of values that must be finite one counts if those of the same batch are so in all processes.
        """
        if not self.finite_only:
            return dict.fromkeys(self.keys)
        finite = gather({key: list(map(math.isfinite, self._values[key])) for key in self.keys})
        return {key: list(map(all, zip(*of_one, strict=True))) for key, of_one in _by_key(finite).items()}

    def _total(self, key, counted):
        """(sum, weight) of this process's values since the last collect."""
        values, counts = self._values[key], self._counts[key]
        if counted is not None or 0 in counts:
            good = [n > 0 and c for n, c in zip(counts, counted or itertools.repeat(True), strict=False)]
            values, counts = (list(itertools.compress(numbers, good)) for numbers in (values, counts))
        return sum(map(operator.mul, values, counts)), sum(counts)


def _by_key(dicts):
    """{key: [value in each]} of dicts with the same keys."""
    return {key: [one[key] for one in dicts] for key in dicts[0]}


def read_numbers(values: "Sequence[float | torch.Tensor]") -> list[float]:
    """Numbers and 0-dim tensors as python floats; tensors of one device and dtype travel together."""
    groups = {}
    for position, value in enumerate(values):
        if hasattr(value, "detach"):  # a tensor, and no NumPy scalar, which has a device too
            groups.setdefault((value.device, value.dtype), []).append(position)
    fetched = list(values)
    for positions in groups.values():
        import torch

        scalars = [values[position] for position in positions]
        stacked = torch.stack([scalar if scalar.dim() == 0 else scalar.reshape(()) for scalar in scalars])
        for position, value in zip(positions, stacked.tolist(), strict=True):
            fetched[position] = value
    return [float(value) for value in fetched]
