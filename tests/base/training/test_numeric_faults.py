"""Losses and gradients that are not finite are found, named, and never saved over a good state."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from base import BaseDataLoader, BaseTrainer
from base.training.first_batch import look_at_data
from base.training.nonfinite import NonFiniteWatch, nonfinite_samples, validation_fault
from helpers import TinyData, same, tiny_config, tiny_model, tiny_trainer
from trainer import Trainer
from utils import UserError
from utils.runs.checkpoint import load_checkpoint
from utils.seed import rng_state

BAD = 17  # the sample that brings the fault


class FaultyData(TinyData):
    def __getitem__(self, index):
        data, target = super().__getitem__(index)
        return (data * math.nan if index == BAD else data), target


def faulty_loader(*args, **kwargs):
    return BaseDataLoader(FaultyData(), *args[1:], **kwargs)


class BadGradient(torch.autograd.Function):
    """The identity, whose gradient is infinite."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


def settings(**changes):
    return {"epochs": 2, "log_step": 2, "monitor": "min val_loss", **changes}


def faulty(folder, loader_class=faulty_loader, trainer_class=Trainer, **changes):
    config = tiny_config(folder, **settings(**changes))
    return tiny_trainer(config, loader_class=loader_class, trainer_class=trainer_class, schedule=None)


def bad_batch(trainer, epoch=1):
    """(index of the batch with the bad sample, all its samples)."""
    batches = [trainer.data_loader.batch_indices(epoch, i) for i in range(trainer.len_epoch)]
    return next((i, batch) for i, batch in enumerate(batches) if BAD in batch)


def test_the_validation_sample_that_makes_a_value_nan_is_named_once(tmp_path, capsys):
    faults = BaseDataLoader(FaultyData(), 8, False, 0, 0).as_validation()
    tiny_trainer(tiny_config(tmp_path, **settings()), valid_data_loader=faults, schedule=None).train()
    told = capsys.readouterr().out
    fault = f"; sample {BAD} of the validation data holds nan or infinity\n"
    assert f"epoch 1: val_loss is nan{fault}" in told and "epoch 2: val_loss is nan\n" in told


