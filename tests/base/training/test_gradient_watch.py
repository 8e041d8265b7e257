import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from base.training.nonfinite import NonFiniteWatch


def read(watch):
    """For each update since the last report, whether its gradient was not finite."""
    return watch.state_dict()["found"]


def sparse(value):
    return torch.sparse_coo_tensor([[0, 2, 2]], [1.0, value, 2.0], (4,), check_invariants=True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "gradient",
    [
        lambda value: torch.tensor([1.0, value]),
        lambda value: torch.tensor([1.0, value], dtype=torch.float64),
        lambda value: torch.tensor([1.0, value], dtype=torch.bfloat16),
        lambda value: torch.tensor([1.0, complex(0, value)]),
        lambda value: torch.full((2, 3, 4, 4), value).to(memory_format=torch.channels_last),
        lambda value: torch.tensor([[1.0, 5.0], [value, 5.0]])[:, 0],
        sparse,
        lambda value: torch.tensor(value),
    ],
    ids=["float32", "float64", "bfloat16", "complex", "channels_last", "strided", "sparse", "0-dim"],
)
def test_one_bad_entry_is_found_in_any_kind_of_gradient(gradient, bad):
    watch = NonFiniteWatch("stop")
    for value in (3.0, bad, 4.0):
        found = watch.look([torch.ones(3), gradient(value), torch.ones(2, dtype=torch.float64)])
        assert any(found) is (value == bad or value != value)
    assert read(watch) == [False, True, False]


def test_gradients_stay_as_they_are_bit_for_bit():
    bits = torch.randint(-(2**31), 2**31 - 1, (10_000,), dtype=torch.int32)
    gradient = bits.view(torch.float32)
    expected = torch.where(gradient.isnan(), 0, bits)
    NonFiniteWatch("stop").look([gradient])
    assert torch.equal(torch.where(gradient.isnan(), 0, gradient.view(torch.int32)), expected)


def test_entries_whose_norm_would_overflow_are_finite():
    assert not any(NonFiniteWatch("stop").look([torch.full((3,), 3e38)]))


def test_nothing_is_lost_however_many_updates_go_by_unread():
    watch = NonFiniteWatch("stop")
    expected = [step % 7 == 3 for step in range(2000)]
    for bad in expected:
        watch.look([torch.tensor([math.nan if bad else 1.0])])
    assert read(watch) == read(watch) == expected
    watch.look([torch.tensor([math.nan])])
    assert read(watch) == [*expected, True]
    watch.begin_window()
    assert read(watch) == []


def test_an_update_without_gradients_has_nothing_bad():
    watch = NonFiniteWatch("stop")
    watch.look([])
    watch.look([torch.tensor([math.nan])])
    assert read(watch) == [False, True]


def test_state_goes_on_in_another_one():
    watch, other = NonFiniteWatch("stop"), NonFiniteWatch("stop")
    watch.look([torch.tensor([math.inf])])
    other.look([torch.tensor([1.0])])
    other.load_state_dict(watch.state_dict())
    other.look([torch.tensor([1.0])])
    assert read(other) == [True, False]


def test_half_precision_on_mps_is_checked_in_a_copy(monkeypatch):
    """Since some of torch's kernels for it set such gradients to 0."""
    checked = []
    kernel = "torch._amp_foreach_non_finite_check_and_unscale_"
    monkeypatch.setattr(kernel, lambda entries, found, scale: checked.append(entries[0].dtype))
    with FakeTensorMode():
        for device in ("mps", "cpu"):
            NonFiniteWatch("stop").look([torch.empty(2, dtype=torch.bfloat16, device=device)])
    assert checked == [torch.float32, torch.bfloat16]
