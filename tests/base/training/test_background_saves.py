"""Saves in the background, and saves that fail."""

import concurrent.futures
import threading
import time

import pytest
import torch

import utils.runs.saver
from base import BaseTrainer
from helpers import checkpoint_names, newest_state, same, scripted, tiny_config, tiny_trainer
from trainer import Trainer
from utils.errors import UserError
from utils.runs.checkpoint import CheckpointError, load_checkpoint


def test_state_that_no_safe_file_can_hold_fails_the_run_and_leaves_the_old_files(tmp_path):
    class Odd(Trainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.memory = Memory()

        def _train_epoch(self, epoch):
            self.memory.value = {1, 2} if epoch == 2 else 1
            return {"loss": 1.0}

    class Memory:
        value = 0

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, state):
            self.value = state["value"]

    trainer = tiny_trainer(tiny_config(tmp_path), trainer_class=Odd)
    with pytest.raises(CheckpointError, match=r"attributes.memory.value: a builtins.set cannot be saved"):
        trainer.train()
    assert checkpoint_names(trainer) == ["checkpoint-epoch1.pth"] and newest_state(trainer)["epoch"] == 1


def test_background_saves_hold_what_ordinary_ones_hold(tmp_path):
    plain = tiny_trainer(tiny_config(tmp_path / "a", epochs=3, monitor="min loss"))
    plain.train()
    background = tiny_trainer(tiny_config(tmp_path / "b", epochs=3, monitor="min loss", async_save=True))
    background.train()
    assert checkpoint_names(plain) == checkpoint_names(background) and len(checkpoint_names(plain)) == 4
    for name in checkpoint_names(plain):
        left, right = (load_checkpoint(trainer.checkpoint_dir / name) for trainer in (plain, background))
        del left["config"], right["config"]
        assert same(left, right), name


def test_a_background_save_holds_the_state_of_its_moment(tmp_path, monkeypatch):
    """Not what training has made of it by the time that the file is written."""
    trainer = tiny_trainer(tiny_config(tmp_path, async_save=True))
    gate = threading.Event()
    write = utils.runs.saver.save_checkpoint
    monkeypatch.setattr(utils.runs.saver, "save_checkpoint", lambda *args: (gate.wait(10), write(*args)))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer._save_checkpoint(1)
    with torch.no_grad():
        for value in trainer.model.state_dict().values():
            value.zero_()
    assert not list(trainer.checkpoint_dir.glob("*.pth"))  # it did not wait
    gate.set()
    trainer.saver.wait()
    assert same(load_checkpoint(trainer.checkpoint_dir / "checkpoint-epoch1.pth")["state_dict"], before)


class Hooked(Trainer):
    """As in old projects, which copy the file that they have just saved."""

    def _save_checkpoint(self, epoch, save_best=False):
        super()._save_checkpoint(epoch, save_best)
        assert (self.checkpoint_dir / f"checkpoint-epoch{epoch}.pth").is_file()


class OldTrain(Trainer):
    """With a train() as that of the old template."""

    def train(self):
        for epoch in range(self.start_epoch, self.epochs + 1):
            self._train_epoch(epoch)
            self._save_checkpoint(epoch)
            assert (self.checkpoint_dir / f"checkpoint-epoch{epoch}.pth").is_file()


class ReturnsToFile(Trainer):
    """Its loop begins an epoch with weights that were saved before."""

    def _train_epoch(self, epoch):
        if epoch > 1:
            state = load_checkpoint(self.checkpoint_dir / f"checkpoint-epoch{epoch - 1}.pth")
            self.model.load_state_dict(state["state_dict"])
        return super()._train_epoch(epoch)


class OnBase(BaseTrainer):
    def _train_epoch(self, epoch):
        return {"loss": 1.0}


def on_base(model, criterion, metrics, optimizer, config, *others, **further):
    return OnBase(model, criterion, metrics, optimizer, config)


