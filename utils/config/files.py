"""Read config files (JSON, YAML, TOML) with the files that they inherit from, merge configs, and set values by path."""

import copy
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from utils.config.plain import MAX_BYTES, MAX_DEPTH, MAX_FILES, key_error, path_error, require_plain
from utils.errors import UserError, brief, shortened, shown
from utils.nearest import did_you_mean, nearest

KnownKeys = Mapping[tuple[str, ...], Iterable[str]]  # {path of a section: keys that may be added to it}


def read_config(path: str | Path) -> dict[str, Any]:
    """Return a file's config as a plain dict, merged over the files that its "base" names, relative to the file.

    Raises UserError for a file that is missing, cannot be parsed, is not an object or inherits from itself, and for
    one that exceeds the limits of a config.
    """
    if "\0" in str(path):
        raise UserError(f"{shown(path)}: not a path")
    config = _read_merged(Path(path), (), [])
    require_plain(config, path)
    return config


def _read_merged(path, children, sizes):
    """The config of one file. children: paths of the files that inherit from it. sizes: bytes of each file so far."""
    here = os.path.realpath(path)
    if here in children:
        raise UserError(f"{shown(path)}: inherits from itself through 'base'")
    if len(sizes) > MAX_FILES:
        raise UserError(f"{shown(path)}: the config inherits from more than {MAX_FILES} files")
    config = _parse(path, sizes)
    config.pop("$schema", None)  # for editors
    if isinstance(config.get("base"), dict):
        return config  # a section of the project's own that has this name
    bases = config.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{shown(path)}: base: got {brief(bases)}; give a path or a list of paths")
    inherited = {}
    for base in bases:
        if error := path_error(base):
            raise UserError(f"{shown(path)}: base: got {brief(base)}; {error}")
        inherited = deep_merge(inherited, _read_merged(path.parent / base, (*children, here), sizes))
    return deep_merge(inherited, config)


def _parse(path, sizes):
    """The content of one file as plain values; its size is added to sizes."""
    text = _read(path, sizes)
    try:
        config = _PARSERS[path.suffix.lower()](text)
    except RecursionError:
        raise UserError(f"{shown(path)}: nested too deeply") from None
    except ValueError as error:  # among others a UserError
        raise UserError(f"{shown(path)}: {shortened(error)}") from None
    if not isinstance(config, dict):
        raise UserError(f"{shown(path)}: holds {type(config).__name__}; a config is an object of sections")
    require_plain(config, path)
    return config


