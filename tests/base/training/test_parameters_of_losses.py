"""A loss may have parameters: they are trained, kept, restored and measured with."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from base.training.optimizers import build_optimizer
from base.training.tune import find_lr
from helpers import changed, run_here, same, tiny_config, tiny_model, tiny_trainer
from parse_config import ConfigParser
from utils.errors import UserError
from utils.runs.checkpoint import load_checkpoint
from utils.runs.weights import load_loss, load_optimizer
from utils.seed import seed_everything


class Prototypes(nn.Module):
    """Cross-entropy of scaled scores; the scale and an offset per class are learned."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(3))
        self.fixed = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, output, target):
        return F.cross_entropy(output * self.scale + self.offset, target)


def trainer_of(config, resume=None, **kwargs):
    parsed = ConfigParser(config, resume=resume)
    seed_everything(5)
    model, criterion = tiny_model(), Prototypes()
    optimizer = build_optimizer(parsed, model, criterion=criterion)
    return tiny_trainer(
        parsed.config, resume, model=model, criterion=criterion, optimizer=optimizer, schedule=None, **kwargs
    )


def test_they_are_trained_and_what_needs_no_gradient_is_not(tmp_path):
    trainer = trainer_of(tiny_config(tmp_path))
    trainer.train()
    assert trainer.criterion.scale != 1 and (trainer.criterion.offset != 0).all()
    assert same(trainer.criterion.fixed, torch.ones(2))


@pytest.mark.parametrize("steps", [2, 7])
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path, steps):
    straight = trainer_of(tiny_config(tmp_path / "a"))
    straight.train()
    stopped = trainer_of(tiny_config(tmp_path / "b"))
    stopped._callbacks.call = lambda hook, trainer, *more: (
        trainer.stop("test") if hook == "on_step_end" and trainer.step == steps else None
    )
    stopped.train()
    resumed = trainer_of(changed(stopped.config.config), resume=stopped.saver.newest)
    resumed.train()
    for part in ("model", "criterion", "optimizer"):
        assert same(getattr(straight, part).state_dict(), getattr(resumed, part).state_dict())


def test_groups_and_several_optimizers_name_them_with_loss_before():
    config = ConfigParser(
        {
            "trainer": {"epochs": 1},
            "optimizer": {"model": {"type": "Adam", "params": "[0-9]*"}, "loss": {"type": "SGD", "args": {"lr": 0.5}}},
        }
    )
    built = build_optimizer(config, tiny_model(), criterion=Prototypes())
    assert [len(group["params"]) for group in built["loss"].param_groups] == [2]
    section = {"type": "SGD", "args": {"lr": 0.1}, "groups": [{"params": "loss.*", "lr_factor": 0.1}]}
    config = ConfigParser({"trainer": {"epochs": 1}, "optimizer": section})
    rest, of_loss = build_optimizer(config, tiny_model(), criterion=Prototypes()).param_groups
    assert len(of_loss["params"]) == 2 and of_loss["lr"] == pytest.approx(0.01) and rest["lr"] == 0.1


def test_a_model_with_a_parameter_of_the_same_name_is_refused():
    config = ConfigParser({"trainer": {"epochs": 1}, "optimizer": {"type": "SGD", "args": {"lr": 0.1}}})
    model = nn.ModuleDict({"loss": Prototypes()})
    with pytest.raises(UserError, match=r"loss: it and the model have a parameter 'loss\.offset'"):
        build_optimizer(config, model, criterion=Prototypes())


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr("utils.distributed.launch.world_size", lambda: 2)
    config = ConfigParser({"trainer": {"epochs": 1}, "optimizer": {"type": "SGD", "args": {"lr": 0.1}}})
    with pytest.raises(UserError, match="loss: Prototypes, which has parameters to train: for one process"):
        build_optimizer(config, tiny_model(), criterion=Prototypes())


def test_finding_a_learning_rate_leaves_them_alone(tmp_path):
    trainer = trainer_of(tiny_config(tmp_path))
    find_lr(trainer)
    assert trainer.criterion.scale == 1 and (trainer.criterion.offset == 0).all()


def test_a_parameter_that_is_not_finite_is_not_saved(tmp_path):
    trainer = trainer_of(tiny_config(tmp_path))
    trainer._callbacks.call = lambda hook, trainer, *more: (
        trainer.criterion.offset.data.fill_(float("nan")) if hook == "on_step_end" and trainer.step == 5 else None
    )
    with pytest.raises(UserError, match=r"loss\.offset"):
        trainer.train()


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, output, target):
        return F.cross_entropy(output * self.scale, target)


def test_testing_measures_with_those_of_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(ConfigParser, "init_loss", lambda self: Scaled())
    settings = {"epochs": 1, "limit_train_batches": 20, "tensorboard": "false", "save_dir": str(tmp_path)}
    flags = [word for key, value in settings.items() for word in ("--set", f"trainer.{key}={value}")]
    run_here("train.py", "-c", "config.json", *flags)
    (path,) = tmp_path.glob("models/*/*/checkpoint-epoch1.pth")
    checkpoint = load_checkpoint(path)
    assert checkpoint["attributes"]["criterion"]["scale"] != 1
    measured = json.loads(run_here("test.py", "--json", "-r", path, "--split", "valid").stdout)
    assert measured["values"]["loss"] == checkpoint["log"]["val_loss"]


def test_another_loss_is_measured_as_it_is(tmp_path):
    trainer = trainer_of(tiny_config(tmp_path))
    trainer.train()
    checkpoint, criterion = load_checkpoint(trainer.saver.newest), Prototypes()
    load_loss(criterion, checkpoint, checkpoint["config"] | {"loss": "another"})
    assert criterion.scale == 1


def test_an_optimizer_without_them_is_refused_in_words():
    with_loss = torch.optim.SGD([*tiny_model().parameters(), *Prototypes().parameters()], lr=0.1)
    without = torch.optim.SGD(tiny_model().parameters(), lr=0.1)
    with pytest.raises(UserError, match=r"its groups have 9 parameters, and those of model and loss are 6; begin"):
        load_optimizer(without, with_loss.state_dict(), settings_as_built=False)
