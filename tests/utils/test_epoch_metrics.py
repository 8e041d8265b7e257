import dataclasses
import math
from collections import OrderedDict

import pytest
import torch
from torchmetrics import Metric, classification, regression

from helpers import InAList, same
from model.metric import ConfusionMatrix, MacroF1
from utils import MetricTracker, UserError
from utils.runs.checkpoint import load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


def named(metric, name="metric"):
    metric.__name__ = name
    return metric


class Vector(torch.nn.Module):
    """Gives what it is told to, and nothing before the first batch."""

    def __init__(self, value):
        super().__init__()
        self.value = value
        self.register_buffer("seen", torch.tensor(False))

    def update(self, output, target):
        self.seen.fill_(True)

    def compute(self):
        if not self.seen:
            raise ZeroDivisionError
        return self.value

    def reset(self):
        self.seen.fill_(False)


def batches(size=7):
    torch.manual_seed(0)
    output = torch.randn(40, 3, requires_grad=True).softmax(1)  # AUROC makes shares of what is none, batch by batch
    target = torch.randint(3, (40,))
    return list(zip(output.split(size), target.split(size), strict=True))


def update_all(tracker, batches):
    for output, target in batches:
        tracker.over_epoch.update(output, target)
    return tracker


def f1_and_auroc():
    f1 = named(classification.MulticlassF1Score(3, average="macro"), "f1")
    return [f1, named(classification.MulticlassAUROC(3), "auroc"), named(MacroF1(3), "own_f1")]


@pytest.mark.parametrize("size", [1, 7, 40])
def test_result_is_exact_whatever_the_batch_size(size):
    whole = update_all(MetricTracker.of(f1_and_auroc(), CPU), batches(40)).result()
    parts = update_all(MetricTracker.of(f1_and_auroc(), CPU), batches(size)).result()
    assert same({**parts, "loss": 0}, {**whole, "loss": 0}) and list(parts) == ["loss", "f1", "auroc", "own_f1"]
    assert 0 < whole["f1"] == pytest.approx(whole["own_f1"], rel=1e-6)


@pytest.mark.parametrize("after", range(1, 6))
def test_state_goes_through_a_checkpoint_bit_for_bit(tmp_path, after):
    straight = update_all(MetricTracker.of(f1_and_auroc(), CPU), batches()[:after])
    save_checkpoint({"state_dict": {}, "metrics": straight.state_dict()}, tmp_path / "state.pth")
    resumed = MetricTracker.of(f1_and_auroc(), CPU)
    resumed.load_state_dict(load_checkpoint(tmp_path / "state.pth")["metrics"])
    for tracker in (straight, resumed):
        update_all(tracker, batches()[after:])
    assert same({**straight.result(), "loss": 0}, {**resumed.result(), "loss": 0})
    assert same(straight.state_dict()["over_epoch"], resumed.state_dict()["over_epoch"])


def test_two_trackers_share_no_state():
    metrics = f1_and_auroc()
    first, second = MetricTracker.of(metrics, CPU), MetricTracker.of(metrics, CPU)
    update_all(first, batches())
    assert math.isnan(second.result()["f1"]) and second.state_dict()["over_epoch"] == {}


def test_what_was_seen_is_forgotten_by_reset():
    tracker = update_all(MetricTracker.of(f1_and_auroc(), CPU), batches())
    before = tracker.result()
    tracker.reset()
    assert math.isnan(tracker.result()["own_f1"]) and tracker.state_dict()["over_epoch"] == {}
    assert same({**update_all(tracker, batches()).result(), "loss": 0}, {**before, "loss": 0})


def test_metric_that_keeps_outputs_keeps_no_graph():
    class Keeping(Vector):
        def update(self, output, target):
            self.value = output

        def compute(self):
            return self.value.requires_grad

    tracker = update_all(MetricTracker.of([named(Keeping(None))], CPU), batches())
    assert tracker.result()["metric"] == 0


def test_square_result_is_a_table_and_no_number():
    tracker = update_all(MetricTracker.of([named(ConfusionMatrix(3), "matrix")], CPU), batches())
    assert "matrix" not in tracker.result()
    assert sum(map(sum, tracker.tables["matrix"])) == 40


