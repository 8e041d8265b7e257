"""Values of a config that refer to others, as "${data_loader.args.batch_size}" does."""

import json
import re
from typing import Any

from utils.config.files import split_path
from utils.errors import UserError, brief, shown
from utils.nearest import did_you_mean

_REFERENCE = re.compile(r"\$\{([^${}]*)\}")
_MOST_CHARACTERS = 10_000  # of a text with references; a few that refer to each other could ask for any number


def with_references(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config with the values that its references lead to.

    A text that is a reference alone becomes the value, a single one or a list of such; within a longer text it is
    written as text. Raises UserError, with all errors at once.
    """
    references = _References(config)
    resolved = references.resolved(config)
    if references.errors:
        raise UserError("\n".join(references.errors))
    return resolved


class _References:
    """The references of a config. errors: a line for each that leads to no value."""

    def __init__(self, config):
        self._config, self.errors = config, []
        self._values = {}  # {path: value} of those looked up

    def resolved(self, value, where=()):
        """A copy of the value without references. where: its path."""
        if isinstance(value, dict):
            return {key: self.resolved(item, (*where, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolved(item, (*where, i)) for i, item in enumerate(value)]
        try:
            found = self._single(value, ())
            return list(found) if isinstance(found, list) else found
        except UserError as error:
            self.errors.append(f"{shown('.'.join(map(str, where)))}: got {brief(value)}; {error}")
            return value

    def _single(self, value, through):
        """What a single value comes to. through: paths of the references on the way to it."""
        if not isinstance(value, str) or "${" not in value:
            return value
        if whole := _REFERENCE.fullmatch(value):
            return self._at(whole[1], through)
        text = _REFERENCE.sub(lambda match: self._text_at(match[1], through), value)
        if len(text) > _MOST_CHARACTERS:
            raise UserError(f"it comes to more than {_MOST_CHARACTERS:,} characters")
        return text

    def _at(self, path, through):
        """The value that a reference leads to."""
        if path in through:
            raise UserError(f"{shown(path)} refers to itself")
        if path not in self._values:
            place, through = self._find(path), (*through, path)
            is_list = isinstance(place, list)
            value = [self._single(item, through) for item in place] if is_list else self._single(place, through)
            if isinstance(value, dict) or (is_list and any(isinstance(item, (dict, list)) for item in value)):
                raise UserError(f"{shown(path)} is a section; refer to one of its values")
            self._values[path] = value
        return self._values[path]

    def _find(self, path):
        place = self._config
        for key in split_path(path):
            inside = place.keys() if isinstance(place, dict) else range(len(place)) if isinstance(place, list) else ()
            if key not in inside:
                raise UserError(f"the config has no {shown(path)}{did_you_mean(str(key), list(map(str, inside)))}")
            place = place[key]
        return place

    def _text_at(self, path, through):
        value = self._at(path, through)
        if isinstance(value, list):
            raise UserError(f"{shown(path)} is a list, which cannot stand within a text")
        return value if isinstance(value, str) else json.dumps(value)
