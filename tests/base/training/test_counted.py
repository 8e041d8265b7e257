"""Averages over what a loss or metric counts: class weights and ignored targets, whatever the batches are."""

import functools
import os
import signal

import pytest
import torch
import torch.nn.functional as F
from worlds import in_world, results

from base import BaseDataLoader, InMemoryDataset
from base.training.counted import CountedTargets, counts_of
from base.training.evaluate import evaluate
from base.training.optim_step import OptimStep
from helpers import Recorder, reads_of_tensors, same, tiny_config, tiny_trainer
from model.loss import nll_loss
from model.metric import accuracy, top_k_acc
from trainer import Trainer
from utils import MetricTracker, UserError
from utils.distributed.world import joined

N, C, L = 40, 3, 6
WEIGHT = torch.tensor([1.0, 5.0, 0.25])


class PerPosition(torch.nn.Module):
    """Class scores (N, C) of rows (N, 4), or (N, C, L) of (N, 4, L)."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, C)

    def forward(self, data):
        return self.linear(data.movedim(1, -1)).movedim(-1, 1).log_softmax(1)


def model_of(seed=0):
    torch.manual_seed(seed)
    return PerPosition().double()


def data_of(shape=(), ignored=-100, share=0.4):
    """(rows, class numbers) of N samples; the first ten targets and a share of the others are ignored."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(N, 4, *shape, generator=generator).double()
    target = torch.randint(C, (N, *shape), generator=generator)
    target[torch.rand(target.shape, generator=generator) < share] = ignored
    target[:10] = ignored
    return rows, target


LOSSES = {
    "weights": (torch.nn.CrossEntropyLoss(weight=WEIGHT.double()), -100),
    "ignored": (torch.nn.CrossEntropyLoss(), -100),
    "another ignored": (torch.nn.CrossEntropyLoss(ignore_index=7), 7),
    "an ignored class": (torch.nn.NLLLoss(ignore_index=1), 1),
    "both, smoothed": (torch.nn.CrossEntropyLoss(WEIGHT.double(), ignore_index=-1, label_smoothing=0.2), -1),
    "a function": (F.cross_entropy, -100),
    "a bound function": (functools.partial(F.nll_loss, ignore_index=2, weight=WEIGHT.double()), 2),
    "the template's own": (nll_loss, -100),
}


@pytest.mark.parametrize("shape", [(), (L,), (2, 3)])
@pytest.mark.parametrize("name", LOSSES)
def test_a_validation_is_that_of_all_samples_as_one_batch(name, shape):
    criterion, ignored = LOSSES[name]
    rows, target = data_of(shape, ignored)
    model = model_of()
    expected = criterion(model(rows), target).item()
    hits = functools.partial(accuracy, ignore_index=ignored)
    hits.__name__ = "hits"
    for size in (1, 7, 10, 40):
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows, target), size)
        tracker = MetricTracker("loss", "hits")
        got = evaluate(model, criterion, [hits], loader, torch.device("cpu"), tracker)
        assert got["loss"] == pytest.approx(expected, rel=1e-12)
        assert got["hits"] == hits(model(rows), target)


@pytest.mark.parametrize("weight", [None, WEIGHT.double()])
def test_shares_of_classes_count_as_samples(weight):
    rows, _ = data_of()
    shares = torch.rand(N, C).double().softmax(1)
    criterion, model = torch.nn.CrossEntropyLoss(weight), model_of()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows, shares), 7)
    got = evaluate(model, criterion, [], loader, torch.device("cpu"), MetricTracker("loss"))
    assert got["loss"] == pytest.approx(criterion(model(rows), shares).item(), rel=1e-12)


@pytest.mark.parametrize("shape", [(), (L,)])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("accumulate", [1, 2, 3, 9])
def test_the_gradient_of_a_window_is_that_of_its_samples_as_one_batch(name, shape, accumulate):
    criterion, ignored = LOSSES[name]
    rows, target = data_of(shape, ignored)
    model = model_of()
    optimizer = Recorder(model.parameters())
    count = counts_of(criterion, [], None)["loss"]
    optim_step = OptimStep(optimizer, accumulate, count=count)
    batches = list(zip(rows.split(6), target.split(6), strict=True))
    for i, (x, y) in enumerate(batches, start=1):
        optim_step.step(criterion(model(x), y), optim_step.size_of(y), last=i == len(batches))
    for i, seen in enumerate(optimizer.seen):
        x, y = (torch.cat(parts) for parts in zip(*batches[i * accumulate : (i + 1) * accumulate], strict=True))
        model.zero_grad()
        criterion(model(x), y).backward()
        for parameter, gradient in zip(model.parameters(), seen, strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-10, atol=1e-14)


