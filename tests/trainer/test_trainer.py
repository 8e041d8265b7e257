import contextlib
import copy
import csv
import math

import pytest
import torch

from base import BaseDataLoader
from helpers import accuracy, reads_of_tensors, tiny_config, tiny_trainer
from trainer import Trainer
from utils import MetricTracker, UserError
from utils.runs.checkpoint import load_checkpoint


def table(trainer):
    with open(trainer.config.log_dir / "metrics.csv") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


class Counting(Trainer):
    """Counts the samples that pass."""

    def _batches(self, epoch):
        for batch_idx, (data, target) in super()._batches(epoch):
            self.seen = [*getattr(self, "seen", []), len(target)]
            yield batch_idx, (data, target)


@pytest.mark.old_defect(4)
@pytest.mark.parametrize("plain_loader", [False, True])
def test_iteration_mode_trains_exactly_len_epoch_batches(tmp_path, plain_loader):
    def loader_class(dataset, batch_size, *_):
        return torch.utils.data.DataLoader(dataset, batch_size)

    kwargs = {"loader_class": loader_class} if plain_loader else {}
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=3), trainer_class=Counting, len_epoch=7, **kwargs)
    trainer.train()
    assert len(trainer.seen) == 21


def test_iterations_continue_one_stream_of_passes(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, len_epoch=3), validation_split=0.0)  # a pass is 7 batches
    streamed = [target for epoch in range(1, 8) for _, (_, target) in trainer._batches(epoch)]
    passes = []
    for epoch in (1, 2, 3):
        trainer.data_loader.set_epoch(epoch)
        passes += [target for _, target in trainer.data_loader]
    assert all(map(torch.equal, streamed, passes)) and len(streamed) == len(passes)


def test_order_of_an_epoch_is_the_loaders_own_whatever_ran_before(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path))
    trainer.data_loader.set_epoch(2)
    expected = [target for _, target in trainer.data_loader]
    trainer.data_loader.set_epoch(5)
    torch.rand(11)
    assert all(map(torch.equal, (target for _, (_, target) in trainer._batches(2)), expected))


def test_len_epoch_argument_wins_over_the_config(tmp_path):
    assert tiny_trainer(tiny_config(tmp_path, len_epoch=3)).len_epoch == 3
    assert tiny_trainer(tiny_config(tmp_path, len_epoch=3), len_epoch=5).len_epoch == 5
    assert tiny_trainer(tiny_config(tmp_path)).len_epoch == 5


@pytest.mark.old_defect(5)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_averages_weigh_the_last_small_batch_by_its_samples(tmp_path, accumulate):
    class Frozen(Trainer):
        """Trains with a learning rate of 0 and without dropout, so that an epoch's average can be recomputed."""

    config = tiny_config(tmp_path, epochs=1, accumulate=accumulate)
    config["optimizer"] = {"type": "SGD", "args": {"lr": 0.0}}
    model = torch.nn.Linear(4, 3)
    trainer = tiny_trainer(config, trainer_class=Frozen, model=model, schedule=None)
    dataset = trainer.data_loader.dataset
    dataset.jitter = 0.0
    trainer.train()
    for prefix, sampler in (("", trainer.data_loader.sampler), ("val_", trainer.data_loader.valid_sampler)):
        indices = sampler.indices
        output, target = model(dataset.features[indices]), dataset.labels[indices]
        expected = torch.nn.functional.cross_entropy(output, target).item()
        assert table(trainer)[0][f"{prefix}loss"] == pytest.approx(expected, rel=1e-6)
        assert table(trainer)[0][f"{prefix}accuracy"] == accuracy(output, target).item()