def _read(path, sizes):
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{shown(path)}: not a file")
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot read the config: {error.strerror}") from None
    sizes.append(len(content))
    if sum(sizes) > MAX_BYTES:
        others = " with the files that inherit from it" if len(sizes) > 1 else ""
        raise UserError(f"{shown(path)}: larger than {MAX_BYTES:,} bytes{others}; a config is a small file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{shown(path)}: not a config: it is not UTF-8 text; a checkpoint is given with -r") from None
    if not text.strip():
        raise UserError(f"{shown(path)}: the config is empty")
    if path.suffix.lower() not in _PARSERS:
        raise UserError(f"{shown(path)}: a config ends in {', '.join(_PARSERS)}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _parse_json(text):
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {_json_error(error)}") from None
    except UserError:
        raise
    except ValueError as error:  # an integer of too many digits
        raise ValueError(f"not JSON: {error}") from None


_NOT_JSON = {
    r"//|/\*|#": "a comment; remove it, or write the config as YAML",
    "'": "JSON writes texts in double quotes",
    r"(?:True|False|None)\b": "JSON writes true, false and null",
}


def _json_error(error):
    """Where and what a JSONDecodeError is about; a missing comma is reported behind the value that needs it."""
    text, at, what = error.doc, error.pos, error.msg
    end = len(text[:at].rstrip())
    too_many = re.compile(r"\s*(,)\s*([}\]])").match(text, end - text[:end].endswith(","))
    behind_value = re.search(r"[\w\"}\]]\s*$", text[: too_many.start(1)]) if too_many else None
    if behind_value and what != "Invalid control character at":
        at, what = too_many.start(1), f"one comma too many, before {too_many[2]}"
    elif foreign := re.compile("|".join(_NOT_JSON)).match(text, at):
        what = next(said for start, said in _NOT_JSON.items() if re.fullmatch(start, foreign[0]))
    elif what == "Expecting ',' delimiter" and end < at and re.compile(r'["{\[\w-]').match(text, at):
        at, what = end, "a comma is missing here"
    return f"line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}: {what}"


def _unique(pairs):
    config = {}
    for key, value in pairs:
        if key in config:
            raise UserError(f"the key {brief(key)} is given twice in one object")
        config[key] = value
    return config


def _refuse_constant(name):
    raise UserError(f"{name} is not a JSON value")


# More keys joined by dots than a config may be deep. tomllib takes time that grows as the square of their number.
_DOT_AND_KEY = r"""(?:\.[ \t]*+(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+)"""
_TOO_MANY_DOTS = re.compile(f"{_DOT_AND_KEY}{{{MAX_DEPTH}}}", re.ASCII)


def _parse_toml(text):
    import tomllib

    if _TOO_MANY_DOTS.search(text):
        raise UserError("nested too deeply")
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise ValueError(f"not TOML: {error}") from None


def _parse_yaml(text):
    import yaml

    from utils.config.yaml_loader import ConfigLoader

    try:
        return yaml.load(text, Loader=ConfigLoader)  # a SafeLoader: builds plain values only
    except (yaml.YAMLError, ValueError, AttributeError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from None


_PARSERS = {".json": _parse_json, ".yaml": _parse_yaml, ".yml": _parse_yaml, ".toml": _parse_toml}


def deep_merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return a new dict with the values of over, and those of under where over has none; dicts are merged.

    A section does not inherit the args of one that names another "type", and a section that names a type inherits
    nothing from several objects under names, nor the reverse.
    """
    merged = _copied(under)
    for key, value in over.items():
        merged[key] = _over(merged.get(key), value)
    return merged


def _over(below, value):
    """The value that takes the place of the one below: itself, or if both are dicts, the two merged."""
    if isinstance(value, dict) and isinstance(below, dict) and _inherits(value, below):
        return deep_merge(below, value)
    return _copied(value)


def _copied(value):
    """A copy that shares nothing, not even within itself as deepcopy does for what an alias of YAML repeats."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return list(map(_copied, value)) if isinstance(value, list) else copy.deepcopy(value)


def names_several(section: object) -> bool:
    """Whether a section holds objects under names of their own, as {"generator": {"type": ...}, ...}."""
    if not isinstance(section, dict) or not section or section.keys() & {"type", "args"}:
        return False
    objects = [value for value in section.values() if isinstance(value, dict)]
    return len(objects) == len(section) or any("type" in value for value in objects)


def _inherits(value, below):
    if "type" in value and "type" in below:
        return value["type"] == below["type"]
    return not ("type" in value and names_several(below)) and not ("type" in below and names_several(value))


def parse_assignment(text: str) -> tuple[str, Any]:
    """Return (path, value) of "trainer.epochs=5"; the value is read as JSON if it is valid JSON, else as text."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise UserError(f"--set {shown(text)}: give it as key=value, such as trainer.epochs=5")
    try:
        return path.strip(), json.loads(value, parse_constant=_refuse_constant)
    except UserError:
        raise
    except (ValueError, RecursionError):
        return path.strip(), value


def split_path(target: str | Iterable[str]) -> list[str | int]:
    """Return the keys of "optimizer;args;lr", "optimizer.args.lr" or ("optimizer", "args", "lr")."""
    if isinstance(target, str):
        target = target.split(";" if ";" in target else ".")
    return [int(key) if str(key).isdecimal() and str(key).isascii() else key for key in target]


def set_by_path(config: dict[str, Any], target: str | Iterable[str], value: Any, known: KnownKeys) -> None:
    """Set the value at the path in place; a dict is merged with the one that is there, unless it is empty.

    Keys can be added where `known` lists them, and below every "args", since a constructor knows its own arguments.
    Raises UserError, with the nearest name, for a path that neither exists nor can be added.
    """
    *parents, last = split_path(target)
    place, walked = config, ()
    for key in parents:
        key = str(key) if isinstance(place, dict) else key
        if key == "args" and names_several(place):
            one = f"{'.'.join(walked)}.{next(iter(place))}.args"
            raise UserError(f"{'.'.join(walked)}.args: there are several; set those of one, as {one}")
        can_begin = key in known.get(walked, ()) and (*walked, key) in known  # a section left out, as "parallel"
        if isinstance(place, dict) and (key == "args" or can_begin) and place.get(key) is None:
            place[key] = {}
        place = _step(place, key, walked, known)
        walked += (str(key),)
    last = str(last) if isinstance(place, dict) else last
    can_add = isinstance(place, dict) and (last in known.get(walked, ()) or walked[-1:] == ("args",))
    if not can_add:
        _step(place, last, walked, known, places_of(last, config, known))
    elif error := key_error(last):
        raise UserError(f"{shown('.'.join(walked))}: {error}")
    below = place.get(last) if isinstance(place, dict) else place[last]
    place[last] = _over(below, value) if value else _copied(value)  # {} has a meaning: nothing of what is there


def places_of(key: str | int, config: dict[str, Any], known: KnownKeys, where: tuple[str, ...] = ()) -> list[str]:
    """Return the dotted paths at which the key exists in a config, then those at which it can be added."""
    places = [".".join([*where, key])] if key in config else []
    for name, value in config.items():
        places += places_of(key, value, {}, (*where, name)) if isinstance(value, dict) else []
    return list(dict.fromkeys([*places, *(".".join([*path, key]) for path, keys in known.items() if key in keys)]))


def _step(place, key, walked, known, elsewhere=()):
    """The value at the key of a place. elsewhere: paths at which the key exists. Raises UserError if there is none."""
    where = shown(".".join([*walked, str(key)]))
    if isinstance(place, list):
        if isinstance(key, int) and key < len(place):
            return place[key]
        raise UserError(f"{where}: no such place; the list has {len(place)} entries, counted from 0")
    if not isinstance(place, dict):
        raise UserError(f"{where}: no such key; {'.'.join(walked)} is {brief(place)}")
    if key in place:
        return place[key]
    names = [*place, *(name for name in known.get(walked, ()) if name not in place)]
    if walked not in known or nearest(str(key), names, cutoff=0.6) is not None:
        raise UserError(f"{where}: no such key{did_you_mean(str(key), names)}")
    if 1 <= len(elsewhere) <= 3:
        raise UserError(f"{where}: no such key; did you mean {' or '.join(map(repr, elsewhere))}?")
    raise UserError(f"{where}: no such key; one of your own goes into the config file first")
