"""Configs that earlier versions of this project could read, in tests/fixtures, are read and mean the same."""

import csv
import importlib
import inspect

import pytest

from helpers import PROJECT
from parse_config import PARTS, ConfigParser
from utils import UserError
from utils.config.check import check_types
from utils.config.types import argument_errors, find_in_source, resolve, signature_of
from utils.files import read_json

FIXTURES = PROJECT / "tests" / "fixtures"
CONFIGS = read_json(FIXTURES / "configs.json")
with open(FIXTURES / "type_names.csv") as file:
    TYPES = [tuple(row.values()) for row in csv.DictReader(file)]
LOADERS = ("data_loader", "valid_data_loader", "test_data_loader")


@pytest.mark.parametrize(("section", "name", "args"), TYPES, ids=[f"{row[0]}: {row[1]}" for row in TYPES])
def test_a_type_of_an_earlier_version_is_found_in_the_source_and_in_the_module(section, name, args):
    for place in LOADERS if section == "data_loader" else [section]:
        part = PARTS[place]
        definition = find_in_source(name, part)
        given = dict.fromkeys(args.split())  # the value does not fit each of them; the name does
        wrong = argument_errors(definition.parameters or (), given, 0) if definition.parameters is not None else []
        assert not [error for error in wrong if "no such argument" in error or "it takes none" in error]
        try:
            found = resolve(name, importlib.import_module(part.module), part)
        except UserError as error:
            assert "needs the package" in str(error) and place == "trackers"
            continue
        assert inspect.isclass(found) or inspect.isfunction(found)
        assert found.__name__ == name.rpartition(".")[2]
        assert given.keys() <= {parameter.name for parameter in signature_of(found)}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_of_an_earlier_version_has_no_mistakes(name):
    parsed = ConfigParser(CONFIGS[name], parts=PARTS)
    check_types(parsed.config, PARTS)
    assert parsed.own_keys == [] and {"arch", "data_loader", "optimizer", "trainer"} <= parsed.config.keys()