def test_validation_leaves_the_model_alone(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer._valid_epoch(1)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_scheduler_steps_each_epoch_or_each_batch(tmp_path):
    def schedule(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    trainer = tiny_trainer(tiny_config(tmp_path / "a", epochs=3), schedule=schedule)
    trainer.train()
    assert [row["lr"] for row in table(trainer)] == [0.1, 0.05, 0.025]
    config = tiny_config(tmp_path / "b", epochs=2)
    config["lr_scheduler"] = {"type": "StepLR", "interval": "step"}
    trainer = tiny_trainer(config, schedule=schedule)
    trainer.train()
    assert trainer.optimizer.param_groups[0]["lr"] == 0.1 * 0.5**10


@pytest.mark.parametrize("tells", [True, False])
def test_a_schedule_that_a_step_of_a_trainers_own_leaves_where_it_is_is_told_of(tmp_path, capsys, tells):
    class OwnStep(Trainer):
        def _train_batch(self, batch_idx, data, target):
            loss, output = self.compute_loss(data, target)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if tells:
                self._after_update(batch_idx)
            return loss, output

    config = tiny_config(tmp_path, epochs=1)
    config["lr_scheduler"] = {"type": "StepLR", "interval": "step"}
    tiny_trainer(config, trainer_class=OwnStep).train()
    said = "lr_scheduler: has made no step; _train_batch has to call self._after_update(batch_idx)"
    assert (said in "".join(capsys.readouterr())) is not tells


@pytest.mark.old_defect(18)
def test_reduce_on_plateau_follows_the_monitored_value(tmp_path):
    def schedule(optimizer):
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0, threshold_mode="abs")

    trainer = tiny_trainer(tiny_config(tmp_path, epochs=3, monitor="min val_loss"), schedule=schedule)
    trainer.train()
    assert trainer.plateau_metric == "val_loss"
    assert [row["lr"] for row in table(trainer)] == pytest.approx([0.1, 0.1, 0.01])


def test_reduce_on_plateau_survives_a_restart(tmp_path):
    def schedule(optimizer):
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0, threshold_mode="abs")

    trainer = tiny_trainer(tiny_config(tmp_path, epochs=2), schedule=schedule)
    trainer.train()
    checkpoint = trainer.checkpoint_dir / "checkpoint-epoch2.pth"
    resumed = tiny_trainer(tiny_config(tmp_path, epochs=3), schedule=schedule, resume=checkpoint)
    resumed.train()
    assert table(resumed)[2]["lr"] == pytest.approx(0.01)


def test_any_scheduler_state_can_be_saved_and_restored(tmp_path):
    schedulers = torch.optim.lr_scheduler

    def chained(optimizer):
        warm = schedulers.LinearLR(optimizer, total_iters=2)
        steps = schedulers.MultiStepLR(optimizer, [1, 3])
        return schedulers.SequentialLR(optimizer, [warm, steps], milestones=[2])

    kinds = {
        "chained": chained,
        "lambda": lambda optimizer: schedulers.LambdaLR(optimizer, lambda epoch: 0.5**epoch),
        "one_cycle": lambda optimizer: schedulers.OneCycleLR(optimizer, 0.1, total_steps=9),
        "cosine": lambda optimizer: schedulers.CosineAnnealingWarmRestarts(optimizer, 2),
        "cyclic": lambda optimizer: schedulers.CyclicLR(optimizer, 0.01, 0.1, step_size_up=2),
    }
    for name, schedule in kinds.items():
        straight = tiny_trainer(tiny_config(tmp_path / name, epochs=4), schedule=schedule)
        straight.train()
        first = tiny_trainer(tiny_config(tmp_path / name, epochs=2), schedule=schedule)
        first.train()
        checkpoint = first.checkpoint_dir / "checkpoint-epoch2.pth"
        resumed = tiny_trainer(tiny_config(tmp_path / name, epochs=4), schedule=schedule, resume=checkpoint)
        resumed.train()
        assert [row["lr"] for row in table(resumed)] == [row["lr"] for row in table(straight)], name


@pytest.fixture
def reads(monkeypatch):
    return reads_of_tensors(monkeypatch)


