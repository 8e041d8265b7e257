"""Signatures whose annotations cannot be evaluated."""

import inspect
import sys

import torch

from utils.config.types import argument_errors, signature_of
from utils.signatures import signature

# Python 3.14 evaluates annotations late, so that a name that type checkers alone know needs no quotation marks.
_MISSING = "Missing" if sys.version_info >= (3, 14) else "'Missing'"
SOURCE = f"""
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from somewhere import Missing


class Given:
    def __init__(self, other: {_MISSING}, width: int = 3) -> None:
        pass
"""


def test_an_annotation_that_only_type_checkers_know_hides_no_parameter():
    names = {"__name__": "mine"}
    exec(SOURCE, names)
    found = signature(names["Given"]).parameters
    assert list(found) == ["other", "width"] and found["width"].annotation is int and found["width"].default == 3
    parameters = signature_of(names["Given"])
    assert argument_errors(parameters, {"other": [1], "width": 3}, 0) == []
    assert argument_errors(parameters, {"widht": 3}, 0) == [
        "widht: no such argument; did you mean 'width'?",
        "other: missing; it has no default",
    ]


def test_what_python_shows_is_what_is_returned():
    for function in (torch.nn.Linear, torch.optim.SGD, argument_errors, torch.nn.functional.cross_entropy):
        assert signature(function) == inspect.signature(function)
