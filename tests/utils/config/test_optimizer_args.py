"""Values that an optimizer refuses are found before there is a model, by --check."""

import inspect

import pytest
import torch

from helpers import run_here
from parse_config import PARTS
from utils import UserError
from utils.config.check import check_types

OPTIMIZERS = [
    name
    for name, found in vars(torch.optim).items()
    if inspect.isclass(found) and issubclass(found, torch.optim.Optimizer) and found is not torch.optim.Optimizer
]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_negative_rate_is_refused_and_a_right_one_is_not(name):
    check_types({"optimizer": {"type": name, "args": {"lr": 0.1}}}, PARTS)
    with pytest.raises(UserError, match=rf"^optimizer\.args: {name}: .*earning rate.*-0\.1$"):
        check_types({"optimizer": {"type": name, "args": {"lr": -0.1}}}, PARTS)


def test_groups_and_several_optimizers_are_told_all_at_once():
    groups = [{"params": "a.*", "args": {"weight_decay": -3.0}}, {"params": "b.*", "args": {"lr": 1.0}}]
    several = {
        "a": {"type": "Adam", "args": {"betas": [0.9, 2.0]}},
        "b": {"type": "SGD", "args": {"momentum": -1.0, "lr": 0.1}, "groups": groups},
        "c": {"type": "AdamW", "args": {"lrr": -0.1}},
    }
    with pytest.raises(UserError) as refused:
        check_types({"optimizer": several}, PARTS)
    assert str(refused.value).splitlines() == [
        "optimizer.a.args: Adam: Invalid beta parameter at index 1: 2.0",
        "optimizer.b.groups.0.args: SGD: Invalid weight_decay value: -3.0",
        "optimizer.b.args: SGD: Invalid momentum value: -1.0",
        "optimizer.c.args.lrr: no such argument; did you mean 'lr'?",
    ]


def test_check_reports_it_and_makes_no_run(tmp_path):
    settings = ("--set", "optimizer.args.lr=-0.1", "--set", f"trainer.save_dir={tmp_path}")
    done = run_here("train.py", "-c", "config.json", "--check", *settings, status=2)
    assert done.stderr == "error: optimizer.args: Adam: Invalid learning rate: -0.1\n" and not any(tmp_path.iterdir())