def test_wrong_shape_is_refused_before_the_first_batch_where_it_can_be():
    vector = named(classification.MulticlassF1Score(3, average=None))
    with pytest.raises(UserError, match=r"metrics.0: MulticlassF1Score gave a tensor of shape \(3,\); .*average"):
        MetricTracker.of([vector], CPU)


def test_states_of_several_processes_of_one_batch_each_are_merged_exactly(monkeypatch):
    """torchmetrics keeps the value that it has computed after the first batch."""
    parts = [update_all(MetricTracker.of(f1_and_auroc(), CPU), [batch]) for batch in batches(20)]
    states = [part.over_epoch.state_dict() for part in parts]
    monkeypatch.setattr("utils.epoch_metrics.world_size", lambda: 2)
    monkeypatch.setattr("utils.epoch_metrics.gather", lambda state: states)
    merged = parts[0].over_epoch.result()
    monkeypatch.undo()
    whole = update_all(MetricTracker.of(f1_and_auroc(), CPU), batches(40)).over_epoch.result()
    assert merged == whole


class Listed(Metric):
    full_state_update = False

    def __init__(self, how):
        super().__init__()
        self.add_state("seen", [], dist_reduce_fx=how)

    def update(self, output, target):
        self.seen.append(target)

    def compute(self):
        return torch.cat(self.seen).float().mean()


def test_list_with_a_reduction_of_its_own_is_refused_in_several_processes(monkeypatch):
    monkeypatch.setattr("utils.epoch_metrics.world_size", lambda: 2)
    MetricTracker.of([named(Listed("cat"))], CPU)
    with pytest.raises(UserError, match="its 'seen' is a list with a dist_reduce_fx of its own"):
        MetricTracker.of([named(Listed(lambda states: states[0]))], CPU)


@pytest.mark.parametrize(
    ("value", "what"), [(torch.ones(2), r"a tensor of shape \(2,\)"), ({}, "a dict"), (torch.ones(2, 3), "(2, 3)")]
)
def test_wrong_shape_is_refused_after_the_first_batch_at_the_latest(value, what):
    tracker = MetricTracker.of([named(MacroF1(3), "f1"), named(Vector(value))], CPU)
    with pytest.raises(UserError, match=r"metrics.1: Vector gave") as error:
        update_all(tracker, batches()[:1])
    assert what.replace("\\", "") in str(error.value)


@pytest.mark.parametrize("value", [2, 2.0, torch.tensor(2), torch.tensor([2.0])])
def test_number_of_any_kind_becomes_a_float(value):
    tracker = update_all(MetricTracker.of([named(Vector(value))], CPU), batches())
    assert type(tracker.result()["metric"]) is float and tracker.result()["metric"] == 2


def test_what_a_metric_has_against_its_first_batch_is_told_with_its_place():
    for metric, text in ((MacroF1(4), "num_classes is 4"), (classification.MulticlassF1Score(4), "number of classes")):
        tracker = MetricTracker.of([named(metric)], CPU)
        with pytest.raises(UserError, match=f"^metrics.0: {type(metric).__name__}: .*{text}"):
            update_all(tracker, batches())


def test_what_it_has_against_an_epoch_is_told_too():
    tracker = MetricTracker.of([named(regression.R2Score())], CPU)
    tracker.over_epoch.update(torch.ones(1), torch.ones(1))
    with pytest.raises(UserError, match=r"^metrics.0: R2Score: Needs at least two samples"):
        tracker.result()


def test_bug_in_a_metric_of_the_project_keeps_its_traceback():
    class Buggy(Vector):
        def update(self, output, target):
            raise KeyError("bug")

    with pytest.raises(KeyError):
        update_all(MetricTracker.of([named(Buggy(1))], CPU), batches())


@pytest.mark.parametrize("other", [MacroF1(4), classification.MulticlassAUROC(3), classification.MulticlassF1Score(3)])
def test_state_of_another_metric_is_refused_with_its_place(other):
    state = update_all(MetricTracker.of([named(MacroF1(3))], CPU), batches()).state_dict()
    with pytest.raises(ValueError, match=r"metrics.0: "):
        MetricTracker.of([named(other)], CPU).load_state_dict(state)


def test_state_that_is_no_tensor_is_refused():
    tracker = update_all(MetricTracker.of([named(classification.MulticlassF1Score(3))], CPU), batches())
    state = tracker.state_dict()
    state["over_epoch"]["states"]["metric"]["tp"] = "much"
    with pytest.raises(ValueError, match="it is not the state of a MulticlassF1Score"):
        tracker.load_state_dict(state)


