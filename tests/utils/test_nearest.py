"""Finding the name that a user probably meant."""

import difflib
import random
import time

import pytest

from utils.config.schema import KNOWN_KEYS
from utils.nearest import did_you_mean, nearest, own_keys_line


def test_the_nearest_name_is_the_one_that_difflib_finds():
    chance = random.Random(1)
    names = [f"layer{i}.block{j}.conv{k}.weight" for i in range(4) for j in range(10) for k in range(5)]
    for name in chance.sample(names, 20):
        place = chance.randrange(len(name))
        typed = name[:place] + name[place + 1 :]
        assert nearest(typed, names) == difflib.get_close_matches(typed, names, 1, 0.75)[0]


def test_long_names_are_not_compared_letter_by_letter():
    assert nearest("ab" * 5_000, ["ba" * 5_000 + str(i) for i in range(100)]) is None
    assert nearest("a" * 10_000, ["a" * 10_000]) is None


def test_names_as_long_as_those_of_nested_adapters_are_compared():
    names = [f"base_model.model.{'module.' * 20}layers.{i}.self_attn.q_proj.lora_A.default.weight" for i in range(4)]
    assert len(names[0]) > 200
    assert nearest(names[2].replace("lora_A", "lora_a").replace("q_proj", "qproj"), names) == names[2]
    assert nearest("ab" * 120, ["ba" * 119 + "b"]) is not None


def test_a_search_among_many_similar_names_takes_a_moment():
    names = [f"{i:04}{'abcdefghij' * 7}x" for i in range(1_000)]
    begin = time.process_time()
    assert nearest(names[500].replace("x", "yz"), names) in names
    assert time.process_time() - begin < 0.6  # 1.5 s, if each were compared letter by letter


def test_a_message_holds_some_of_many_names_in_one_line():
    told = did_you_mean("x", [f"name{i:03}" for i in range(60)])
    assert told.startswith("; there are name000, ") and told.endswith("name049 and 10 more")
    assert did_you_mean("x", ["a\nb\x1b"]) == r"; there are a\nb\x1b"


@pytest.mark.parametrize("name", ["max_steps", "steps", "iterations"])
def test_a_number_of_all_steps_is_not_taken_for_that_of_an_epoch(name):
    assert nearest(name, KNOWN_KEYS[("trainer",)]) != "len_epoch"
    assert own_keys_line([f"trainer.{name}"]) == [f"own keys: trainer.{name}"]
