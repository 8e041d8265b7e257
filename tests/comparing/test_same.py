"""compare.py --same, on states and values made by hand; a test of the README runs the command."""

import math

import torch

from comparing.same import differing_values, scalar_differences


def state(**changes):
    return {"step": 3, "weights": torch.tensor([0.0, 1.0]), "log": [1.5, {"loss": math.nan}], "none": None, **changes}


def test_equal_states_do_not_differ():
    assert differing_values(state(), state()) == []


def test_differences_are_named_by_their_place():
    assert differing_values(state(), state(step=4.0)) == ["step"]
    assert differing_values(state(), state(weights=torch.tensor([-0.0, 1.0]))) == ["weights"]  # equal, in other bits
    assert differing_values(state(), state(weights=torch.tensor([0.0]))) == ["weights"]
    assert differing_values(state(), state(log=[1.5, {"loss": 2.0}])) == ["log.1.loss"]
    assert differing_values(state(), state(log=[1.5])) == ["log.1"]
    assert differing_values(state(), state(more=1)) == ["more"]


def test_none_is_not_the_same_as_nothing():
    assert differing_values(state(log=[1, None]), state(log=[1])) == ["log.1"]
    assert differing_values(state(more=None), state()) == ["more"]
    assert differing_values((None,), ()) == ["0"]


def test_the_first_difference_of_each_tag_is_found():
    one = {"loss": [(1, 0.5), (2, math.nan), (3, 0.25)], "lr": [(1, 0.1)], "alone": [(4, 1.0)]}
    assert scalar_differences(one, one) == []
    other = {"loss": [(1, 0.5), (2, math.nan), (3, 0.75)], "lr": [(1, 0.1), (2, 0.1)]}
    told = [(4, "alone is in one alone"), (3, "loss is 0.25 and 0.75"), (2, "lr is in one alone")]
    assert scalar_differences(one, other) == told