def sequences(folder, criterion=None, resume=None, trainer_class=Trainer, batch_size=6, ignored=-100, **settings):
    """A Trainer of N sequences, a third of them for validation, in batches read sample by sample."""
    rows, target = data_of((L,), ignored)
    samples = [(row, label) for row, label in zip(rows.float(), target, strict=True)]
    return tiny_trainer(
        tiny_config(folder, **settings),
        resume=resume,
        trainer_class=trainer_class,
        criterion=criterion or torch.nn.CrossEntropyLoss(weight=WEIGHT),
        model=model_of().float(),
        loader_class=lambda *_: BaseDataLoader(samples, batch_size, True, 0.3, 0),
        metrics=[accuracy],
    )


def test_training_weighs_its_batches_alike_and_takes_one_in_which_nothing_counts(tmp_path):
    trainer = sequences(tmp_path, epochs=1, batch_size=1)  # ten samples have no target that counts
    sums = torch.zeros(4, dtype=torch.float64)

    class Watched(torch.nn.CrossEntropyLoss):
        forward = torch.nn.CrossEntropyLoss.forward

        def __call__(self, output, target):
            loss = super().__call__(output, target)
            if torch.is_grad_enabled():
                counted = target != -100
                weight = WEIGHT[target[counted]].sum()
                hits = (output.argmax(1) == target)[counted].sum()
                sums.add_(torch.tensor([loss.item() * weight if weight else 0, weight, hits, counted.sum()]))
            return loss

    trainer.criterion.__class__ = Watched
    log = trainer._train_epoch(1)
    assert log["loss"] == pytest.approx((sums[0] / sums[1]).item(), rel=1e-6)
    assert log["accuracy"] == (sums[2] / sums[3]).item()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_a_window_of_two_batches_trains_as_one_of_twice_the_size(tmp_path):
    logs = [
        sequences(tmp_path / str(accumulate), epochs=1, accumulate=accumulate, batch_size=size)._train_epoch(1)
        for accumulate, size in ((1, 8), (2, 4))
    ]
    assert logs[1] == pytest.approx(logs[0], rel=1e-5)


@pytest.mark.parametrize("batches", [1, 2])
def test_a_run_resumes_within_an_epoch_and_a_window(tmp_path, batches):
    settings = {"epochs": 2, "accumulate": 3, "log_step": 1}
    straight = sequences(tmp_path / "straight", **settings)
    straight.train()
    stopped = sequences(tmp_path / "stopped", **settings)
    count_batch = stopped._count_batch
    signals = iter([signal.SIGTERM] if batches == 1 else [0, signal.SIGTERM])
    stopped._count_batch = lambda at: (count_batch(at), os.kill(os.getpid(), next(signals)))
    with pytest.raises(SystemExit):
        stopped.train()
    path = stopped.checkpoint_dir / f"checkpoint-epoch1-batch{batches}.pth"
    resumed = sequences(tmp_path / "stopped", resume=path, **settings)
    resumed.train()
    assert same(resumed.model.state_dict(), straight.model.state_dict())
    assert resumed.train_metrics.result() == straight.train_metrics.result()


def counts_over(criterion, target, **loader_settings):
    dataset = InMemoryDataset(torch.zeros(len(target), 4), target)
    return counts_of(criterion, [accuracy, top_k_acc], BaseDataLoader(dataset, 4, True, 0.0, 0, **loader_settings))


LABELS = torch.arange(12) % 3


