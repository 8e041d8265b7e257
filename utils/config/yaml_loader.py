"""A safe YAML loader that reads plain values as JSON does: 1e-3 is a number, and on, off, yes and no are text."""

import re
from typing import ClassVar

import yaml

from utils.config.plain import MAX_DEPTH, MAX_KEYS, MAX_VALUES, first_repeated
from utils.errors import brief

_MERGE = "tag:yaml.org,2002:merge"


class ConfigLoader(yaml.SafeLoader):
    """Builds what JSON has, with the scalars of YAML 1.2's core schema, and refuses a key that stands twice.

    It stops at the first node beyond the limits of a config, so a small file cannot ask for much work. Raises
    yaml.YAMLError and, from the constructors of numbers, ValueError.
    """

    yaml_implicit_resolvers: ClassVar[dict] = {}  # none of SafeLoader's
    yaml_constructors: ClassVar[dict] = {  # no dates, bytes or sets
        tag: build
        for tag, build in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "bool", "str", "seq", "map")
    }

    def __init__(self, text):
        super().__init__(text)
        self._depth = self._num_nodes = self._num_merged = 0

    def compose_node(self, parent, index):
        """The next node, its parts included."""
        self._depth += 1
        self._num_nodes += 1
        if self._depth > MAX_DEPTH + 1:  # the values in the innermost container too
            raise yaml.YAMLError("nested too deeply")
        if self._num_nodes > MAX_VALUES + MAX_KEYS:  # a key is a node too
            raise yaml.YAMLError(f"holds more than {MAX_VALUES:,} values; a config is a small file")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def fetch_flow_collection_start(self, token):
        """Read "[" or "{", of which many are read ahead of the nodes."""
        super().fetch_flow_collection_start(token)
        if self.flow_level > MAX_DEPTH:
            raise yaml.YAMLError("nested too deeply")

    def construct_yaml_int(self, node):
        return int(self.construct_scalar(node))  # 010 is ten

    def construct_yaml_float(self, node):
        return float(self.construct_scalar(node))  # 1:30 is text

    def construct_mapping(self, node, deep=False):
        key = first_repeated(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if key is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {brief(key)} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node):
        """Put the pairs of the mappings that "<<" names before the node's own: each key once, an own one or the first.

        SafeLoader keeps all pairs of a key, which double at every level of a chain.
        """
        named = [value for key, value in node.value if key.tag == _MERGE]
        if not named:
            return
        node.value = own = [pair for pair in node.value if pair[0].tag != _MERGE]
        own_keys, merged = {key.value for key, _ in own if isinstance(key, yaml.ScalarNode)}, {}
        for value in named:
            for mapping in dict.fromkeys(value.value if isinstance(value, yaml.SequenceNode) else [value]):
                if not isinstance(mapping, yaml.MappingNode):
                    raise yaml.constructor.ConstructorError(None, None, '"<<" merges mappings only', value.start_mark)
                self.flatten_mapping(mapping)
                self._count_merged(len(mapping.value))
                for key, item in mapping.value:
                    name = key.value if isinstance(key, yaml.ScalarNode) else key
                    if name not in own_keys:
                        merged.setdefault(name, (key, item))
        node.value = [*merged.values(), *own]

    def _count_merged(self, number):
        self._num_merged += number
        if self._num_merged > MAX_VALUES:
            raise yaml.YAMLError(f'"<<" merges more than {MAX_VALUES:,} keys; a config is a small file')


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    ConfigLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
ConfigLoader.add_constructor("tag:yaml.org,2002:int", ConfigLoader.construct_yaml_int)
ConfigLoader.add_constructor("tag:yaml.org,2002:float", ConfigLoader.construct_yaml_float)
