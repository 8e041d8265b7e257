"""Every key, type and argument of every shipped config, altered: each mistake is found, named and put right."""

import copy
import random
import string

import pytest

from helpers import PROJECT
from parse_config import PARTS, ConfigParser
from utils import UserError
from utils.config.check import check_types
from utils.config.files import names_several, read_config
from utils.duration import is_duration

CONFIGS = [PROJECT / "config.json", *sorted(PROJECT.glob("examples/*/config.*"))]
CASES = 2000
FREE_TEXT = ("description", "name", "save_dir", "help")


def complaint(config):
    """What is said against a config before anything is built; "" if nothing is."""
    try:
        parser = ConfigParser(config, parts=PARTS)
        check_types(parser.config, PARTS)
    except UserError as error:
        return str(error)
    return ""


def places(value, path=()):
    """(path, value) of everything in a config."""
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def altered(text, chance):
    """The text with one letter taken out, put in, changed, or swapped with the next."""
    i = chance.randrange(len(text))
    letter = chance.choice([c for c in string.ascii_letters if c.lower() != text[i].lower()])
    swapped = text[:i] + text[i + 1 : i + 2] + text[i] + text[i + 2 :]
    changed = chance.choice(
        [text[:i] + text[i + 1 :], text[:i] + letter + text[i:], text[:i] + letter + text[i + 1 :], swapped]
    )
    return changed if changed not in ("", text) else text[:i] + letter + text[i:]


def renamed(mapping, old, new):
    return {new if key == old else key: value for key, value in mapping.items()}


def with_change(config, path, change):
    """A copy of the config in which the value at the path is change(value)."""
    if not path:
        return change(copy.deepcopy(config))
    new = copy.deepcopy(config)
    place = new
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = change(place[path[-1]])
    return new


def dotted(path):
    return ".".join(map(str, path))


def misspelt_keys(config, chance):
    """(config, where it is wrong, the right word) with one key misspelt."""
    paths = [path for path, _ in places(config) if path and isinstance(path[-1], str) and path[-1] != TOO_SHORT_TO_TELL]
    own_names = [(name, key) for name, section in config.items() if names_several(section) for key in section]
    path = chance.choice([path for path in paths if path not in own_names])
    wrong = altered(path[-1], chance)
    return with_change(config, path[:-1], lambda m: renamed(m, path[-1], wrong)), (*path[:-1], wrong), path[-1]


def misspelt_types(config, chance):
    """The same with one name of a class or function misspelt."""
    names = [
        (p, v)
        for p, v in places(config)
        if p and isinstance(v, str) and (p[-1] == "type" or (p[0] in ("loss", "metrics") and p[-1] != "name"))
        if v not in NEAR_TO_ANOTHER
    ]
    path, name = chance.choice(names)
    return with_change(config, path, lambda _: altered(name, chance)), path, name.rpartition(".")[2]


def fits(wrong, value):
    """Whether the wrong value is no mistake: a whole number stands for a float too, and for a duration."""
    return type(wrong) is type(value) or (type(wrong) is int and (isinstance(value, float) or is_duration(value)))


ONE_FOR_EACH_GROUP = ("max_lr",)  # a number, or a list of them
NOT_SAID_BY_TORCH = {"milestones", "betas"}  # of what type they are
NEAR_TO_ANOTHER = ("AdamW", "examples.gan.model.Gan")  # Adam is a class too; and three letters are too few to tell
TOO_SHORT_TO_TELL = "cli"  # "clf" may be a section of a project's own


def wrong_values(config, chance):
    """The same with one value of a type that it cannot be."""
    path, value = chance.choice(
        [(p, v) for p, v in places(config) if p and p[-1] not in FREE_TEXT and not NOT_SAID_BY_TORCH & set(p)]
    )
    wrong = chance.choice(
        [
            v
            for v in ("12x", 3, True, [1], {"a": 1})
            if not fits(v, value) and not (path[-1] in ONE_FOR_EACH_GROUP and v == [1])
        ]
    )
    return with_change(config, path, lambda _: wrong), path, None


@pytest.mark.parametrize("alter", [misspelt_keys, misspelt_types, wrong_values])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_no_altered_config_gets_through(path, alter):
    config, chance = read_config(path), random.Random(1)
    through = []
    for _ in range(CASES // (3 * len(CONFIGS)) + 1):
        wrong, where, right = alter(config, chance)
        said = complaint(wrong)
        named = any(line.startswith(dotted(where[:-1])) and str(where[-1]) in line for line in said.splitlines())
        said_what = right is None or right in said or "is not a name such as" in said
        if not named or not said_what:
            through.append((dotted(where), right, said[:200]))
    assert not through, "\n".join(sorted({str(t) for t in through}))