def test_a_job_whose_labels_are_all_counted_counts_nothing():
    for criterion in (
        torch.nn.CrossEntropyLoss(),
        F.cross_entropy,
        nll_loss,
        torch.nn.CrossEntropyLoss(ignore_index=9),
    ):
        assert counts_over(criterion, LABELS) == {} == counts_of(criterion, [accuracy], [(None, LABELS)] * 3)
        assert counts_over(criterion, LABELS.to(torch.uint16)) == {}
        assert counts_over(criterion, F.one_hot(LABELS).float()) == {}
    assert counts_over(torch.nn.MSELoss(), LABELS - 100).keys() == {"accuracy", "top_k_acc"}
    assert counts_over(torch.nn.CrossEntropyLoss(reduction="sum"), LABELS - 100).keys() == {"accuracy", "top_k_acc"}
    assert counts_over(torch.nn.CrossEntropyLoss(), torch.cat([LABELS, torch.tensor([-100])])).keys() == {
        "loss",
        "accuracy",
        "top_k_acc",
    }
    assert counts_over(torch.nn.CrossEntropyLoss(WEIGHT), LABELS).keys() == {"loss"}
    assert counts_over(torch.nn.CrossEntropyLoss(WEIGHT), F.one_hot(LABELS).float()) == {}


class Masked(torch.nn.Module):
    """The mean absolute error of targets that are not nan."""

    def forward(self, output, target):
        kept = ~target.isnan()
        return ((output - target.nan_to_num()).abs() * kept).sum() / kept.sum()

    def counted(self, target):
        return (~target.isnan()).sum()


def test_a_loss_of_ones_own_declares_what_it_counts():
    target = torch.randn(N, 2).double()
    target[torch.rand(N, 2) < 0.5] = torch.nan
    rows, model = torch.randn(N, 4).double(), torch.nn.Linear(4, 2).double()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows, target), 7)
    got = evaluate(model, Masked(), [], loader, torch.device("cpu"), MetricTracker("loss"))
    assert got["loss"] == pytest.approx(Masked()(model(rows), target).item(), rel=1e-12)


def test_other_declarations_are_refused_and_other_attributes_left_alone():
    def own(output, target, ignore_index=4):
        return output.sum()

    assert counts_of(own, [], None) == {}
    own.counted = 3
    assert counts_of(own, [], None) == {}
    own.counted = "targets"
    (count,) = counts_of(own, [], None).values()
    assert isinstance(count, CountedTargets) and count.ignore_index == 4
    (count,) = counts_of(functools.partial(own, ignore_index=5), [], None).values()
    assert count.ignore_index == 5
    own.counted = "pixels"
    with pytest.raises(UserError, match=r"^loss: counted is 'pixels'; it should be 'targets', or a function of"):
        counts_of(own, [], None)


WEIGHTED, IGNORING = torch.nn.CrossEntropyLoss(WEIGHT), torch.nn.CrossEntropyLoss(ignore_index=1)
OVER_WEIGHTS = "the targets other than -100, each by the weight of its class"


class Own(Trainer):
    def compute_loss(self, data, target):
        output = self.model(data)
        return self.criterion(output, target), output


class Declared(Own):
    trains_on_criterion = True


@pytest.mark.parametrize(
    ("criterion", "trainer_class", "line"),
    [
        (WEIGHTED, Trainer, f"loss: averaged over {OVER_WEIGHTS}, not over samples"),
        (IGNORING, Declared, "loss: averaged over the targets other than 1, not over samples"),
        (
            WEIGHTED,
            Own,
            f"loss: averaged in validation over {OVER_WEIGHTS}; in training over samples, since compute_loss is the "
            "trainer's own (see trains_on_criterion)",
        ),
        (torch.nn.CrossEntropyLoss(), Trainer, None),
    ],
)
def test_the_run_says_what_is_averaged_over_what(tmp_path, capsys, criterion, trainer_class, line):
    trainer = sequences(tmp_path, criterion, trainer_class=trainer_class, epochs=1, verbosity=2, ignored=1)
    trainer.train()
    assert [text for text in capsys.readouterr().out.splitlines() if "averaged" in text] == ([line] if line else [])
    assert ("loss" in trainer.train_metrics.counts) == (trainer_class is not Own)


