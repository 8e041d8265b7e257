import math
import weakref

import numpy as np
import pytest
import torch

from helpers import reads_of_tensors
from utils import MetricTracker, UserError


def test_average_is_weighted():
    tracker = MetricTracker("loss")
    tracker.update("loss", 1.0, n=3)
    tracker.update("loss", torch.tensor(5.0), n=1)
    assert tracker.avg("loss") == 2.0 and tracker.result() == {"loss": 2.0}


@pytest.mark.old_defect(1)
def test_pandas_is_not_needed_to_count():
    tracker = MetricTracker("loss", "accuracy")
    tracker.update("loss", 2)
    assert tracker.result()["loss"] == 2 and math.isnan(tracker.result()["accuracy"])


def test_collect_gives_the_average_since_the_last_time():
    tracker = MetricTracker("loss")
    tracker.update("loss", 1.0)
    assert tracker.collect() == {"loss": 1.0}
    tracker.update("loss", 3.0, n=2)
    tracker.update("loss", torch.tensor(6.0, dtype=torch.float64))
    assert tracker.collect() == {"loss": 4.0} and tracker.avg("loss") == 13 / 4
    assert math.isnan(tracker.collect()["loss"])


def test_reset_forgets():
    tracker = MetricTracker("loss")
    tracker.update("loss", 1.0)
    tracker.reset()
    assert math.isnan(tracker.avg("loss"))


def test_tensors_of_several_types_and_shapes_are_read():
    tracker = MetricTracker("a")
    for value in (torch.tensor([2.0]), torch.tensor(2), torch.tensor(2.0, requires_grad=True), 2, True):
        tracker.update("a", value, n=1)
    assert tracker.avg("a") == 9 / 5


def test_a_value_of_the_cpu_counts_as_it_was_and_keeps_no_tensor():
    tracker = MetricTracker("a")
    value = torch.tensor(2.0)
    kept = weakref.ref(value)
    tracker.update("a", value)
    value.fill_(7.0)
    del value
    assert kept() is None and tracker.avg("a") == 2.0


def test_numpy_numbers_are_read():
    tracker = MetricTracker("a")
    for value in (np.float32(0.5), np.array(0.5), np.int64(2), torch.tensor(1.0)):
        tracker.update("a", value)
    assert tracker.avg("a") == 1.0


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'los' is not tracked; tracked are loss"):
        MetricTracker("loss").update("los", 1)


def test_writer_gets_each_value():
    class Writer:
        seen = ()

        def add_scalar(self, tag, value):
            self.seen += ((tag, value),)

    tracker = MetricTracker("loss", writer=Writer())
    tracker.update("loss", torch.tensor(1.5))
    assert tracker.writer.seen == (("loss", 1.5),)


def test_of_several_processes_a_batch_that_is_not_finite_in_one_counts_in_none_after_a_restart_too():
    tracker = MetricTracker("loss", finite_only=True)
    first, second = (
        {"sums": {"loss": 0.0}, "weights": {"loss": 0}, "window": {"loss": [(value, 2), (3.0, 1)]}}
        for value in (1.0, math.nan)
    )
    merged = tracker.merged([first, second])
    assert (merged["sums"]["loss"], merged["weights"]["loss"]) == (6.0, 2)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("high", "a str"),
        (None, "None"),
        ({"a": 1.0}, "a dict"),
        (torch.zeros(3), "a Tensor of shape (3,)"),
        (np.zeros((2, 3)), "a ndarray of shape (2, 3)"),
    ],
)
def test_what_a_metric_returns_that_is_no_number_is_named(value, kind):
    tracker = MetricTracker("loss", "good", "odd")
    for name, first in (("loss", 1.0), ("good", torch.tensor(1.0)), ("odd", value)):
        tracker.update(name, first)
    tracker.update("odd", 1.0)
    with pytest.raises(UserError) as told:
        tracker.collect()
    assert str(told.value) == f"metrics: 'odd' returned {kind}; it should return a number or a 0-dim tensor"


def test_values_and_weights_of_any_dtype_are_read_in_one_transfer(monkeypatch):
    tracker = MetricTracker("loss", "hits", "share")
    for loss, weight in ((0.5, 2.5), (math.nan, 0.0), (1.5, 1.25)):
        tracker.update("loss", torch.tensor(loss), n=torch.tensor(weight, dtype=torch.float64))
        tracker.update("hits", torch.tensor(2**40), n=torch.tensor(3))
        tracker.update("share", torch.tensor(0.1, dtype=torch.float64), n=4)
    reads = reads_of_tensors(monkeypatch)
    assert tracker.result() == {"loss": 3.125 / 3.75, "hits": 2**40, "share": pytest.approx(0.1, rel=1e-15)}
    assert reads == ["tolist"]


def test_weights_that_are_no_counts_are_kept_in_a_checkpoint():
    trackers = [MetricTracker("loss") for _ in range(2)]
    for value, weight in ((1.0, 0.3), (2.0, 5), (4.0, torch.tensor(0.7))):
        trackers[0].update("loss", value, weight)
    trackers[0].collect()
    trackers[0].update("loss", 3.0, 0.1)
    state = trackers[0].state_dict()
    trackers[1].load_state_dict(state)
    assert trackers[1].state_dict() == state and trackers[1].result() == trackers[0].result()
    for weight in (-1, math.inf, math.nan, "3", True):
        with pytest.raises(ValueError, match="a number"):
            trackers[1].load_state_dict({**state, "weights": {"loss": weight}})
