"""A safe YAML loader that reads plain values as JSON does: 1e-3 is a number, and on, off, yes and no are text."""

import re
from typing import ClassVar

import yaml


class ConfigLoader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema, refusing a key that stands twice."""

    yaml_implicit_resolvers: ClassVar[dict] = {}  # none of SafeLoader's

    def construct_yaml_int(self, node):
        return int(self.construct_scalar(node))  # 010 is ten

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    ConfigLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
ConfigLoader.add_constructor("tag:yaml.org,2002:int", ConfigLoader.construct_yaml_int)