@pytest.mark.old_defect(16)
@pytest.mark.parametrize("switches", [{}, {"accumulate": 3, "clip_norm": 1.0, "clip_value": 0.1, "precision": "bf16"}])
def test_no_step_waits_for_the_device_between_log_points(tmp_path, reads, switches, monkeypatch):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1, log_step=10**6, **switches), schedule=None)
    trainer.len_epoch = 100  # so that no batch is the epoch's last one, which is a log point
    trainer._is_first_train = trainer._is_first_valid = False  # looking at first batches waits
    reads.clear()
    at_step = []

    class Bar(contextlib.nullcontext):
        disable = False

        def update(self):
            at_step.append(list(reads))

        def set_postfix(self, **values):
            pass

    monkeypatch.setattr("trainer.trainer.progress_bar", lambda *arguments: Bar(Bar()))
    trainer._train_epoch(1)
    order_of_the_pass = ["item", "tolist"]  # drawn on the CPU, once a pass, by torch's loader and by our sampler
    assert at_step == [order_of_the_pass] * 5 and len(reads) > 2


@pytest.mark.parametrize("on_nonfinite", ["ignore", "stop"])
@pytest.mark.parametrize("metrics", [0, 4])
def test_a_log_line_costs_one_transfer_with_the_watch_over_gradients_in_it(tmp_path, reads, on_nonfinite, metrics):
    def share_of(label):
        def share(output, target):
            return (output.argmax(1) == label).float().mean()

        share.__name__ = f"share_of_{label}"
        return share

    functions = [share_of(label) for label in range(metrics)]
    counts = []
    for log_step in (1, 5):  # five lines an epoch, and one
        config = tiny_config(tmp_path, epochs=1, log_step=log_step, on_nonfinite=on_nonfinite)
        trainer = tiny_trainer(config, schedule=None, metrics=functions)
        reads.clear()
        trainer._train_epoch(1)
        counts.append(len(reads))
    assert counts[0] - counts[1] == 4


def test_a_validation_costs_as_many_transfers_whatever_its_number_of_batches(tmp_path, reads):
    counts = []
    for samples in (8, 40):
        trainer = tiny_trainer(tiny_config(tmp_path), schedule=None, validation_split=samples)
        reads.clear()
        trainer._valid_epoch(1)
        counts.append(len(reads))
    assert counts[0] == counts[1] > 0


@pytest.mark.old_defect(16)
@pytest.mark.parametrize(("every", "shown"), [(0, []), (2, [2, 4])])
def test_histograms_come_every_n_epochs_only(tmp_path, every, shown):
    trainer = tiny_trainer(tiny_config(tmp_path, tensorboard=True, histograms_every_epochs=every, epochs=4))
    epochs = []
    trainer.writer.add_histogram_raw = lambda tag, data, **more: epochs.append(trainer.epoch)
    trainer.train()
    assert sorted({*epochs}) == shown


def test_histograms_stand_at_the_end_of_their_epoch_also_after_a_skipped_batch(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, tensorboard=True, histograms_every_epochs=1))
    trainer.skipped_batches = {(1, 2)}
    steps = []
    trainer.writer.add_histogram_raw = lambda tag, data, **more: steps.append(trainer.writer.step)
    trainer.train()
    assert sorted({*steps}) == [trainer.len_epoch, 2 * trainer.len_epoch]


def test_a_loop_of_ones_own_has_no_histograms_and_the_log_names_the_key(tmp_path, capsys):
    class Own(Trainer):
        def _train_epoch(self, epoch):
            return {"loss": 1.0}

    trainer = tiny_trainer(tiny_config(tmp_path, tensorboard=True, histograms_every_epochs=2), trainer_class=Own)
    trainer.writer.add_histogram_raw = lambda tag, data, **more: pytest.fail("a histogram")
    trainer.train()
    assert "trainer.histograms_every_epochs: this trainer has a _train_epoch of its own" in capsys.readouterr().out


@pytest.mark.old_defect(16)
def test_images_come_every_n_epochs_only(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, tensorboard=True, images_every_epochs=2))
    calls = []
    trainer.writer.add_images = lambda tag, data: calls.append((tag, tuple(data.shape)))
    for epoch in (1, 2, 3):
        trainer._show_images(torch.rand(64, 3, 5, 5), epoch)
    trainer._show_images(torch.rand(64, 5), 1)
    assert calls == [("input", (32, 3, 5, 5))] * 2


def test_a_batch_of_one_value_images_is_shown(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, tensorboard=True))
    trainer._show_images(torch.ones(2, 1, 4, 4), 1)
    trainer.writer.close()


