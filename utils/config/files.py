"""Read config files (JSON, YAML, TOML) with what they inherit, merge them, and set single values by path."""

import copy
import json
import os
import re
from pathlib import Path

from utils.config.plain import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_FILES,
    first_repeated,
    key_mistake,
    path_mistake,
    require_plain,
)
from utils.errors import UserError, brief, shortened, shown
from utils.nearest import did_you_mean, nearest


def read_config(path):
    """The file's config as a plain dict, merged over the files that its "base" names (relative to the file).

    Raises UserError for a file that is missing, cannot be parsed, is not an object or inherits from itself, and for
    more than a config may hold.
    """
    if "\0" in str(path):
        raise UserError(f"{shown(path)}: not a path")
    config = _read_merged(Path(path), (), [])
    require_plain(config, path)
    return config


def _read_merged(path, children, sizes):
    """The same. children: paths of the files that inherit from it. sizes: bytes of all files read so far, in place."""
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
        if mistake := path_mistake(base):
            raise UserError(f"{shown(path)}: base: got {brief(base)}; {mistake}")
        inherited = deep_merge(inherited, _read_merged(path.parent / base, (*children, here), sizes))
    return deep_merge(inherited, config)


def deep_merge(under, over):
    """A new dict: over's values, and under's where over has none; dicts are merged, anything else is replaced.

    A section that names another "type" than the one below it does not inherit that one's args; nor does one that names
    a type where several objects stood under names, or the other way round.
    """
    merged = _copied(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and _inherits(value, below):
            merged[key] = deep_merge(below, value)
        else:
            merged[key] = _copied(value)
    return merged


def _copied(value):
    """A copy that shares nothing, not even within itself what an alias of YAML stood for twice."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value if isinstance(value, (str, int, float)) else copy.deepcopy(value)


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
        raise UserError(f"--set {shown(text)}: give it as key=value, such as trainer.epochs=5")
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
    elif mistake := key_mistake(last):
        raise UserError(f"{shown('.'.join(walked))}: {mistake}")
    place[last] = value


def places_of(key, config, known, where=()):
    """Dotted paths at which the key stands in a config, then those at which it may be added. known: as above."""
    places = [".".join([*where, key])] if key in config else []
    for name, value in config.items():
        places += places_of(key, value, {}, (*where, name)) if isinstance(value, dict) else []
    return list(dict.fromkeys([*places, *(".".join([*path, key]) for path, keys in known.items() if key in keys)]))


def _step(place, key, walked, known, elsewhere=()):
    """What stands at the key. elsewhere: paths of others that end so. Raises UserError if there is none."""
    where = shown(".".join([*walked, str(key)]))
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
    raise UserError(f"{where}: no such key; {'.'.join(walked)} is {brief(place)}")


def _parse(path, sizes):
    """What the file holds, plain; its number of bytes is added to sizes."""
    parsers = {".json": _parse_json, ".yaml": _parse_yaml, ".yml": _parse_yaml, ".toml": _parse_toml}
    text = _read(path, sizes, endings=tuple(parsers))
    try:
        config = parsers[path.suffix.lower()](text)
    except UserError as error:
        raise UserError(f"{shown(path)}: {error}") from None
    except RecursionError:
        raise UserError(f"{shown(path)}: nested too deeply") from None
    if not isinstance(config, dict):
        raise UserError(f"{shown(path)}: holds {type(config).__name__}; a config is an object of sections")
    require_plain(config, path)
    return config


def _read(path, sizes, endings):
    """The text of the file, if it is a small one whose name ends so."""
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
    if path.suffix.lower() not in endings:
        raise UserError(f"{shown(path)}: a config ends in {', '.join(endings)}")
    return text.replace("\r\n", "\n").replace("\r", "\n")  # as a file of text is read


def _parse_json(text):
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise UserError(f"not JSON: {_json_mistake(error)}") from None
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"not JSON: {shortened(error)}") from None


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


# More keys joined by dots than a config may be deep. tomllib takes time that grows as the square of their number.
_DOT_AND_KEY = r"""(?:\.[ \t]*+(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+)"""
_TOO_MANY_DOTS = re.compile(f"{_DOT_AND_KEY}{{{MAX_DEPTH}}}", re.ASCII)


def _parse_toml(text):
    import tomllib

    if _TOO_MANY_DOTS.search(text):
        raise UserError("nested too deeply")
    try:
        return tomllib.loads(text)
    except ValueError as error:  # a TOMLDecodeError, or one of int
        raise UserError(f"not TOML: {shortened(error)}") from None


def _parse_yaml(text):
    import yaml

    from utils.config.yaml_loader import ConfigLoader

    try:
        return yaml.load(text, Loader=ConfigLoader)  # a SafeLoader: builds plain values only
    except (yaml.YAMLError, ValueError, AttributeError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"not YAML: {shortened(' '.join(str(error).split()))}") from None


def _unique(pairs):
    config = dict(pairs)
    if len(config) < len(pairs):
        raise UserError(f"the key {brief(first_repeated(key for key, _ in pairs))} stands twice in one object")
    return config


def _refuse_constant(name):
    raise UserError(f"{name} is not a JSON value")
