"""References of a config to its own values."""

import argparse
import json

import pytest

from parse_config import ConfigParser
from utils.config.command_line import read_command_line
from utils.config.files import read_config
from utils.config.references import with_references
from utils.errors import UserError


def test_a_reference_alone_becomes_the_value_and_one_within_a_text_its_text():
    config = {
        "a": {"width": 64, "sizes": [1, 2], "on": True, "none": None, "word": "x"},
        "same": "${a.width}",
        "list": ["${a.sizes}", "${a.sizes.1}"],
        "text": "w${a.width}-${a.word}-${a.on}-${a.none}",
        "next": "${same}",
    }
    resolved = with_references(config)
    assert resolved == {
        **config,
        "same": 64,
        "list": [[1, 2], 2],
        "text": "w64-x-true-null",
        "next": 64,
    }
    resolved["list"][0].append(3)
    assert config["a"]["sizes"] == resolved["a"]["sizes"] == [1, 2]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"a": "${b.c}", "b": {"d": 1}}, "a: got '${b.c}'; the config has no b.c; there are d"),
        (
            {"a": {"lr": "${optimizr.lr}"}, "optimizer": {"lr": 1}},
            "the config has no optimizr.lr; did you mean 'optimizer'",
        ),
        ({"a": "${a}"}, "a: got '${a}'; a refers to itself"),
        ({"a": "${b}", "b": "x${a}"}, "a refers to itself"),
        ({"a": "${b}", "b": {"c": 1}}, "b is a section; refer to one of its values"),
        ({"a": "${b}", "b": [[1]]}, "b is a section"),
        ({"a": "x${b}", "b": [1]}, "b is a list, which cannot stand within a text"),
        ({"a": "${b.5}", "b": [1]}, "the config has no b.5"),
        ({"a": "${}"}, "the config has no "),
    ],
)
def test_a_reference_that_leads_to_no_value_is_refused_where_it_stands(config, message):
    with pytest.raises(UserError) as error:
        with_references(config)
    assert message in str(error.value)


def test_all_errors_are_reported_and_no_chain_of_references_becomes_large():
    with pytest.raises(UserError) as error:
        with_references({"a": "${x}", "b": ["${y}"]})
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == ["a", "b.0"]

    doubled = {"v0": "ab", **{f"v{i}": f"${{v{i - 1}}}${{v{i - 1}}}" for i in range(1, 60)}}
    with pytest.raises(UserError, match="more than 10,000 characters"):
        with_references(doubled)
    assert set(with_references({**doubled, "v0": ""}).values()) == {""}


def read(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["train.py", *words])
    parser = argparse.ArgumentParser()
    for flags in (("-c", "--config"), ("-r", "--resume"), ("-d", "--device")):
        parser.add_argument(*flags)
    return read_command_line(parser, [])


def test_flags_count_before_references_and_a_run_keeps_their_values(tmp_path, monkeypatch):
    config = {
        "name": "w${optimizer.args.lr}",
        "optimizer": {"type": "SGD", "args": {"lr": 0.1}},
        "trainer": {"epochs": 1, "save_dir": str(tmp_path / "saved"), "save_period": "${trainer.epochs}"},
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    given = read(monkeypatch, "-c", str(path), "--set", "optimizer.args.lr=0.5")
    assert given.config["name"] == "w0.5" and not given.errors
    assert given.overridden == ['name: "w0.1" -> "w0.5"', "optimizer.args.lr: 0.1 -> 0.5"]
    assert read(monkeypatch, "-c", str(path)).overridden == []

    made = ConfigParser(read_config(path), modification={"optimizer.args.lr": 0.25})
    assert made["name"] == "w0.25" and made["trainer"]["save_period"] == 1
    assert made.save_dir.parent.name == "w0.25"
    assert json.loads((made.save_dir / "config.json").read_text())["name"] == "w0.25"


def test_a_reference_to_what_is_not_there_is_one_line_of_the_check(tmp_path):
    with pytest.raises(UserError, match=r"^optimizer.args.lr: got '\$\{rate\}'; the config has no rate"):
        ConfigParser(
            {"optimizer": {"type": "SGD", "args": {"lr": "${rate}"}}, "trainer": {"epochs": 1, "save_dir": "x"}}
        )
