"""A safe YAML loader that reads plain values as JSON does: 1e-3 is a number, and on, off, yes and no are text."""

import re
from typing import Any, ClassVar

import yaml

from utils.config.plain import MAX_DEPTH, MAX_KEYS, MAX_VALUES
from utils.errors import brief


class ConfigLoader(yaml.SafeLoader):
    """Builds the types of JSON, with the scalars of YAML 1.2's core schema, and refuses a key that is given twice.

    It stops at the first node beyond the limits of a config, so a small file cannot ask for much work. Raises
    yaml.YAMLError and, from the constructors of numbers, ValueError.
    """

    yaml_implicit_resolvers: ClassVar[dict] = {}  # none of SafeLoader's
    yaml_constructors: ClassVar[dict] = {  # no dates, bytes or sets
        tag: build
        for tag, build in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "bool", "str", "seq", "map")
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._num_nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node with its parts."""
        self._count_nodes(1)
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return the next mapping; raise an error if a key is given twice."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
            if key in seen:
                text = f"the key {brief(key)} is given twice"
                raise yaml.constructor.ConstructorError(None, None, text, node.start_mark)
            seen.add(key)
        return node

    def fetch_flow_collection_start(self, token: Any) -> None:
        """Read "[" or "{"; the scanner reads many of them ahead of the nodes."""
        super().fetch_flow_collection_start(token)
        if self.flow_level > MAX_DEPTH:
            raise yaml.YAMLError("nested too deeply")

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Replace "<<" by the pairs of the mappings that it names, each key once.

        SafeLoader keeps all pairs of a key, whose number doubles at every level of a chain.
        """
        merged = [value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]
        if not merged:
            return
        for value in merged:
            if isinstance(value, yaml.SequenceNode):
                value.value = list(dict.fromkeys(value.value))
        super().flatten_mapping(node)
        self._count_nodes(len(node.value))
        pairs = {key.value if isinstance(key, yaml.ScalarNode) else key: (key, value) for key, value in node.value}
        node.value = list(pairs.values())

    def _count_nodes(self, number):
        self._num_nodes += number
        if self._num_nodes > MAX_VALUES + MAX_KEYS:  # a key is a node too
            raise yaml.YAMLError(f"holds more than {MAX_VALUES:,} values; a config is a small file")

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(self.construct_scalar(node))  # 010 is ten

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return float(self.construct_scalar(node))  # 1:30 is text


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
