"""Metrics that are not means over batches, such as F1: they see every batch and are computed at the end of an epoch."""

import contextlib
import copy
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from utils.distributed.world import gather, is_main, world_size
from utils.errors import UserError
from utils.nested import map_tensors
from utils.untrusted import as_count

if TYPE_CHECKING:
    import torch

METHODS = ("update", "compute", "reset", "state_dict", "load_state_dict")


def is_epoch_metric(metric: Any) -> bool:
    """Whether it is an object with update, compute, reset and a state, rather than a function of a batch."""
    return all(callable(getattr(metric, method, None)) for method in METHODS)


def of_training(metrics: Sequence[Any]) -> list[Any]:
    """Return the metrics that are measured on training batches, too: not those whose in_training is False.

    The attribute is the metric's own, or `training` of its entry in the config.
    """
    return [metric for metric in metrics if _in_training(metric)]


def _in_training(metric):
    function = getattr(metric, "func", metric)  # of a functools.partial
    return getattr(metric, "in_training", getattr(function, "in_training", True))


class EpochMetrics:
    """Copies of metrics with update(output, target), compute(), reset() and a state, on the device.

    compute() returns one number, or a square table such as a confusion matrix, and leaves the metric's state as it is.
    Tables are not among the results but in the attribute tables, {name: rows}, after each result().

    metrics: {place in the config: metric}, each with a __name__.

    Raises UserError, naming the place, for a metric that returns something else: at once if it can be computed before
    its first batch, otherwise after it.
    """

    def __init__(self, metrics: Mapping[str, Any], device: "torch.device | None" = None) -> None:
        self._metrics = {place: copy.deepcopy(metric) for place, metric in metrics.items()}
        if world_size() > 1:
            for place, metric in metrics.items():
                _require_mergeable(place, metric)
        self.names = [metric.__name__ for metric in self._metrics.values()]
        self.device = device
        self.tables = {}
        for metric in self._metrics.values():
            for part in _parts_of_torchmetrics(metric):
                part.persistent(True)  # otherwise its state_dict is empty
                part.distributed_available_fn = lambda: False  # states are merged here, not in compute()
            self._to_device(metric)
        self.reset()
        self._check_results()
        self.reset()  # torchmetrics keeps the value that it has computed
        self._was_checked = False

    def reset(self) -> None:
        """Forget all batches."""
        self.num_batches = 0
        for metric in self._metrics.values():
            metric.reset()

    def update(self, output: Any, target: Any) -> None:
        """Pass a batch to the metrics; nothing is read from the device unless a metric does so itself."""
        output = map_tensors(_detached, output)  # a metric that keeps it keeps no graph
        for place, metric in self._metrics.items():
            with _naming(place, metric):
                metric.update(output, target)
        self.num_batches += 1
        if not self._was_checked:
            self._was_checked = True
            self._check_results()
            if world_size() > 1:  # whose states are merged
                self.require_state()

    def require_state(self) -> None:
        """Raise UserError for a metric whose state lacks what it has seen, which a resumed run would not count.

        Its state is loaded into a copy, whose compute() should give the same.
        """
        states = copy.deepcopy(self.state_dict()).get("states", {})
        for place, metric in self._metrics.items():
            if (value := _tried(place, metric)) is None:  # it needs more batches
                continue
            other, why = copy.deepcopy(metric), ""
            other.reset()
            try:
                self._load(other, states[metric.__name__])
            except Exception as error:  # whatever a load_state_dict of the project's own raises
                why = f": {' '.join(str(error).split()) or type(error).__name__}"
            if why or not _is_same(value, _tried(place, other)):
                raise UserError(
                    f"{place}: {type(metric).__name__}: what it has seen is not restored by load_state_dict of its "
                    f"state_dict{why}; a run resumed within an epoch would not count it. Keep it in buffers of a fixed "
                    "shape, or write both methods: docs/metrics.md"
                )

    def result(self) -> dict[str, float]:
        """Return {name: number} of the metrics that give one, nan before the first batch; waits for the device."""
        values = {name: math.nan for name in self.names if name not in self.tables}
        metrics, num_batches = self._metrics, self.num_batches
        if world_size() > 1:
            metrics, num_batches = self._of_all(gather(self.state_dict()))
        if num_batches:
            values = {metric.__name__: _computed(place, metric) for place, metric in metrics.items()}
        self.tables = {name: value for name, value in values.items() if isinstance(value, list)}
        return {name: value for name, value in values.items() if name not in self.tables}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each metric; empty before the first batch."""
        states = {metric.__name__: metric.state_dict() for metric in self._metrics.values()}
        return {"num_batches": self.num_batches, "states": states} if self.num_batches else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the metrics of the same names. Raises ValueError, naming the place, if a state does not fit."""
        self.reset()
        self.num_batches = as_count(state.get("num_batches", 0))
        for place, metric in self._metrics.items():
            if metric.__name__ in state.get("states", {}):
                try:
                    self._load(metric, state["states"][metric.__name__])
                except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
                    raise ValueError(f"{place}: {' '.join(str(error).split())}") from None

    def merged(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the merged states of several processes in the first process, an empty state in the others."""
        metrics, num_batches = self._of_all(states)
        if not num_batches or not is_main():
            return {}
        return {"num_batches": num_batches, "states": {m.__name__: m.state_dict() for m in metrics.values()}}

    def _of_all(self, states):
        """({place: metric}, number of batches) of what all processes have seen, given their states."""
        states = [state for state in states if state]
        metrics = {place: copy.deepcopy(metric) for place, metric in self._metrics.items()}
        for place, metric in metrics.items():
            metric.reset()  # also forgets the value that torchmetrics has computed and kept
            for i, state in enumerate(states):
                other = copy.deepcopy(metric) if i else metric
                self._load(other, state["states"][metric.__name__])
                if i:
                    try:
                        metric.merge_state(other)
                    except (RuntimeError, ValueError, TypeError) as error:
                        raise UserError(_described(place, metric, error)) from error
        return metrics, sum(state["num_batches"] for state in states)

    def _load(self, metric, state):
        if hasattr(metric, "modules"):  # torchmetrics accepts any state
            before = metric.state_dict()
            if before.keys() != state.keys() or any(type(before[key]) is not type(state[key]) for key in before):
                raise ValueError(f"it is not the state of a {type(metric).__name__}")
        metric.load_state_dict(state)
        self._to_device(metric)

    def _to_device(self, metric):
        if self.device is not None and hasattr(metric, "to"):
            metric.to(self.device)

    def _check_results(self):
        """Raise UserError for a metric that does not return a number or a table, and record the tables."""
        for place, metric in self._metrics.items():
            value = _tried(place, metric)
            if isinstance(value, list):
                self.tables[metric.__name__] = value


def _detached(tensor):
    return tensor.detach() if hasattr(tensor, "detach") else tensor


def _require_mergeable(place, metric):
    """Raise UserError for a metric that cannot add what the metric of another process has seen."""
    if not hasattr(metric, "merge_state"):
        raise UserError(
            f"{place}: {type(metric).__name__} has no merge_state(other), which adds what the metric of another "
            "process has seen; write one, or train in one process"
        )
    parts = _parts_of_torchmetrics(metric)
    if not parts or type(metric).merge_state.__module__ != "torchmetrics.metric":
        return
    if why := "it holds further metrics" if len(parts) > 1 else _not_added_up(metric):
        raise UserError(
            f"{place}: {type(metric).__name__}: {why}, which the merge_state of torchmetrics does not add up; write "
            "one, or train in one process"
        )


def _not_added_up(metric):
    """Why the merge_state of torchmetrics does not add up the metric's states; "" if it does."""
    if metric.full_state_update is not False:
        return "its full_state_update is not False"
    if metric.dist_sync_on_step:
        return "its dist_sync_on_step is true"
    # torchmetrics has no public way to ask for the dist_reduce_fx that add_state was given. Its merge_state weights a
    # mean as if each side had seen one batch, and stacks a tensor without dist_reduce_fx, both without an error.
    for name, how in metric._reductions.items():
        is_tensor = hasattr(metric.metric_state[name], "dim")
        if getattr(how, "__name__", "") == "dim_zero_mean":
            return f"its {name!r} is a mean"
        if how is None and is_tensor:
            return f"its {name!r} has no dist_reduce_fx"
        if how is not None and not is_tensor and not getattr(how, "__name__", "").startswith("dim_zero_"):
            return f"its {name!r} is a list with a dist_reduce_fx of its own"
    return ""


def _parts_of_torchmetrics(metric):
    """The metric and the metrics inside it, if they are of torchmetrics, which need not be installed."""
    torchmetrics = sys.modules.get("torchmetrics")  # whoever made such a metric has imported it
    if torchmetrics is None:
        return []
    return [part for part in getattr(metric, "modules", tuple)() if isinstance(part, torchmetrics.Metric)]


def _tried(place, metric):
    """The result as _number_or_table returns it; None if there is none yet. No random number is drawn."""
    from utils.seed import rng_state, set_rng_state  # imports NumPy, which a config with an error need not wait for

    before = rng_state()  # a resumed run tries at another batch, and its random numbers must stay the same
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = metric.compute()
    except Exception:  # it may need more batches; an error at the end of the epoch is raised
        return None
    finally:
        set_rng_state(before)
    return _number_or_table(value, place, metric)


def _is_same(one, other):
    """Whether two results are equal, but for what a device's order of additions changes; nan equals nan."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if not isinstance(one, float) or not isinstance(other, float):
        return one == other
    return math.isclose(one, other, rel_tol=1e-5) or (math.isnan(one) and math.isnan(other))


def _computed(place, metric):
    """The result, a float or the rows of a square table, of a metric that has seen a batch."""
    with _naming(place, metric), warnings.catch_warnings():
        # torchmetrics does not know of updates before its state was loaded
        warnings.filterwarnings("ignore", "The ``compute`` method of metric")
        value = metric.compute()
    return _number_or_table(value, place, metric)


@contextlib.contextmanager
def _naming(place, metric):
    """Turn a metric's ValueError, and any error of torchmetrics, into a UserError that names the metric."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) or _parts_of_torchmetrics(metric):
            raise UserError(_described(place, metric, error)) from error
        raise


def _described(place, metric, error):
    return f"{place}: {type(metric).__name__}: {' '.join(str(error).split())}"


def _number_or_table(value, place, metric):
    """The value as a float, or as the rows of a square table. Raises UserError for anything else."""
    shape = getattr(value, "shape", None)
    if isinstance(value, (int, float)) or (shape is not None and math.prod(shape) == 1):
        return float(value)
    if shape is not None and len(shape) == 2 and shape[0] == shape[1]:
        return value.tolist()
    what = f"a {type(value).__name__}" if shape is None else f"a tensor of shape {tuple(shape)}"
    averages = '; its argument "average" makes it one' if hasattr(metric, "average") else ""
    raise UserError(
        f"{place}: {type(metric).__name__} gave {what}; it should be one number, or a square table{averages}"
    )
