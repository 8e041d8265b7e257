"""The search space: which keys of the config vary, over which values, and under which conditions."""

import copy
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from utils.config.files import deep_merge, parse_assignment, set_by_path, split_path
from utils.config.schema import KNOWN_KEYS
from utils.errors import UserError, brief, shown

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

_NUMBER = r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
_RANGE = re.compile(rf"((?:(?:log|int):)*){_NUMBER}\.\.{_NUMBER}(?::{_NUMBER})?")
_FORMS = "0.1,0.3,0.5 for choices, 0..1, 0..1:0.1, log:1e-4..1e-1, int:8..64, int:8..64:8 or log:int:8..512 for a range"
_MOST_SETTINGS = 10_000  # of a grid


@dataclass(frozen=True)
class Dimension:
    """The values of one key: choices, or the range from low to high.

    when: {path: values}; the key is set only in a config that has one of the values at each path.
    """

    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def ends(self) -> tuple[Any, ...]:
        """Return the values to check: all choices, or both ends of a range."""
        return self.choices or (self.low, self.high)

    def points(self) -> tuple[Any, ...]:
        """Return all values, for a grid; () for a range without a step."""
        if self.choices or self.step is None:
            return self.choices
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        points = (self.low + i * self.step for i in range(min(count, _MOST_SETTINGS + 1)))
        return tuple(float(f"{point:.12g}") if isinstance(point, float) else point for point in points)

    def described(self) -> Any:
        """Return the values as plain JSON, the same for all ways to write them."""
        ends = f"{'log ' * self.log}{type(self.low).__name__} {self.low}..{self.high} by {self.step}"
        values = list(self.choices) or ends
        return {"values": values, "when": {k: list(v) for k, v in self.when.items()}} if self.when else values

    def distribution(self) -> "BaseDistribution":
        """Return the values as Optuna describes them."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution([label(value) for value in self.choices])
        if isinstance(self.low, int):
            return IntDistribution(self.low, int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: "Trial", name: str) -> Any:
        """Return the value that Optuna chooses for the trial, the same one when it is asked again."""
        if self.choices:
            labels = {label(value): value for value in self.choices}
            return labels[trial.suggest_categorical(name, list(labels))]
        if isinstance(self.low, int):
            step = int(self.step or 1)
            return trial.suggest_int(name, self.low, int(self.high), step=step, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)


class Space:
    """The dimensions of a sweep, {key of the config: Dimension}.

    A key that contains others, such as "optimizer", is set before them, and a key with a condition after those without.
    """

    def __init__(self, dimensions: Mapping[str, Dimension]) -> None:
        order = sorted(dimensions, key=lambda key: (bool(dimensions[key].when), len(split_path(key))))
        self.dimensions = {key: dimensions[key] for key in order}

    def settings(self, config: dict[str, Any], choose: Callable[[str, Dimension], Any]) -> dict[str, Any]:
        """Return {key: value} of one trial. choose: called with (key, Dimension) for each key that applies."""
        chosen = {}
        for key, dimension in self.dimensions.items():
            if not dimension.when or _holds(dimension.when, with_settings(config, chosen)):
                chosen[key] = choose(key, dimension)
        return chosen

    def grid(self, config: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the settings of all combinations. Raises UserError for a range without steps, and for too many."""
        for key, dimension in self.dimensions.items():
            if not dimension.points():
                raise UserError(f"space.{key}: a grid needs choices or a range with steps, as 0..1:0.1 or int:1..8:1")
        settings: list[dict[str, Any]] = [{}]
        for key, dimension in self.dimensions.items():
            settings = list(_multiplied(settings, key, dimension, config))
            if len(settings) > _MOST_SETTINGS:
                raise UserError(f"space: the grid has more than {_MOST_SETTINGS:,} settings; use another sampler")
        return settings


def parse_dimension(key: str, given: Any) -> Dimension:
    """Return the Dimension of a text such as "log:1e-4..1e-1", a list of choices, or {"values": ..., "when": ...}.

    Raises UserError.
    """
    when = {}
    if isinstance(given, dict):
        for name in sorted(given.keys() - {"values", "when"}):
            raise UserError(f"space.{key}.{name}: no such key; there are values and when")
        when, given = given.get("when", {}), given.get("values")
        if not isinstance(when, dict):
            raise UserError(f'space.{key}.when: got {brief(when)}; it should be as {{"optimizer.type": "SGD"}}')
    when = {path: tuple(value) if isinstance(value, list) else (value,) for path, value in when.items()}
    if isinstance(given, list):
        return Dimension(choices=_distinct(key, given), when=when)
    if not isinstance(given, str):
        raise UserError(f"space.{key}: got {brief(given)}; give a list of choices, or a text: {_FORMS}")
    if found := _RANGE.fullmatch(given.replace(" ", "")):
        return Dimension(**_range(key, given, *found.groups()), when=when)
    return Dimension(choices=_distinct(key, _listed(given)), when=when)


def with_settings(config: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the config with the values set. Raises UserError for a key that does not exist."""
    changed = deep_merge({}, config)
    for key, value in settings.items():
        set_by_path(changed, key, copy.deepcopy(value), KNOWN_KEYS)
    return changed


def _range(key, text, kinds, low, high, step):
    integer, log = "int" in kinds, "log" in kinds
    convert = _as_int if integer else float
    try:
        low, high, step = convert(low), convert(high), convert(step) if step is not None else (1 if integer else None)
    except ValueError:
        raise UserError(f"space.{key}: got {shown(text)}; a range of integers begins, ends and steps by some") from None
    if not low < high:
        raise UserError(f"space.{key}: got {shown(text)}; the first number should be the smaller one")
    if log and low <= 0:
        raise UserError(f"space.{key}: got {shown(text)}; a logarithmic range begins above 0")
    if step is not None and (step <= 0 or (log and step != 1)):
        raise UserError(f"space.{key}: got {shown(text)}; a step is above 0, and a logarithmic range has none")
    return {"low": low, "high": high, "step": step, "log": log}


def _as_int(text):
    number = float(text)
    if not number.is_integer():
        raise ValueError
    return int(number)


def _listed(text):
    """The values of "0.1,relu" or of "[3, 4], [5, 6]", each as JSON if it is valid JSON, else as text."""
    try:
        return json.loads(f"[{text}]")
    except ValueError:
        return [parse_assignment(f"value={word.strip()}")[1] for word in text.split(",")]


def _distinct(key, values):
    if len(values) < 2:
        raise UserError(f"space.{key}: got {brief(values)}; give at least two values: {_FORMS}")
    if len({label(value) for value in values}) < len(values):
        raise UserError(f"space.{key}: got {brief(values)}; a value is given twice")
    return tuple(values)


def label(value: Any) -> Any:
    """Return the value as Optuna stores it: text for a list or an object."""
    return json.dumps(value, sort_keys=True) if isinstance(value, (list, dict)) else value


def _multiplied(settings, key, dimension, config) -> Iterator[dict[str, Any]]:
    for chosen in settings:
        if dimension.when and not _holds(dimension.when, with_settings(config, chosen)):
            yield chosen
        else:
            yield from ({**chosen, key: value} for value in dimension.points())


def _holds(when: Mapping[str, Iterable[Any]], config):
    return all(_value_at(config, path) in values for path, values in when.items())


def _value_at(config, path):
    """The value at the path; None if there is none."""
    for key in split_path(path):
        try:
            config = config[key]
        except (KeyError, IndexError, TypeError):
            return None
    return config
