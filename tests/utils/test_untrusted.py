"""Values that no honest checkpoint holds are refused, in one line that says where."""

from collections import OrderedDict

import pytest
import torch

from utils.errors import Refused
from utils.runs.checkpoint import CheckpointError, load_checkpoint
from utils.untrusted import as_count, as_number, require_harmless


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def laughing():
    """A list of a few lists, which are a billion values when they are walked through."""
    value = [1] * 10
    for _ in range(9):
        value = [value] * 10
    return value


def self_referring():
    value = {"a": 1}
    value["b"] = [value]
    return value


def module_state(**attributes):
    state = OrderedDict(w=torch.zeros(1))
    vars(state).update(attributes)
    return state


def out_of_table(place):
    state = torch.Generator().manual_seed(3).get_state()
    state[8:24] = torch.tensor([*(624).to_bytes(4, "little"), 1, 0, 0, 0, *place.to_bytes(8, "little")])
    return state


def sparse_outside():
    indices = torch.tensor([[0, 10**9]])
    return torch.sparse_coo_tensor(indices, torch.ones(2), (3,), check_invariants=False)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (nested(101), "nested more than 100 deep"),
        (laughing(), "more than 10,000 values"),
        (self_referring(), "nested more than 100 deep"),
        ({(1, 2): 1}, r"a key in x is of the type tuple"),
        ({b"a": 1}, r"a key in x is of the type bytes"),
        ({"\x1b[2J": 1}, r"the name '\\x1b\[2J' in x holds control characters"),
        ({"a\nb": 1}, r"the name 'a\\nb' in x"),
        ({"a" * 600: 1}, "has 600 characters"),
        (2**200, "x is a number of 201 bits"),
        (1j, "x is of the type complex"),
        (bytearray(2), "x is of the type bytearray"),
        (torch.zeros(2, device="meta"), "x is a tensor on the device meta"),
        (torch.zeros(2).as_subclass(type("Own", (torch.Tensor,), {})), "x is a tensor of a type of its own"),
        (sparse_outside(), "x is a tensor sparse, with indices that are not in it"),
        (out_of_table(624), "x is a tensor the state of a random generator that stands outside its table"),
        (module_state(items=3), "x has other attributes"),
        (module_state(_metadata={"": {"version": "2"}}), "x has other attributes"),
        (module_state(_metadata={"": {"assign_to_params_buffers": True}}), "x has other attributes"),
    ],
    ids=range(18),
)
def test_what_would_do_harm_is_refused_by_its_place(value, why, monkeypatch):
    monkeypatch.setattr("utils.untrusted._MOST_VALUES", 10_000)
    with pytest.raises(Refused, match=why) as told:
        require_harmless({"x": value})
    assert len(str(told.value).splitlines()) == 1 and len(str(told.value)) < 600


def test_what_honest_checkpoints_hold_passes():
    generator = torch.Generator().manual_seed(3)
    states = []
    for _ in range(700):
        states.append(generator.get_state())
        torch.rand(1, generator=generator)
    shared = [1, 2]
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    require_harmless(
        {
            "state_dict": model.state_dict(),
            "generators": states,
            "twice": [shared, shared],
            "attributes": {"input": {"vocabulary": {"\n": 0}}, "pcg64": {"state": 2**128 - 1}},
            "config": {"sep": "\t"},
            "gradients": [torch.eye(3).to_sparse(), None],
            "numbers": [0, -1, 1.5, float("nan"), True, "text"],
        }
    )


def test_tensors_no_longer_require_a_gradient():
    state = {"w": torch.nn.Parameter(torch.zeros(2))}
    require_harmless(state)
    assert not state["w"].requires_grad


@pytest.mark.parametrize("value", [-1, 2**63, True, 1.0, "1", None, torch.tensor(1)])
def test_a_count_is_an_int_of_64_bits(value):
    with pytest.raises(ValueError, match="a number from 0 on was expected"):
        as_count(value)
    assert as_count(2**63 - 1) == 2**63 - 1 and as_count(-1, least=-1) == -1


@pytest.mark.parametrize("value", [10**30, True, "1", None, [1]])
def test_a_number_is_an_int_or_a_float(value):
    with pytest.raises(ValueError, match="a number was expected"):
        as_number(value)
    assert as_number(3) == 3.0


def test_a_checkpoint_with_a_name_for_the_terminal_is_refused(tmp_path):
    torch.save({"state_dict": {"\x1b[2Jevil": torch.zeros(1)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: refused: the name '\\x1b\[2Jevil' in state_dict"):
        load_checkpoint(tmp_path / "a.pth")
