"""A checkpoint that somebody has edited, with a checksum that is right, is refused in words or trained on."""

import copy
import random

import pytest
import torch

from helpers import tiny_config, tiny_trainer
from utils import UserError
from utils.runs.checkpoint import load_checkpoint, save_checkpoint

SETTINGS = {"save_every_steps": 2, "clip_norm": 1.0}
VALUES = [None, "x", -1, float("inf"), [], {}, torch.zeros(3, 3), True, 10**30, [[1]], {"a": 1}]
CASES = 300


def places(state, place=()):
    """The keys that lead to each value inside nested dicts and lists."""
    inside = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, (list, tuple)) else ()
    for key, value in inside:
        yield (*place, key)
        yield from places(value, (*place, key))


def edited(state, place, value):
    if not place:
        return value
    key, *rest = place
    inside = list(state) if isinstance(state, tuple) else copy.copy(state)
    inside[key] = edited(inside[key], rest, value)
    return type(state)(inside) if isinstance(state, tuple) else inside


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    trainer = tiny_trainer(tiny_config(tmp_path_factory.mktemp("run"), **SETTINGS))
    trainer.train()
    return [load_checkpoint(path) for path in sorted(trainer.checkpoint_dir.glob("checkpoint*.pth"))]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_any_value_in_any_place(checkpoints, tmp_path, seed):
    chance = random.Random(seed)
    refused = 0
    for number in range(CASES // 4):
        state = chance.choice(checkpoints)
        place = chance.choice([place for place in places(state) if place[0] not in ("config", "rng")])
        bad = edited(state, place, chance.choice(VALUES))
        save_checkpoint(bad, tmp_path / "edited.pth")
        try:
            config = tiny_config(tmp_path / str(number), **SETTINGS, epochs=3)
            tiny_trainer(config, resume=tmp_path / "edited.pth").train()
        except UserError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"{place} = {bad!r}") from error
    assert CASES // 16 < refused < CASES // 4


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("optimizer", "param_groups", 0, "lr"), "0.1", "'lr' is '0.1', where a number was expected"),
        (("optimizer", "state", 0, "momentum_buffer"), torch.zeros(2), r"'momentum_buffer' has the shape \(2,\)"),
        (("optimizer", "param_groups", 0, "params", 0), -1, "a state of no parameter"),
        (("attributes", "lr_scheduler", "gamma"), None, "'lr_scheduler': 'gamma' is None, where a number"),
        (
            ("attributes", "train_metrics", "window", "loss"),
            torch.zeros(10**6),
            "got a Tensor, where a list was expected",
        ),
        (("attributes", "optim_step", "window", 0), "1", "got '1', where a number from 0 on was expected"),
        (
            ("optimizer", "state", 0, "momentum_buffer"),
            torch.zeros(8, 4, dtype=torch.complex64),
            "is a complex64 tensor",
        ),
        (("optimizer", "state", 0, "momentum_buffer"), torch.tensor(1.0), r"has the shape \(\), not \(8, 4\)"),
        (("state_dict", "0.weight"), torch.eye(8, 4).to_sparse(), "0.weight is a float32 tensor, sparse_coo and not"),
        (("config", "trainer", "epochs"), torch.zeros(3), "a config holds text, numbers"),
        (("attributes", "nonfinite", "last_update"), 10**30, "a number of 100 bits, where a number from -1 on"),
    ],
)
def test_what_is_wrong_is_named(checkpoints, tmp_path, place, value, told):
    save_checkpoint(edited(checkpoints[0], place, value), tmp_path / "edited.pth")
    config = tiny_config(tmp_path, **SETTINGS, epochs=3)
    with pytest.raises(UserError, match=told):
        tiny_trainer(config, resume=tmp_path / "edited.pth").train()
