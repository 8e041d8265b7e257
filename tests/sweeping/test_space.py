"""The grammar of spaces, and which settings they give."""

import argparse
import json
import re

import pytest

from helpers import PROJECT
from sweep import read_job
from sweeping.plan import read_plan
from sweeping.space import Dimension, Space, parse_dimension
from utils import UserError
from utils.config.files import read_config


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("0.1,0.3", Dimension((0.1, 0.3))),
        ("relu, gelu", Dimension(("relu", "gelu"))),
        ("true,null,3,text", Dimension((True, None, 3, "text"))),
        ("[3, 4], [5]", Dimension(([3, 4], [5]))),
        ('{"type": "A"}, {"type": "B"}', Dimension(({"type": "A"}, {"type": "B"}))),
        ("0..1", Dimension(low=0.0, high=1.0)),
        ("-1.5..2.5:0.5", Dimension(low=-1.5, high=2.5, step=0.5)),
        ("log:1e-4..1e-1", Dimension(low=1e-4, high=0.1, log=True)),
        ("int:8..64", Dimension(low=8, high=64, step=1)),
        ("int:8..64:8", Dimension(low=8, high=64, step=8)),
        ("log:int:8..512", Dimension(low=8, high=512, step=1, log=True)),
        (["0..1", "text"], Dimension(("0..1", "text"))),
        ({"values": "0..1", "when": {"a": "b"}}, Dimension(low=0.0, high=1.0, when={"a": ("b",)})),
        ({"values": [1, 2], "when": {"a": ["b", "c"]}}, Dimension((1, 2), when={"a": ("b", "c")})),
    ],
)
def test_a_dimension_is_written_as_a_text_a_list_or_an_object(text, dimension):
    found = parse_dimension("key", text)
    assert found == dimension and type(found.low) is type(dimension.low)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("lg:1..2", "give at least two values: "),
        ("1..1", "the first number should be the smaller one"),
        ("int:1.5..3", "a range of integers"),
        ("0..1:-0.1", "a step is above 0"),
        ("log:1..10:2", "a logarithmic range has none"),
        ([1, 1], "a value is given twice"),
        ([1, True], "a value is given twice"),
        (3, "give a list of choices, or a text"),
        ({"choices": [1, 2]}, "choices: no such key; there are values and when"),
        ({"values": [1, 2], "when": "a"}, "when: got 'a'"),
    ],
)
def test_a_mistake_in_a_dimension_names_the_key(given, message):
    with pytest.raises(UserError, match=r"space\.key") as refused:
        parse_dimension("key", given)
    assert message in str(refused.value)


def test_the_example_of_the_page_fits_the_default_job():
    example = json.loads(re.findall(r"```jsonc\n(.*?)```", (PROJECT / "docs" / "sweep.md").read_text(), re.S)[0])
    plan, space = read_plan(example, read_config(PROJECT / "config.json"))
    assert plan.seconds == 7200 and plan.directions == ["maximize", "minimize"] and len(space.dimensions) == 4


def test_choices_that_the_config_makes_the_same_are_refused():
    config = read_config(PROJECT / "config.json")
    adam = {"type": "Adam", "args": {"lr": 0.1}}
    amsgrad = {"type": "Adam", "args": {"lr": 0.1, "amsgrad": True}}
    with pytest.raises(
        UserError, match=r"^space\.optimizer: .* are the same, since the config gives what they leave out"
    ):
        read_plan({"trials": 1, "space": {"optimizer": [adam, amsgrad]}}, config)
    read_plan({"trials": 1, "space": {"optimizer.args": [{}, adam["args"]]}}, config)


def test_values_that_are_set_for_a_sweep_follow_one_another():
    flags = argparse.Namespace(
        config=str(PROJECT / "config.json"), set=["optimizer.args={}", 'optimizer.args={"lr": 1}']
    )
    assert read_job(flags)["optimizer"] == {"type": "Adam", "args": {"lr": 1}}


def test_a_step_that_does_not_reach_the_end_stops_before_it():
    assert parse_dimension("key", "int:1..8:3").points() == (1, 4, 7)
    assert parse_dimension("key", "0..0.3:0.1").points() == (0, 0.1, 0.2, 0.3)


def test_sections_come_before_what_they_hold_and_conditions_after_what_they_ask():
    config = {"arch": {"type": "A", "args": {"width": 1}}}
    space = Space(
        {
            "arch.args.depth": Dimension((7, 8), when={"arch.type": ("B",)}),
            "arch.args.width": Dimension((3, 4)),
            "arch": Dimension(({"type": "A", "args": {}}, {"type": "B", "args": {}})),
        }
    )
    assert list(space.dimensions) == ["arch", "arch.args.width", "arch.args.depth"]
    first = space.settings(config, lambda key, dimension: dimension.choices[0])
    last = space.settings(config, lambda key, dimension: dimension.choices[-1])
    assert set(first) == {"arch", "arch.args.width"} and last["arch.args.depth"] == 8
    grid = space.grid(config)
    assert len(grid) == 6 and len([one for one in grid if "arch.args.depth" in one]) == 4
    assert config == {"arch": {"type": "A", "args": {"width": 1}}}
    assert all(one["arch"]["args"] == {} for one in grid)  # nothing was set in the choice itself