def test_looking_at_a_metric_takes_no_random_numbers():
    class Drawing(Vector):
        def compute(self):
            return torch.rand(())

    before = torch.get_rng_state()
    MetricTracker.of([named(Drawing(None))], CPU).over_epoch.update(torch.ones(1), 1)
    assert torch.equal(torch.get_rng_state(), before)


@dataclasses.dataclass
class Named(OrderedDict):
    """As the outputs of transformers: a dataclass and a dict of the same entries, without update."""

    logits: torch.Tensor

    def __post_init__(self):
        self["logits"] = self.logits

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        setattr(self, key, value)

    def __reduce__(self):
        return type(self), (self.logits,)

    def update(self, *given):
        raise TypeError("has no update")


@dataclasses.dataclass(frozen=True)
class Found:
    boxes: torch.Tensor
    labels: list


def parts_of(value):
    if isinstance(value, Named):
        return [value.logits, *value.values()]
    return [value.boxes, *value.labels] if isinstance(value, Found) else [*getattr(value, "values", lambda: value)()]


@pytest.mark.parametrize("made", [lambda x: {"a": x, "b": x}, lambda x: (x, [x][0]), lambda x: Found(x, [x]), Named])
def test_a_metric_that_keeps_outputs_of_any_form_keeps_no_graph(made):
    class Kept(Vector):
        def update(self, output, target):
            super().update(output, target)
            self.output = output

    tracker = MetricTracker.of([named(Kept(1.0))], CPU)
    output = made(torch.ones(2, requires_grad=True) * 2)
    tracker.over_epoch.update(output, torch.ones(2))
    (kept,) = tracker.over_epoch._metrics.values()
    assert type(kept.output) is type(output) and not any(part.requires_grad for part in parts_of(kept.output))
    assert all(part.requires_grad for part in parts_of(output))  # the loss is computed from them


class InAGrowingBuffer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("hits", torch.zeros(0))

    def update(self, output, target):
        self.hits = torch.cat([self.hits, (output.argmax(1) == target).float()])

    def compute(self):
        return self.hits.mean()

    def reset(self):
        self.hits = torch.zeros(0)


class Forgetful(InAList):
    """Forgets one of two values when it is restored."""

    number = 0

    def update(self, output, target):
        super().update(output, target)
        self.number += 1

    def compute(self):
        return super().compute() + self.number

    def reset(self):
        super().reset()
        self.number = 0

    def state_dict(self):
        return {"hits": self.hits}

    def load_state_dict(self, state):
        self.hits = list(state["hits"])


class Whole(Forgetful):
    def state_dict(self):
        return {"hits": self.hits, "number": self.number}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.number = state["number"]


@pytest.mark.parametrize(
    ("metric", "why"), [(InAList(), ""), (InAGrowingBuffer(), ": Error.* size mismatch .*"), (Forgetful(), "")]
)
def test_metric_whose_state_lacks_what_it_has_seen_is_refused(metric, why):
    tracker = update_all(MetricTracker.of([named(MacroF1(3), "f1"), named(metric)], CPU), batches()[:1])
    what = f"^metrics.1: {type(metric).__name__}: what it has seen is not restored by load_state_dict of its state_dict"
    with pytest.raises(UserError, match=f"{what}{why}; a run resumed within an epoch would not count it"):
        tracker.over_epoch.require_state()


def test_metrics_whose_state_is_whole_are_left_as_they_were():
    metrics = [*f1_and_auroc(), named(ConfusionMatrix(3), "table"), named(Whole(), "whole"), named(Vector(2), "vector")]
    tracker = update_all(MetricTracker.of(metrics, CPU), batches()[:1])
    tracker.over_epoch.require_state()
    update_all(tracker, batches()[1:])
    assert tracker.result() == update_all(MetricTracker.of(metrics, CPU), batches()).result()


def test_the_processes_of_one_world_require_a_whole_state(monkeypatch):
    monkeypatch.setattr("utils.epoch_metrics.world_size", lambda: 2)
    mergeable = type("Mergeable", (InAList,), {"merge_state": lambda self, other: None})
    with pytest.raises(UserError, match="what it has seen is not restored"):
        update_all(MetricTracker.of([named(mergeable())], CPU), batches())
