"""A rule is written once: the owner of an argument and the check of a config refuse it in the same words."""

import copy

import pytest
import torch

from base import BaseDataLoader
from base.data.splits import split_samples
from base.training.optim_step import OptimStep
from base.training.precision import apply_switches
from base.training.schedules import build_schedule
from helpers import PROJECT, tiny_config, tiny_trainer
from parse_config import PARTS, ConfigParser
from utils.config.files import read_config
from utils.config.schema import TrainerSettings
from utils.errors import UserError
from utils.runs.checkpoint import save_checkpoint
from utils.runs.initial_weights import load_initial_weights

CONFIG = read_config(PROJECT / "config.json") | {"n_gpu": 0}
TABLE = {"type": "TableDataLoader", "args": {"path": "x.csv", "target": "y", "task": "regression", "batch_size": 2}}


class Ten(torch.utils.data.Dataset):
    def __len__(self):
        return 10


def refused(attempt):
    with pytest.raises(UserError) as told:
        attempt()
    return str(told.value).splitlines()


def checked(section, **changes):
    """Lines of what the check has against a job with other values in a section."""
    config = copy.deepcopy(CONFIG)
    config["trainer"]["monitor"] = "off"
    if section:
        config[section] = {**config.get(section, {}), **changes}
    else:
        config |= changes
    return refused(lambda: ConfigParser(config, parts=PARTS))


def loader(**args):
    return BaseDataLoader(Ten(), **{"batch_size": 2, "shuffle": True, "validation_split": 0, "num_workers": 0, **args})


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("batch_size", 0),
        ("num_workers", -1),
        ("validation_split", 1.0),
        ("validation_split", -3),
        ("fold", "6/5"),
    ],
)
def test_an_argument_of_a_loader(argument, value):
    (line,) = refused(lambda: loader(**{argument: value}))
    for name in ("data_loader", "valid_data_loader", "test_data_loader"):
        section = {"type": "MnistDataLoader", "args": {"data_dir": "d", "batch_size": 2, argument: value}}
        changes = {"data_loader": {**section, "args": {**section["args"], "validation_split": 0}}, name: section}
        assert f"{name}.args.{line}" in checked(None, **changes)


@pytest.mark.parametrize(
    ("owner", "config"),
    [
        ({"fold": "1/5", "validation_split": 3}, {"fold": "1/5", "validation_split": 3}),
        ({"stratify": [0] * 10, "groups": [0] * 10}, {"stratify": "y", "groups": "z"}),
    ],
)
def test_arguments_that_contradict_each_other(owner, config):
    (line,) = refused(lambda: split_samples(10, owner.pop("validation_split", 0), **owner))
    args = {**TABLE["args"], **config}
    assert checked("data_loader", type="TableDataLoader", args=args) == [f"data_loader.args.{line}"]


def test_validation_data_from_two_places():
    (line,) = refused(lambda: loader().as_validation(beside=loader(validation_split=0.5)))
    other = {"type": "MnistDataLoader", "args": {"data_dir": "d", "batch_size": 2}}
    mine = {**other, "args": {**other["args"], "validation_split": 0.5}}
    assert checked(None, data_loader=mine, valid_data_loader=other) == [line]


def test_an_optimizer_that_computes_the_loss_itself():
    optimizer = torch.optim.LBFGS(torch.nn.Linear(1, 1).parameters())
    assert refused(lambda: OptimStep(optimizer)) == checked(None, optimizer={"type": "LBFGS"})


def test_a_precision_that_the_device_lacks():
    settings = TrainerSettings(epochs=1, precision="fp16")
    told = refused(lambda: apply_switches(torch.nn.Linear(1, 1), settings, torch.device("cpu")))
    assert told == checked("trainer", precision="fp16")


def test_a_sanity_check_without_validation_data(tmp_path):
    told = refused(lambda: tiny_trainer(tiny_config(tmp_path, sanity_check_batches=2), validation_split=0))
    no_data = {"type": "MnistDataLoader", "args": {"data_dir": "d", "batch_size": 2, "validation_split": 0}}
    trainer = {**CONFIG["trainer"], "monitor": "off", "sanity_check_batches": 2}
    assert told == checked(None, data_loader=no_data, trainer=trainer)


@pytest.mark.parametrize(
    "section",
    [
        {"type": "ReduceLROnPlateau", "warmup": 3},
        {"type": "ReduceLROnPlateau", "interval": "step"},
        {"type": "StepLR", "args": {"step_size": 1}, "monitor": "loss"},
        {"type": "ChainedScheduler", "args": {"schedulers": []}, "warmup": "2 epochs"},
        {
            "type": "SequentialLR",
            "args": {"milestones": [], "schedulers": [{"type": "ChainedScheduler", "args": {"schedulers": []}}]},
        },
    ],
)
def test_a_schedule_that_contradicts_itself(section):
    config = ConfigParser({"lr_scheduler": section, "trainer": {"epochs": 3}})
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters())
    told = refused(lambda: build_schedule(config, optimizer, loader()))
    assert told == checked(None, lr_scheduler=section)


def test_a_regular_expression_that_is_none(tmp_path):
    model, path, rename = torch.nn.Linear(1, 1), tmp_path / "x.pth", {"[": "", "(": ""}
    save_checkpoint({"state_dict": model.state_dict()}, path)
    told = refused(lambda: load_initial_weights(model, path, rename))
    assert told == checked(None, init_weights={"path": str(path), "rename": rename}) and len(told) == 2