def test_progress_reads_as_in_the_old_template(tmp_path):
    assert tiny_trainer(tiny_config(tmp_path, len_epoch=8))._progress(1) == "[2/8 (25%)]"


def test_trackers_and_flags_have_their_old_names(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, log_step=3))
    assert isinstance(trainer.train_metrics, MetricTracker) and isinstance(trainer.valid_metrics, MetricTracker)
    assert trainer.do_validation is True and trainer.log_step == 3
    assert not tiny_trainer(tiny_config(tmp_path), validation_split=0.0).do_validation


def test_loader_without_batches_is_refused_and_nothing_is_written(tmp_path):
    def loader_class(dataset, *_):
        return torch.utils.data.DataLoader(dataset, batch_size=64, drop_last=True)

    with pytest.raises(UserError, match="data_loader: has no batches"):
        tiny_trainer(tiny_config(tmp_path), loader_class=loader_class)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("interval", "total", "fits"), [("epoch", 2, True), ("epoch", 1, False), ("step", 10, True), ("step", 9, False)]
)
def test_schedule_too_short_for_the_run_is_refused_and_nothing_is_written(tmp_path, interval, total, fits):
    config = tiny_config(tmp_path)
    config["lr_scheduler"] = {"type": "OneCycleLR", "interval": interval}

    def schedule(optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=total)

    if fits:
        tiny_trainer(config, schedule=schedule).train()
        return
    with pytest.raises(UserError, match=f"total_steps: got {total}, but the run has"):
        tiny_trainer(config, schedule=schedule)
    assert list(tmp_path.iterdir()) == []


def test_diverged_run_is_saved_and_told_of(tmp_path, capsys):
    config = tiny_config(tmp_path, tensorboard=True, epochs=2, on_nonfinite="ignore")
    config["optimizer"]["args"]["lr"] = 1e30
    trainer = tiny_trainer(config)
    trainer.train()
    assert "holds values that are not finite" in capsys.readouterr().out
    assert (trainer.checkpoint_dir / "checkpoint-epoch2.pth").exists() and len(table(trainer)) == 2


def test_a_logged_epoch_does_not_take_the_place_of_the_real_one(tmp_path):
    class Odd(Trainer):
        def _train_epoch(self, epoch):
            return {"loss": 1.0, "epoch": 0.25}

    trainer = tiny_trainer(tiny_config(tmp_path), trainer_class=Odd)
    trainer.train()
    assert [row["epoch"] for row in table(trainer)] == [1, 2]
    assert (trainer.checkpoint_dir / "checkpoint-epoch2.pth").exists()


def test_writer_is_closed_when_training_ends(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1))
    closed = []
    trainer.writer.close = lambda: closed.append(True)
    trainer.train()
    assert closed == [True]


def test_training_learns(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=8, monitor="min loss"))
    trainer.train()
    rows = table(trainer)
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"] and math.isfinite(rows[-1]["val_loss"])
    assert load_checkpoint(trainer.checkpoint_dir / "model_best.pth")["monitor_best"] == min(
        row["loss"] for row in rows
    )


def test_accumulation_updates_once_a_window_and_at_the_epochs_end(tmp_path):
    class Counting(torch.optim.SGD):
        steps = 0

        def step(self, closure=None):
            Counting.steps += 1
            return super().step(closure)

    config = tiny_config(tmp_path, epochs=2, accumulate=4)
    config["lr_scheduler"] = {"type": "StepLR", "interval": "step"}
    model = torch.nn.Linear(4, 3)
    optimizer = Counting(model.parameters(), lr=0.1)
    trainer = tiny_trainer(config, model=model, schedule=lambda _: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))
    trainer.optimizer = trainer.optim_step.optimizer = optimizer
    trainer.train()
    assert trainer.len_epoch == 5 and Counting.steps == 4  # two windows an epoch, of four batches and of one
    assert optimizer.param_groups[0]["lr"] == 0.1 * 0.5**4
    Counting.steps = 0
    config["trainer"]["accumulate"] = 100
    trainer = tiny_trainer(config, model=model, schedule=lambda _: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))
    trainer.optimizer = trainer.optim_step.optimizer = optimizer
    trainer.train()
    assert Counting.steps == 2  # one an epoch