def test_counting_reads_nothing_from_the_device_until_a_value_is_logged(tmp_path, monkeypatch):
    trainer = sequences(tmp_path, epochs=1, accumulate=2, log_step=100, on_nonfinite="ignore")
    reads = []

    def step(*arguments, original=trainer._train_batch):
        before = len(all_reads)
        result = original(*arguments)
        reads.append(all_reads[before:])
        return result

    trainer._train_epoch(1)  # the look at the first batch reads it
    trainer.batches_done = 0
    trainer._train_batch = step
    all_reads = reads_of_tensors(monkeypatch)
    trainer._train_epoch(1)
    assert reads == [[]] * 5


def test_one_tracker_measures_several_loaders_with_and_without_ignored_targets():
    criterion, tracker = torch.nn.CrossEntropyLoss(), MetricTracker("loss")
    rows = torch.eye(C).repeat(2, 1)

    def loss_over(*targets):
        loader = [(rows[: len(target)], target) for target in map(torch.tensor, targets)]
        return evaluate(torch.nn.Identity(), criterion, [], loader, torch.device("cpu"), tracker)["loss"]

    assert loss_over([0, 1, 2]) == pytest.approx(criterion(rows[:3], torch.arange(3)).item())
    of_each = torch.nn.CrossEntropyLoss(reduction="none")(rows[:2], torch.tensor([0, 0]))
    expected = (of_each.sum() + of_each[0]).item() / 3
    assert loss_over([0, 0], [0, -100]) == pytest.approx(expected)


def evaluated_in_two(shape):
    """The average of a validation by a process of several, each of which has a part of every batch."""
    with joined({}):
        rows, target = data_of(shape, share=0.7)
        loader = BaseDataLoader(list(zip(rows, target, strict=True)), 7, False, 0.0, 0)
        tracker = MetricTracker("loss", "accuracy")
        criterion = torch.nn.CrossEntropyLoss(WEIGHT.double())
        return evaluate(model_of(), criterion, [accuracy], loader, torch.device("cpu"), tracker)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_average_over_what_counts_in_all_of_them(size):
    rows, target = data_of((L,), share=0.7)
    output = model_of()(rows)
    loss = torch.nn.functional.cross_entropy(output, target, WEIGHT.double()).item()
    hits = accuracy(output, target).item()
    for values in results(in_world(size, evaluated_in_two, (L,))):
        assert values == pytest.approx({"loss": loss, "accuracy": hits}, rel=1e-12)


def test_a_state_that_was_loaded_is_saved_again_as_it_was():
    model = model_of()
    step = OptimStep(torch.optim.SGD(model.parameters(), 0.1), 2, count=CountedTargets())
    tracker = MetricTracker("loss")
    rows, target = data_of()
    for _ in range(3):
        step.step(F.nll_loss(model(rows), target), step.size_of(target))
        tracker.update("loss", torch.tensor(0.5), n=CountedTargets()(target))
    for saved, other in (
        (step, OptimStep(torch.optim.SGD(model.parameters(), 0.1), 2)),
        (tracker, MetricTracker("loss")),
    ):
        state = saved.state_dict()
        other.load_state_dict(state)
        assert repr(other.state_dict()) == repr(state)  # 12 and 12.0 are equal, but not the same bits of a file


def own_loss(output, target, least=2, power=1):
    return output.mean()


@pytest.mark.parametrize(
    ("counted", "given", "count"),
    [
        (lambda target: len(target), {"least": 3}, 4),  # what is counted may not depend on the arguments
        (lambda target, least: int((target >= least).sum()), {}, 2),  # the default is the loss's own
        (lambda target, least=0: int((target >= least).sum()), {}, 2),
        (lambda target, least: int((target >= least).sum()), {"least": 3, "power": 2}, 1),
        (lambda target, **others: int((target >= others["least"]).sum()), {"least": 1}, 3),
    ],
)
def test_counted_is_given_the_arguments_of_its_loss_that_it_takes(monkeypatch, counted, given, count):
    monkeypatch.setattr(own_loss, "counted", counted, raising=False)
    counts = counts_of(functools.partial(own_loss, **given), (), [])
    assert counts["loss"](torch.arange(4)) == count


def test_counted_that_takes_what_its_loss_has_not_is_refused(monkeypatch):
    monkeypatch.setattr(own_loss, "counted", lambda target, leats=1: 1, raising=False)
    with pytest.raises(UserError, match=r"^loss: counted takes 'leats', .* whose arguments are least, power$"):
        counts_of(functools.partial(own_loss, least=1), (), [])
