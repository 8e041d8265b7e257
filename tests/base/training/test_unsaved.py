"""What a trainer of one's own counts or remembers in plain attributes: no checkpoint holds it, and the log says so."""

import random
from collections import deque

import numpy as np
import pytest
import torch

from base.training.loss_inputs import LossWatch
from helpers import tiny_config, tiny_trainer
from trainer import Trainer


class Remembering(Trainer):
    """Its attributes after the constructor; what changes in a step is set by a test."""

    kept, change = None, None

    def __init__(self, *args, **kwargs):
        self.before = 1  # set before the framework's own constructor
        super().__init__(*args, **kwargs)
        self.kept = self.make()
        self.setting = {"alpha": [0.4, float("nan")], "words": ("a", {"b"})}
        self.numbers = np.ones(3)
        self.alias, self.layers, self.rule = self.model[0].weight, list(self.model), [self.optimizer]

    def compute_loss(self, data, target):
        self.step_of(data)
        return super().compute_loss(data, target)


def remembering(make, change):
    return type("Own", (Remembering,), {"make": lambda self: make(), "step_of": change})


def told(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if "in no checkpoint" in line]


def replace(self, data):
    self.kept = torch.cat([self.kept[len(data) :], data])


CHANGES = {
    "a counter": (lambda: 0, lambda self, data: setattr(self, "kept", self.kept + 1)),
    "a number": (lambda: 0.5, lambda self, data: setattr(self, "kept", data.sum().item())),
    "a deque": (lambda: deque(maxlen=3), lambda self, data: self.kept.append(data[0])),
    "a list in a dict": (lambda: {"a": []}, lambda self, data: self.kept["a"].append(1)),
    "a tensor in place": (lambda: torch.zeros(4), lambda self, data: self.kept.add_(data[0])),
    "another tensor": (lambda: torch.zeros(16, 4), replace),
    "tensors in a list": (lambda: [torch.zeros(4)], lambda self, data: self.kept[0].add_(1)),
    "an array": (lambda: np.zeros(2), lambda self, data: self.kept.__setitem__(0, len(data))),
    "one that was not there": (lambda: None, lambda self, data: setattr(self, "kept", 1)),
    "a model in a list": (lambda: [torch.nn.Linear(1, 1)], lambda self, data: torch.nn.init.ones_(self.kept[0].weight)),
    "a generator of torch": (torch.Generator, lambda self, data: torch.rand(1, generator=self.kept)),
    "a generator of NumPy": (lambda: np.random.default_rng(0), lambda self, data: self.kept.random()),
    "an older generator of NumPy": (lambda: np.random.RandomState(0), lambda self, data: self.kept.rand()),
    "a generator of Python": (lambda: random.Random(0), lambda self, data: self.kept.random()),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_changes_in_training_and_is_in_no_checkpoint_is_told_once_at_the_first_save(kind, tmp_path, capsys):
    tiny_trainer(tiny_config(tmp_path, save_every_steps=2), trainer_class=remembering(*CHANGES[kind])).train()
    (line,) = told(capsys)
    assert "changed in training, in no checkpoint: self.kept;" in line and "docs/trainers.md" in line


class Holder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))


class WithOwnState(Holder):
    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count.copy_(state["count"])


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (WithOwnState, lambda self, data: self.kept.count.add_(1)),
        (lambda: [WithOwnState()], lambda self, data: None),
        (Holder, lambda self, data: self.kept.count.add_(1)),  # it has a state, which is saved
        (lambda: 3, lambda self, data: None),
        (lambda: torch.zeros(2), lambda self, data: self.kept + 1),
    ],
)
def test_what_is_saved_or_stays_the_same_is_not_told(make, change, tmp_path, capsys):
    config = tiny_config(tmp_path, save_every_steps=2, validate_every_steps=2, accumulate=2, monitor="min val_loss")
    (trainer := tiny_trainer(config, trainer_class=remembering(make, change))).train()
    tiny_trainer(config, trainer.checkpoint_dir / "checkpoint-epoch1.pth", remembering(make, change)).train()
    assert not told(capsys)


class OfEarlierVersion(Trainer):
    """Remembers what our own trainers did, in a trainer.py that an update of its project left alone."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._has_looked, self._valid_watch = False, LossWatch("validation")

    def compute_loss(self, data, target):
        self._has_looked, self._valid_watch = True, None
        return super().compute_loss(data, target)


def test_what_trainers_of_earlier_versions_remember_is_not_told(tmp_path, capsys):
    tiny_trainer(tiny_config(tmp_path), trainer_class=OfEarlierVersion).train()
    assert not told(capsys)


def test_a_trainer_that_restores_attributes_itself_is_told_nothing(tmp_path, capsys):
    class Restoring(remembering(lambda: 0, lambda self, data: setattr(self, "kept", self.kept + 1))):
        def _save_checkpoint(self, epoch, save_best=False):
            super()._save_checkpoint(epoch, save_best)
            torch.save({"kept": self.kept}, self.checkpoint_dir / "kept.pt")

        def _resume_checkpoint(self, path):
            super()._resume_checkpoint(path)
            self.kept = torch.load(path.parent / "kept.pt")["kept"]

    tiny_trainer(tiny_config(tmp_path), trainer_class=Restoring).train()
    assert not told(capsys)


def circle():
    made: list = [1]
    made.append(made)
    return made


class LoadedLater(dict):
    def values(self):
        raise KeyError("not loaded yet")


class WithoutState(torch.optim.SGD):
    def state_dict(self):
        raise RuntimeError("not stepped yet")


@pytest.mark.parametrize(
    "make",
    [
        circle,
        lambda: LoadedLater(a=1),
        lambda: [WithoutState(torch.nn.Linear(1, 1).parameters(), lr=1.0)],
        lambda: [torch.nn.LazyLinear(2)],
        random.SystemRandom,
    ],
)
def test_what_cannot_be_looked_at_is_no_trouble(make, tmp_path):
    tiny_trainer(tiny_config(tmp_path), trainer_class=remembering(make, lambda self, data: None)).train()