def test_naming_validation_samples_draws_nothing_from_the_global_generator():
    loader = BaseDataLoader(FaultyData(), 8, True, 0, 0)
    before = torch.get_rng_state()
    assert f"sample {BAD} of the validation data holds nan" in validation_fault(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_rate_that_is_too_high_is_named_before_the_ways_to_skip(tmp_path):
    config = tiny_config(tmp_path)
    config["optimizer"]["args"]["lr"] = 1e30
    with pytest.raises(UserError, match=r"(loss|gradient) is .*; the learning rate may be too high; .*on_nonfinite"):
        tiny_trainer(config).train()


@pytest.mark.parametrize("log_step", [1, 2, 5])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_stop_names_the_step_and_its_samples_and_saves_nothing(tmp_path, log_step, accumulate):
    trainer = faulty(tmp_path, log_step=log_step, accumulate=accumulate, save_every_steps=1)
    index, samples = bad_batch(trainer)
    with pytest.raises(UserError) as error:
        trainer.train()
    assert f"epoch 1, batch {index + 1} of 5: the loss is nan; samples {', '.join(map(str, samples))};" in str(
        error.value
    )
    assert f"; data_loader has nan or infinity in sample {BAD}; " in str(error.value)
    assert "trainer.on_nonfinite" in str(error.value)
    saved = [load_checkpoint(path) for path in trainer.checkpoint_dir.glob("*.pth")]
    assert len(saved) == min(index, 2)
    assert all(tensor.isfinite().all() for state in saved for tensor in state["state_dict"].values())


@pytest.mark.parametrize(("num_workers", "named"), [(0, 2), (1, 0)])
def test_samples_that_are_skipped_are_named_where_this_process_reads_them(tmp_path, capsys, num_workers, named):
    trainer = tiny_trainer(
        tiny_config(tmp_path, **settings(on_nonfinite="skip", verbosity=1)),
        loader_class=faulty_loader,
        num_workers=num_workers,
    )
    trainer.train()
    assert (
        capsys.readouterr().out.count(
            f"; data_loader has nan or infinity in sample {BAD}; the optimizer step is skipped"
        )
        == named
    )


def test_naming_bad_samples_changes_nothing_of_a_run(tmp_path, monkeypatch):
    trainer, reference = (faulty(tmp_path / name, on_nonfinite="skip") for name in "ab")
    trainer.train()
    monkeypatch.setattr("base.training.nonfinite.nonfinite_samples", lambda loader, indices: [])
    reference.train()
    left, right = (load_checkpoint(t.checkpoint_dir / "checkpoint-epoch2.pth") for t in (trainer, reference))
    for key in ("state_dict", "optimizer", "rng", "log"):
        assert same(left[key], right[key]), key


def read_again(samples):
    return nonfinite_samples(SimpleNamespace(dataset=samples), range(len(samples)))


def test_bad_samples_are_found_in_any_form():
    fine = [(torch.ones(2), 1), {"a": np.ones(2), "b": "text"}, (1.0, [True, None]), torch.ones(2, dtype=torch.int64)]
    inf = math.inf
    bad = [(torch.ones(2), inf), {"a": np.array([1, math.nan])}, [([np.float32(inf)],)], torch.tensor(inf).bfloat16()]
    assert read_again(fine + bad) == [4, 5, 6, 7]


@pytest.mark.parametrize("error", [OSError, StopIteration, RuntimeError])
def test_samples_that_cannot_be_read_again_are_not_named_and_raise_nothing(error):
    class Data(TinyData):
        def __getitem__(self, index):
            torch.rand(1), np.random.rand()
            raise error("gone")

    before = rng_state()
    assert read_again(Data()) == [] and same(before, rng_state())
    assert nonfinite_samples(object(), [1]) == []


def test_an_infinite_gradient_of_a_finite_loss_is_found_in_its_own_step(tmp_path):
    class Trapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_model()
            self.calls = 0

        def forward(self, data):
            output = self.inner(data)
            self.calls += self.training
            return BadGradient.apply(output) if self.calls == 3 and self.training else output

    trainer = tiny_trainer(tiny_config(tmp_path, **settings(log_step=5)), model=Trapped())
    with pytest.raises(UserError, match="epoch 1, batch 3 of 5: the gradient is not finite; samples"):
        trainer.train()


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_skip_leaves_the_update_out_tells_of_it_and_keeps_the_averages_finite(tmp_path, capsys, clip_norm):
    trainer = faulty(tmp_path, on_nonfinite="skip", verbosity=1, clip_norm=clip_norm, epochs=1)
    index, _ = bad_batch(trainer)
    updates = []
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda: updates.append(trainer.step) or step()
    trainer.train()
    assert updates == [i for i in range(5) if i != index]
    told = capsys.readouterr().out
    assert told.count("optimizer step is skipped") == 1 and f"batch {index + 1} of 5: the loss is nan" in told
    log = load_checkpoint(trainer.checkpoint_dir / "checkpoint-epoch1.pth")["log"]
    assert math.isfinite(log["loss"])


def test_rollback_goes_on_as_if_the_batch_had_never_been_there(tmp_path, capsys):
    trainer = faulty(tmp_path / "a", on_nonfinite="rollback", verbosity=1, save_every_steps=2)
    left_out = {(epoch, bad_batch(trainer, epoch)[0]) for epoch in (1, 2)}
    trainer.train()
    told = capsys.readouterr().out
    assert told.count("back to") == 2 and trainer.skipped_batches == left_out

    def skipping(folder):
        reference = faulty(folder, loader_class=BaseDataLoader, save_every_steps=2)
        reference.skipped_batches = set(left_out)
        return reference

    reference = skipping(tmp_path / "b")
    reference.train()
    left, right = (load_checkpoint(t.checkpoint_dir / "checkpoint-epoch2.pth") for t in (trainer, reference))
    for key in ("state_dict", "optimizer", "rng", "log", "step", "left_out"):
        assert same(left[key], right[key]), key
    assert (trainer.config.log_dir / "metrics.csv").read_text() == (
        reference.config.log_dir / "metrics.csv"
    ).read_text()


def test_rollback_gives_up_when_it_is_not_the_datas_fault(tmp_path):
    class Broken(TinyData):
        def __getitem__(self, index):
            return super().__getitem__(index)[0] * math.nan, self.labels[index]

    trainer = faulty(
        tmp_path, loader_class=lambda data, *args: BaseDataLoader(Broken(), 2, *args[1:]), on_nonfinite="rollback"
    )
    with pytest.raises(UserError, match="10 batches of this epoch have been skipped already"):
        trainer.train()


def test_a_poisoned_model_of_a_projects_own_loop_is_not_saved(tmp_path):
    class Own(Trainer):
        def _train_epoch(self, epoch):
            if epoch == 2:
                self.model[0].weight.data[0, 0] = math.inf
            return {"loss": 1.0, "val_loss": 1.0}

    trainer = tiny_trainer(tiny_config(tmp_path, **settings()), trainer_class=Own)
    with pytest.raises(UserError, match=r"epoch 2: 0\.weight of the model hold nan or infinity; not saved"):
        trainer.train()
    assert [path.name for path in trainer.checkpoint_dir.glob("checkpoint*")] == ["checkpoint-epoch1.pth"]
    assert issubclass(Own, BaseTrainer)


def test_ignore_looks_at_nothing(tmp_path):
    faulty(tmp_path, on_nonfinite="ignore", monitor="off").train()


GRADIENT = "the gradient is not finite"


@pytest.mark.parametrize(
    ("batches", "updates", "last_update", "losses", "found", "expected"),
    [
        ([3, 4], [3, 4], 2, [1, 2], [False, False], []),
        ([3, 4], [3, 4], 2, [1, math.nan], [False, True], [([4], "the loss is nan")]),
        ([3, 4], [3, 4], 2, [1, 1], [True, False], [([3], GRADIENT)]),
        ([3, 4], [3], 1, [1, 1], [True], [([2, 3], GRADIENT)]),
        ([3, 4], [3], 1, [math.nan, 1], [True], [([3], "the loss is nan")]),
        ([3, 4], [], -1, [1, math.inf], [], [([4], "the loss is inf")]),
        ([3, 4], [3, 4], 2, [1, math.inf], [], [([4], "the loss is inf")]),
        ([3, 4], [3, 3, 4, 4], 2, [1, 1], [False, True, True, True], [([3], GRADIENT), ([4], GRADIENT)]),
    ],
)
def test_faults_are_put_down_to_their_batches(batches, updates, last_update, losses, found, expected):
    log = NonFiniteWatch("stop")
    log.load_state_dict({"batches": batches, "updates": updates, "last_update": last_update, "found": found})
    assert log.faults(losses, []) == expected
    log.begin_window()
    assert log.last_update == (updates or [last_update])[-1] and not log.batches + log.updates


def test_a_device_that_has_no_gradients_any_more_flags_no_step():
    log = NonFiniteWatch("stop")
    log.look([torch.tensor([math.nan])])
    for _ in range(300):  # more than there is room for at first
        log.look([])
    assert log._all_found([flags.tolist() for flags in log._waiting()]) == [True] + [False] * 300


def test_skip_puts_the_statistics_of_batch_norm_back(tmp_path):
    trainer = faulty(tmp_path / "a", on_nonfinite="skip")
    trainer.train()
    saved = load_checkpoint(trainer.checkpoint_dir / "checkpoint-epoch2.pth")
    assert all(tensor.isfinite().all() for tensor in saved["state_dict"].values())
    assert math.isfinite(saved["log"]["val_loss"])


def test_a_window_with_a_skipped_batch_can_be_saved_and_validated(tmp_path):
    every = {"save_every_steps": 1, "validate_every_steps": 1, "monitor": "min val_loss"}
    trainer = faulty(tmp_path, on_nonfinite="skip", accumulate=4, **every)
    trainer.train()
    for path in trainer.checkpoint_dir.glob("*.pth"):
        assert all(tensor.isfinite().all() for tensor in load_checkpoint(path)["state_dict"].values()), path.name


def test_a_model_whose_buffers_became_nan_is_not_saved(tmp_path):
    class Own(Trainer):
        def _train_epoch(self, epoch):
            self.model[1].running_mean[0] = math.nan
            return {"loss": 1.0, "val_loss": 1.0}

    with pytest.raises(UserError, match=r"1\.running_mean of the model hold nan"):
        tiny_trainer(tiny_config(tmp_path, **settings()), trainer_class=Own).train()


def test_rollback_leaves_the_same_bad_sample_out_in_every_epoch(tmp_path):
    trainer = faulty(tmp_path, on_nonfinite="rollback", epochs=13)
    trainer.train()
    assert len(trainer.skipped_batches) == 13


def test_rollback_in_the_first_epoch_shows_no_point_twice(tmp_path):
    trainer = faulty(tmp_path, on_nonfinite="rollback", tensorboard=True, log_step=1, epochs=1)
    trainer.train()
    events = EventAccumulator(str(trainer.config.log_dir))
    events.Reload()
    steps = [event.step for event in events.Scalars("loss/train")]
    bad = bad_batch(trainer)[0]
    assert steps == [i + 1 for i in range(5) if i != bad]


def test_gradients_are_not_looked_at_where_nobody_asks(tmp_path, monkeypatch):
    calls = []
    look = NonFiniteWatch.look
    monkeypatch.setattr(NonFiniteWatch, "look", lambda self, gradients: calls.append(1) or look(self, gradients))
    tiny_trainer(tiny_config(tmp_path / "a", **settings(on_nonfinite="ignore", epochs=1))).train()
    assert not calls
    tiny_trainer(tiny_config(tmp_path / "b", **settings(epochs=1))).train()
    assert len(calls) == 5


def test_the_norm_of_the_gradient_is_shown_where_it_is_clipped(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, **settings(clip_norm=1e-9, tensorboard=True, log_step=1, epochs=1)))
    trainer.train()
    events = EventAccumulator(str(trainer.config.log_dir))
    events.Reload()
    norms = [event.value for event in events.Scalars("grad_norm/train")]
    assert len(norms) == 5 and min(norms) > 1e-6


