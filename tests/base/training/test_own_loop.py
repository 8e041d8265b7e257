"""Settings that a _train_epoch of a project's own alone can follow are named, and no others."""

import functools

import pytest

from base import BaseTrainer
from helpers import tiny_config, tiny_trainer
from trainer import Trainer


class Plain(BaseTrainer):
    def __init__(self, model, criterion, metrics, optimizer, config, *args, **kwargs):
        super().__init__(model, criterion, metrics, optimizer, config)

    def _train_epoch(self, epoch):
        return {"loss": 1.0}


class Own(Trainer):
    def _train_epoch(self, epoch):
        return {"loss": 1.0}


class Around(Trainer):
    def _train_epoch(self, epoch):
        return {**Trainer._train_epoch(self, epoch), "more": 1.0}


GIVEN = {"clip_norm": 1.0, "accumulate": 2, "detect_anomaly": True, "on_nonfinite": "skip", "clip_value": None}


@pytest.mark.parametrize(
    ("trainer_class", "named"),
    [
        (Plain, "trainer.accumulate, trainer.clip_norm, trainer.on_nonfinite, trainer.detect_anomaly"),
        (Own, "trainer.accumulate, trainer.clip_norm, trainer.on_nonfinite"),
        (Around, None),
        (Trainer, None),
    ],
)
def test_settings_that_are_given_are_named_in_one_line(tmp_path, capsys, trainer_class, named):
    tiny_trainer(tiny_config(tmp_path, **GIVEN), trainer_class=trainer_class).train()
    told = [line for line in capsys.readouterr().out.splitlines() if "of its own" in line]
    own = f"{named}: this trainer has a _train_epoch of its own, which alone decides what they do"
    assert told == ([own] if named else [])


@pytest.mark.parametrize("trainer_class", [Plain, Own])
def test_defaults_and_what_any_trainer_does_are_not_named(tmp_path, capsys, trainer_class):
    given = {"keep_last": 1, "async_save": True, "accumulate": 1, "on_nonfinite": "ignore"}
    tiny_trainer(tiny_config(tmp_path, **given), trainer_class=trainer_class).train()
    assert "of its own" not in capsys.readouterr().out


def test_a_loop_that_calls_the_frameworks_is_not_its_own(tmp_path, capsys):
    class Decorated(Trainer):
        @functools.wraps(Around._train_epoch)
        def _train_epoch(self, epoch):
            return Around._train_epoch(self, epoch)

    class Within(Trainer):
        def _train_epoch(self, epoch):
            return (lambda: super(Within, self)._train_epoch(epoch))()

    class OfOwn(Own):
        def _train_epoch(self, epoch):
            return super()._train_epoch(epoch)

    for i, trainer_class in enumerate((Decorated, Within, OfOwn)):
        tiny_trainer(tiny_config(tmp_path / str(i), **GIVEN), trainer_class=trainer_class).train()
        assert ("of its own" in capsys.readouterr().out) is (trainer_class is OfOwn), trainer_class