@pytest.mark.parametrize(
    ("setting", "trainer_class", "largest", "later"),
    [
        (None, Trainer, 10**6, True),
        (None, Trainer, 10**2, False),
        (None, Hooked, 10**6, False),
        (None, OldTrain, 10**6, False),
        (None, ReturnsToFile, 10**6, False),
        (None, on_base, 10**6, False),
        (True, on_base, 10**6, True),
        (True, Trainer, 10**2, True),
        (False, Trainer, 10**6, False),
    ],
)
def test_small_copies_are_saved_in_the_background_unless_a_method_may_read_the_file(
    tmp_path, monkeypatch, setting, trainer_class, largest, later
):
    monkeypatch.setattr(utils.runs.saver, "LARGEST_COPY", largest)
    trainer = tiny_trainer(tiny_config(tmp_path, async_save=setting), trainer_class=trainer_class)
    threads = set()
    write = utils.runs.saver.save_checkpoint
    monkeypatch.setattr(
        utils.runs.saver, "save_checkpoint", lambda *args: (threads.add(threading.get_ident()), write(*args))
    )
    trainer.train()
    assert (threads == {threading.get_ident()}) == (not later)


def test_a_background_save_that_fails_ends_the_run_at_the_next_step(tmp_path, monkeypatch):
    trainer = tiny_trainer(tiny_config(tmp_path, async_save=True))
    trainer._save_checkpoint(1)
    trainer.saver.wait()

    def full(state, path, *note):
        raise CheckpointError("the disk is full")

    monkeypatch.setattr(utils.runs.saver, "save_checkpoint", full)
    trainer._save_checkpoint(2)
    concurrent.futures.wait([trainer.saver._job])
    steps = []
    step = trainer.optim_step.step
    monkeypatch.setattr(trainer.optim_step, "step", lambda *args: steps.append(args) or step(*args))
    with pytest.raises(CheckpointError, match="the disk is full"):
        trainer._train_epoch(3)
    assert len(steps) == 1 and checkpoint_names(trainer) == ["checkpoint-epoch1.pth"]


def test_the_last_background_save_is_waited_for_and_its_error_told(tmp_path, monkeypatch):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1, async_save=True))

    def late(state, path, *note):
        time.sleep(0.3)
        raise CheckpointError("the disk is full")

    monkeypatch.setattr(utils.runs.saver, "save_checkpoint", late)
    with pytest.raises(CheckpointError, match="the disk is full"):
        trainer.train()


def test_a_loop_of_the_projects_own_hears_of_a_failed_save_at_its_epochs_end(tmp_path, monkeypatch):
    config = tiny_config(tmp_path, epochs=9, save_period=3, async_save=True)
    trainer = tiny_trainer(config, trainer_class=scripted([1.0] * 9))
    finish, next_epoch = trainer._finish_epoch, threading.Event()

    def full(state, path, *note):
        next_epoch.wait(10)
        raise CheckpointError("the disk is full")

    def finish_after_the_save(log, seconds):
        if trainer.saver._job is not None:
            next_epoch.set()
            concurrent.futures.wait([trainer.saver._job])
        return finish(log, seconds)

    monkeypatch.setattr(utils.runs.saver, "save_checkpoint", full)
    monkeypatch.setattr(trainer, "_finish_epoch", finish_after_the_save)
    with pytest.raises(CheckpointError, match="the disk is full"):
        trainer.train()
    assert trainer.table.epochs() == [1, 2, 3]


def test_a_ctrl_c_while_a_save_is_awaited_names_the_checkpoint_that_it_made(tmp_path, monkeypatch, capsys):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1, async_save=True))
    wait, calls = trainer.saver.wait, []

    def interrupted_once():
        if trainer.saver._job is not None and not calls:
            calls.append(1)
            raise KeyboardInterrupt
        wait()

    monkeypatch.setattr(trainer.saver, "wait", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    printed = capsys.readouterr().out
    assert calls and "resume with: python train.py -r" in printed and "checkpoint-epoch1.pth" in printed


def test_an_error_of_a_step_names_the_checkpoint_that_is_still_being_written(tmp_path, monkeypatch):
    write, may_write = utils.runs.saver.save_checkpoint, threading.Event()
    monkeypatch.setattr(utils.runs.saver, "save_checkpoint", lambda *args: (may_write.wait(1), write(*args)))

    class Diverging(Trainer):
        def compute_loss(self, data, target):
            loss, output = super().compute_loss(data, target)
            return loss * (float("nan") if self.epoch == 2 else 1), output

    trainer = tiny_trainer(tiny_config(tmp_path, async_save=True), trainer_class=Diverging)
    with pytest.raises(UserError, match=r"the last checkpoint is .*checkpoint-epoch1\.pth"):
        trainer.train()