class NanFromTheStart(torch.nn.Module):
    def forward(self, output, target):
        return torch.nn.functional.cross_entropy(output, target) * math.nan


class InfiniteGradient(torch.nn.Module):
    def forward(self, output, target):
        return torch.nn.functional.cross_entropy(BadGradient.apply(output), target)


@pytest.mark.parametrize(
    ("criterion", "what"), [(NanFromTheStart, "loss is nan"), (InfiniteGradient, "gradient is not")]
)
@pytest.mark.parametrize("start", [look_at_data, Trainer.train])
def test_the_rate_is_not_blamed_for_the_first_batch(tmp_path, criterion, what, start):
    trainer = tiny_trainer(tiny_config(tmp_path, log_step=1), criterion=criterion())
    with pytest.raises(
        UserError, match=rf"epoch 1, batch 1 of 5: the {what}.*; no optimizer step was taken before"
    ) as error:
        start(trainer)
    assert "rate" not in str(error.value)


def test_a_look_at_the_data_names_the_samples_that_are_nan(tmp_path):
    trainer = faulty(tmp_path, loader_class=lambda *_: BaseDataLoader(FaultyData(), 50, True, 0, 0))
    with pytest.raises(UserError, match=f"epoch 1, batch 1 of 1: the loss is nan; .*infinity in sample {BAD}$"):
        look_at_data(trainer)
    look_at_data(
        faulty(tmp_path, loader_class=lambda *_: BaseDataLoader(FaultyData(), 50, True, 0, 0), on_nonfinite="ignore")
    )