@pytest.mark.parametrize("accumulate, expected", [(1, [False] * 5), (2, [False, True, False, True, False])])
def test_the_memory_of_gradients_is_free_in_the_forward_pass_after_an_optimizer_step(tmp_path, accumulate, expected):
    model, there = torch.nn.Linear(4, 3), []

    def look(module, inputs):
        if module.training:
            there.append(module.weight.grad is not None)

    trainer = tiny_trainer(tiny_config(tmp_path, epochs=2, accumulate=accumulate), model=model)
    model.register_forward_pre_hook(look)
    trainer.train()
    assert there[-10:] == 2 * expected  # not those that are tried out before the first epoch


def test_gradients_that_a_loop_of_its_own_accumulates_stay(tmp_path):
    class Own(Trainer):
        def _train_batch(self, batch_idx, data, target):
            output = self.model(data)
            loss = self.criterion(output, target)
            (loss / 5).backward()
            if batch_idx == 4:
                sums.append(self.model.weight.grad.clone())
                self.optimizer.step()
            return loss, output

    sums, model = [], torch.nn.Linear(4, 3)
    before = copy.deepcopy(model)
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1), model=model, trainer_class=Own)
    trainer.train()
    batches = list(trainer.data_loader)
    sum(trainer.criterion(before(data), target) / 5 for data, target in batches).backward()
    assert len(batches) == 5 and torch.allclose(sums[0], before.weight.grad, atol=1e-6)


def test_a_window_ends_with_the_epoch_even_if_the_loader_has_less_than_it_says(tmp_path, capsys):
    class Short(BaseDataLoader):
        def __len__(self):
            return 100

    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1, accumulate=50, verbosity=1), loader_class=Short)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    assert trainer.optim_step.num_batches == 0
    assert not all(map(torch.equal, before, trainer.model.parameters()))
    assert "data_loader gave 5 batches, although its length is 100" in capsys.readouterr().out


def test_losses_and_optimizers_that_the_loop_cannot_serve_are_refused(tmp_path):
    with pytest.raises(UserError, match="loss: reduction 'none'"):
        tiny_trainer(tiny_config(tmp_path), criterion=torch.nn.CrossEntropyLoss(reduction="none"))
    assert not list(tmp_path.iterdir())
    config = tiny_config(tmp_path)
    config["optimizer"] = {"type": "LBFGS", "args": {}}
    with pytest.raises(UserError, match=r"optimizer.type: LBFGS wants to compute the loss itself"):
        tiny_trainer(config)


def test_a_sum_reduced_loss_is_reported_as_a_mean_over_samples(tmp_path):
    losses = []
    for reduction in ("mean", "sum"):
        torch.manual_seed(0)
        config = tiny_config(tmp_path / reduction, epochs=1)
        config["optimizer"]["args"] = {"lr": 0.0}
        trainer = tiny_trainer(
            config, model=torch.nn.Linear(4, 3), criterion=torch.nn.CrossEntropyLoss(reduction=reduction)
        )
        trainer.train()
        losses.append([table(trainer)[0][name] for name in ("loss", "val_loss")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_losses_and_metrics_that_are_no_single_number_are_named(tmp_path):
    def by_sample(output, target):
        return (output.argmax(1) == target).double()

    trainer = tiny_trainer(tiny_config(tmp_path / "a"))
    trainer.metric_ftns = [by_sample]
    trainer.train_metrics = MetricTracker("loss", "by_sample")
    with pytest.raises(UserError, match=r"metrics: 'by_sample' returned a Tensor of shape \(8,\); it should"):
        trainer.train()
    with pytest.raises(UserError, match=r"loss: got a tensor \(8, 3\) float32; it should be one number per batch"):
        tiny_trainer(tiny_config(tmp_path / "b"), criterion=lambda output, target: output).train()
    with pytest.raises(UserError, match="loss: got a float; it should be one number per batch"):
        tiny_trainer(tiny_config(tmp_path / "c"), criterion=lambda output, target: output.sum().item()).train()
