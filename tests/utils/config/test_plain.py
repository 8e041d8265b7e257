"""What a config may hold, wherever it comes from."""

import datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from parse_config import ConfigParser
from utils import UserError
from utils.config.plain import MAX_DEPTH, MAX_KEYS, MAX_VALUES, path_error, require_plain


def nested(depth):
    return [nested(depth - 1)] if depth else []


def test_what_is_within_the_limits_is_let_through():
    require_plain({"a": [None, True, 1.5, -(2**63), 2**64 - 1, "Füße\n\t\x1b"], "ü b": nested(MAX_DEPTH - 1)}, "here")
    require_plain({f"k{i}": 1 for i in range(MAX_KEYS)}, "here")
    require_plain([1] * (MAX_VALUES - 1), "here")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({1: 2}, "here: 1: a key is text"),
        ({"a": {"b\n": 2}}, r"here: a: 'b\\n': a key is one line of printable text, of up to 200 characters"),
        ({"a" * 201: 2}, "a key is one line of printable text"),
        ({"a": [0, 2**64]}, "here: a.1: got an integer of 65 bits; it should fit into 64"),
        (-(2**63) - 1, "here: got an integer of 64 bits"),
        ([10**5000], "here: 0: got an integer of 16610 bits"),
        ("a\0b", r"here: got 'a\\x00b'; a text holds neither NUL nor half of a surrogate pair"),
        ({"a": ["\udcff"]}, r"here: a.0: got '\\udcff'; a text holds neither"),
        (float("nan"), "here: got nan, which is no number"),
        ({"a": datetime.date(2026, 1, 1)}, "here: a: got a date; a config holds text, numbers"),
        ({"a": ("b",)}, "here: a: got a tuple"),
        (nested(MAX_DEPTH + 1), "here: nested too deeply"),
        ([[1] * MAX_VALUES], "here: holds more than 10,000 values"),
        ([{f"k{i}": 1 for i in range(600)}] * 2, "here: holds more than 1,000 keys"),
        ([[[1] * 5000] * 5000] * 5000, "here: holds more than 10,000 values"),
    ],
)
def test_what_is_beyond_them_is_refused_in_one_short_line(value, told):
    with pytest.raises(UserError, match=told) as refused:
        require_plain(value, "here")
    assert str(refused.value).isprintable() and len(str(refused.value)) < 500


def test_paths_are_one_printable_line_of_names_that_a_file_may_have():
    assert path_error("saved/models/Größe 2") is None and path_error("a" * 255) is None
    for text in ("", "a\nb", "a\x1b", "a\x9b", "a\u202eb", "a\0", "\ud800", "a" * 256, "ü" * 128, "a/" * 5_000):
        assert path_error(text) is not None


def test_a_program_may_give_paths_and_numbers_of_numpy_and_torch(tmp_path):
    numbers = {"optimizer.args.lr": np.float32(0.25), "trainer.epochs": np.int64(2), "arch.args.p": torch.tensor(0.5)}
    values = numbers | {"trainer.save_dir": tmp_path, "optimizer.args.betas": (0.5, np.float32(0.75))}
    config = ConfigParser(
        {"name": "here", "trainer": {"save_period": np.int32(3)}, "arch": {"type": "A"}}, None, values
    )
    assert config.config == {
        "name": "here",
        "arch": {"type": "A", "args": {"p": 0.5}},
        "optimizer": {"args": {"lr": 0.25, "betas": [0.5, 0.75]}},
        "trainer": {"save_period": 3, "epochs": 2, "save_dir": str(tmp_path)},
    }
    assert type(config["optimizer"]["args"]["lr"]) is float and type(config["trainer"]["save_period"]) is int


def test_what_a_program_sets_and_no_config_holds_stays_as_it_is():
    assert ConfigParser({"name": "here", "own": {"words": {1}}}, None, {"own.words": {2}})["own"]["words"] == {2}
    assert Path not in map(type, ConfigParser({"name": "here", "own": [Path("a")]})["own"])
