"""Read config files (JSON, YAML, TOML) with what they inherit, merge them, and set single values by path."""

import copy
import json
import math
import re
from pathlib import Path

from utils.errors import UserError
from utils.nearest import did_you_mean, nearest

_MAX_BYTES = 1_000_000  # a config is read by people; a larger file is a mistake
_MAX_DEPTH = 50
_MAX_VALUES = 100_000  # a small YAML file can name one value a billion times over


def read_config(path, _children=()):
    """The file's config as a plain dict, merged over the files that its "base" names (relative to the file).

    Raises UserError for a file that is missing, cannot be parsed, is not an object or inherits from itself.
    """
    path = Path(path)
    if "\0" in str(path):
        raise UserError(f"{str(path)!r}: not a path")
    if path.resolve() in _children:
        raise UserError(f"{path}: inherits from itself through 'base'")
    config = _parse(path)
    config.pop("$schema", None)  # for editors
    if isinstance(config.get("base"), dict):
        return config  # a section of the project's own that has this name
    bases = config.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: base: got {bases!r}; give a path or a list of paths")
    inherited = {}
    for base in bases:
        inherited = deep_merge(inherited, read_config(path.parent / base, (*_children, path.resolve())))
    return deep_merge(inherited, config)


def deep_merge(under, over):
    """A new dict: over's values, and under's where over has none; dicts are merged, anything else is replaced.

    A section that names another "type" than the one below it does not inherit that one's args; nor does one that names
    a type where several objects stood under names, or the other way round.
    """
    merged = copy.deepcopy(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and _inherits(value, below):
            merged[key] = deep_merge(below, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def names_several(section):
    """Whether a section holds objects under names of their own, as {"generator": {"type": ...}, ...}."""
    return (
        isinstance(section, dict)
        and len(section) > 0
        and not section.keys() & {"type", "args"}
        and (
            all(isinstance(value, dict) for value in section.values())
            or any(isinstance(value, dict) and "type" in value for value in section.values())
        )
    )


def _inherits(value, below):
    if "type" in value and "type" in below:
        return value["type"] == below["type"]
    other = below if "type" in value else value
    return not ("type" in value or "type" in below) or not names_several(other)


def parse_assignment(text):
    """(path, value) of "trainer.epochs=5"; the value is read as JSON where it is JSON, else as text."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise UserError(f"--set {text}: give it as key=value, such as trainer.epochs=5")
    try:
        return path.strip(), json.loads(value, parse_constant=_refuse_constant)
    except UserError:
        raise
    except (ValueError, RecursionError):
        return path.strip(), value


def split_path(target):
    """The keys of "optimizer;args;lr", "optimizer.args.lr" or ("optimizer", "args", "lr")."""
    if isinstance(target, str):
        target = target.split(";" if ";" in target else ".")
    return [int(key) if str(key).isdecimal() and str(key).isascii() else key for key in target]


def set_by_path(config, target, value, known):
    """Set the value at the path in place.

    known: {path of a section: keys that may be added to it}; to "args" any may be added, since constructors know
    theirs. Raises UserError, with the nearest name, for a path that is not there and may not be added.
    """
    *parents, last = split_path(target)
    place, walked = config, ()
    for key in parents:
        key = str(key) if isinstance(place, dict) else key
        if key == "args" and names_several(place):
            one = f"{'.'.join(walked)}.{next(iter(place))}.args"
            raise UserError(f"{'.'.join(walked)}.args: there are several; set those of one, as {one}")
        begins = key in known.get(walked, ()) and (*walked, key) in known  # a section that is left out, as "parallel"
        if isinstance(place, dict) and (key == "args" or begins) and place.get(key) is None:
            place[key] = {}
        place = _step(place, key, walked, known)
        walked += (str(key),)
    last = str(last) if isinstance(place, dict) else last
    may_add = isinstance(place, dict) and (last in known.get(walked, ()) or (walked and walked[-1] == "args"))
    if not may_add:
        _step(place, last, walked, known, places_of(last, config, known))
    place[last] = value


def places_of(key, config, known, where=()):
    """Dotted paths at which the key stands in a config, then those at which it may be added. known: as above."""
    places = [".".join([*where, key])] if key in config else []
    for name, value in config.items():
        places += places_of(key, value, {}, (*where, name)) if isinstance(value, dict) else []
    return list(dict.fromkeys([*places, *(".".join([*path, key]) for path, keys in known.items() if key in keys)]))


_ABSENT = object()


def _as_json(value):
    return "(absent)" if value is _ABSENT else json.dumps(value)


def differences(before, after, where=""):
    """Lines 'path: old -> new' for every value that differs between two configs."""
    lines = []
    for key in [*before, *(key for key in after if key not in before)]:
        path = f"{where}.{key}" if where else str(key)
        old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, path)
        elif old != new:
            lines.append(f"{path}: {_as_json(old)} -> {_as_json(new)}")
    return lines


def _step(place, key, walked, known, elsewhere=()):
    """What stands at the key. elsewhere: paths of others that end so. Raises UserError if there is none."""
    where = ".".join([*walked, str(key)])
    if isinstance(place, dict):
        if key in place:
            return place[key]
        names = [*place, *(name for name in known.get(walked, ()) if name not in place)]
        if walked in known and nearest(str(key), names, cutoff=0.6) is None:
            if 1 <= len(elsewhere) <= 3:
                raise UserError(f"{where}: no such key; did you mean {' or '.join(map(repr, elsewhere))}?")
            raise UserError(f"{where}: no such key; one of your own goes into the config file first")
        raise UserError(f"{where}: no such key{did_you_mean(str(key), names)}")
    if isinstance(place, list):
        if isinstance(key, int) and key < len(place):
            return place[key]
        raise UserError(f"{where}: no such place; the list has {len(place)} entries, counted from 0")
    raise UserError(f"{where}: no such key; {'.'.join(walked)} is {place!r}")


def _parse(path):
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: not a file")
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path}: larger than {_MAX_BYTES:,} bytes; a config is a small file")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot read the config: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a config: it is not UTF-8 text; a checkpoint is given with -r") from None
    if not text.strip():
        raise UserError(f"{path}: the config is empty")
    parsers = {".json": _parse_json, ".yaml": _parse_yaml, ".yml": _parse_yaml, ".toml": _parse_toml}
    if path.suffix.lower() not in parsers:
        raise UserError(f"{path}: a config ends in {', '.join(parsers)}")
    try:
        config = parsers[path.suffix.lower()](text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: holds {type(config).__name__}; a config is an object of sections")
    require_plain(config, path)
    return config


def _parse_json(text):
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise UserError(f"not JSON: {_json_mistake(error)}") from None
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"not JSON: {error}") from None


def _json_mistake(error):
    """Where and what a JSONDecodeError is about; a comma is missing behind a value, not before the next one."""
    text, at, what = error.doc, error.pos, error.msg
    end = len(text[:at].rstrip())
    too_many = re.compile(r"\s*(,)\s*([}\]])").match(text, end - text[:end].endswith(","))
    behind_value = re.search(r"[\w\"}\]]\s*$", text[: too_many.start(1)]) if too_many else None
    if behind_value and what != "Invalid control character at":
        at, what = too_many.start(1), f"one comma too many, before {too_many[2]}"
    elif what == "Expecting ',' delimiter" and end < at and re.compile(r'["{\[\w-]').match(text, at):
        at, what = end, "a comma is missing here"
    return f"line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}: {what}"


def _parse_toml(text):
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"not TOML: {error}") from None


def _parse_yaml(text):
    import yaml

    from utils.config.yaml_loader import ConfigLoader

    try:
        return yaml.load(text, Loader=ConfigLoader)  # a SafeLoader: builds plain values only
    except (yaml.YAMLError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"not YAML: {' '.join(str(error).split())}") from None


def _unique(pairs):
    config = dict(pairs)
    if len(config) < len(pairs):
        keys = [key for key, _ in pairs]
        raise UserError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return config


def _refuse_constant(name):
    raise UserError(f"{name} is not a JSON value")


def require_plain(value, path):
    """Raise UserError, naming the file and the place, unless a config's value holds plain finite values only."""
    left = [("", value)]
    for _ in range(_MAX_VALUES):
        if not left:
            return
        where, value = left.pop()
        if where.count(".") > _MAX_DEPTH:
            raise UserError(f"{path}: nested too deeply")
        if isinstance(value, dict):
            wrong = next((key for key in value if not isinstance(key, str)), None)
            if wrong is not None:
                raise UserError(f"{path}: {where}{wrong!r}: a key is text")
            left += [(f"{where}{key}.", item) for key, item in value.items()]
        elif isinstance(value, list):
            left += [(f"{where}{i}.", item) for i, item in enumerate(value)]
        elif not isinstance(value, (str, int, float, bool, type(None))) or value in (math.inf, -math.inf):
            place = f"{path}: {where[:-1]}".removesuffix(": ")
            raise UserError(f"{place}: got {value!r}; a config holds text, numbers, true, false, null")
        elif value != value:
            raise UserError(f"{path}: {where[:-1]}: got nan, which is no number")
    raise UserError(f"{path}: holds more than {_MAX_VALUES:,} values; a config is a small file")
