"""Finding the name that a user probably meant."""

import difflib
import random

from utils.nearest import did_you_mean, nearest


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


def test_a_message_holds_some_of_many_names_in_one_line():
    told = did_you_mean("x", [f"name{i:03}" for i in range(60)])
    assert told.startswith("; there are name000, ") and told.endswith("name049 and 10 more")
    assert did_you_mean("x", ["a\nb\x1b"]) == r"; there are a\nb\x1b"
