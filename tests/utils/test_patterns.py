"""Patterns of names, and the bounds of what matching them may cost."""

import re
import signal

import pytest

from utils import UserError
from utils.patterns import choose_names, in_bounded_time

NAMES = ["encoder.0.weight", "encoder.0.bias", "head.weight"]


def test_names_are_chosen_in_their_own_order():
    assert choose_names(["head.*", "*.bias"], NAMES, "here") == ["encoder.0.bias", "head.weight"]
    with pytest.raises(UserError, match=r"here: no parameter is called 'heat.\*'; is 'head.weight' meant\?"):
        choose_names("heat.*", NAMES, "here")


@pytest.mark.parametrize("patterns", ["[" * 100_000, ["*"] * 101, ["*", "a" * 201]])
def test_patterns_are_few_and_short(patterns):
    with pytest.raises(UserError, match=r"here: got .*; it should be at most 100 patterns, of up to 200") as refused:
        choose_names(patterns, NAMES, "here")
    assert len(str(refused.value)) < 500


def test_matching_that_would_take_years_is_ended(monkeypatch):
    monkeypatch.setattr("utils.patterns._SECONDS", 0.05)
    before = signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(UserError, match=r"here: the patterns take more than 0.05 seconds"), in_bounded_time("here"):
        re.search("(a+)+$", "a" * 40 + "b")
    assert signal.getsignal(signal.SIGVTALRM) is before and signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
