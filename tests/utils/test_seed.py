"""The states of random generators, as a checkpoint holds them."""

import random

import numpy as np
import pytest
import torch

from utils import UserError
from utils.seed import rng_state, set_rng_state


def test_all_generators_go_on_where_they_were():
    state = rng_state()
    drawn = [random.gauss(0, 1), np.random.standard_normal(), torch.rand(1).item()]
    set_rng_state(state)
    assert [random.gauss(0, 1), np.random.standard_normal(), torch.rand(1).item()] == drawn


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        ("numpy", 0, "PCG64"),
        ("numpy", 1, torch.zeros(623, dtype=torch.int64)),
        ("numpy", 1, torch.full((624,), -1)),
        ("numpy", 1, [0] * 624),
        ("numpy", 2, 700),
        ("numpy", 2, -(10**9)),
        ("numpy", 2, 1.5),
        ("numpy", 3, "x"),
        ("numpy", 4, "x"),
        ("python", 0, 4),
        ("python", 1, [0] * 3),
        ("python", 1, [2**40] * 625),
        ("python", 2, "x"),
    ],
)
def test_a_state_that_a_generator_would_read_wrongly_is_refused(name, index, value):
    before = rng_state()
    state = rng_state()
    state[name][index] = value
    with pytest.raises(UserError, match="the checkpoint does not fit the random generators: ") as told:
        set_rng_state(state)
    assert len(str(told.value).splitlines()) == 1
    set_rng_state(before)
