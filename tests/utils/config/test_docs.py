"""config.schema.json, as an editor applies it."""

import json
import re

import pytest

from helpers import PROJECT
from utils.config.check import key_errors
from utils.config.docs import schema_text, spelled_right
from utils.config.files import read_config
from utils.config.schema import SECTIONS, TrainerSettings

SCHEMA = json.loads(schema_text())
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}


def fits(value, rule, name=None):
    """Whether a value is valid by the part of JSON Schema that config.schema.json uses."""
    if "$ref" in rule and not fits(value, SCHEMA["$defs"][rule["$ref"].rpartition("/")[2]]):
        return False
    if "anyOf" in rule and not any(fits(value, other) for other in rule["anyOf"]):
        return False
    if "if" in rule:
        applies = fits(value, rule["if"])
        if not fits(value, rule.get("then" if applies else "else", {})):
            return False
    if "not" in rule and fits(value, rule["not"]):
        return False
    kind = rule.get("type")
    if kind == "null" and value is not None:
        return False
    if kind in TYPES and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return False
    if ("enum" in rule and value not in rule["enum"]) or ("const" in rule and value != rule["const"]):
        return False
    if isinstance(value, str) and not re.search(rule.get("pattern", ""), value):
        return False
    if isinstance(value, list):
        return all(fits(item, rule.get("items", {})) for item in value)
    if not isinstance(value, dict):
        return True
    properties, others = rule.get("properties", {}), rule.get("additionalProperties", True)
    return (
        all(key in value for key in rule.get("required", ()))
        and all(fits(key, rule.get("propertyNames", {})) for key in value)
        and all(
            fits(part, properties.get(key, others if isinstance(others, dict) else {})) for key, part in value.items()
        )
        and (others is not False or value.keys() <= properties.keys())
    )


@pytest.mark.parametrize("path", sorted([*PROJECT.glob("examples/*/config.*"), PROJECT / "config.json"]))
def test_the_configs_of_the_project_fit(path):
    config = read_config(path) if path.suffix != ".json" else json.loads(path.read_text())
    assert fits(config, SCHEMA)


PARTIAL = {
    "base": "config.json",
    "trainer": {"save_period": 2},
    "optimizer": {"args": {"lr": 0.1}},
    "arch": {"args": {"num_classes": 3}},
    "data_loader": {"args": {}},
    "lr_scheduler": {"warmup": 3},
}


def test_a_partial_config_with_a_base_fits_and_is_checked():
    assert fits(PARTIAL, SCHEMA)
    for change in (
        {"optimiser": {}},
        {"bas": "config.json"},
        {"trainer": {"epocs": 2}},
        {"trainer": {"save_perido": 2}},
        {"trainer": {"save_period": "2"}},
        {"arch": {"arg": {}}},
        {"data_loader": {"types": "X"}},
    ):
        assert not fits(PARTIAL | change, SCHEMA), change


def test_what_a_config_without_a_base_leaves_out_is_flagged():
    assert not fits({"trainer": {"save_period": 2}}, SCHEMA)
    assert not fits({"arch": {"args": {}}}, SCHEMA)
    assert fits({"arch": {"type": "M"}, "trainer": {"epochs": 2}}, SCHEMA)


@pytest.mark.parametrize("own", ["optimizer2", "arch1", "lr_scheduler_G", "train_loader", "percent", "visdom", "lr"])
def test_keys_of_a_projects_own_fit(own):
    assert fits({own: {}, "base": "x.json", "trainer": {own: 3}}, SCHEMA)


@pytest.mark.parametrize("known", [SECTIONS, tuple(TrainerSettings.model_fields)])
def test_what_the_schema_flags_the_check_refuses_too(known):
    right = re.compile(spelled_right(known)).search
    for name in known:
        assert right(name)
        typos = {name[:i] + name[i + 1 :] for i in range(len(name))} | {name[:-1] + "q" + name[-1:], name + "x"}
        for typo in typos - {*known}:
            if typo.endswith("_data_loader"):  # the check takes it for a loader of the project's own
                continue
            config = {typo: 1} if known is SECTIONS else {"trainer": {"epochs": 1, typo: 1}}
            if not right(typo):
                assert any(typo in line and "no such key" in line for line in key_errors(config, whole=True)[0]), typo
            else:
                assert len(name) < 4
