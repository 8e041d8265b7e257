"""Find all errors of a config before anything is built: first from its text and source files, then by importing.

In this order: keys and the form of values, names and arguments, flags, and the rules that need source files or the
disk. The rules between keys alone are in the schema.
"""

import contextlib
import gc
import itertools
import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any

from pydantic import ValidationError

from utils.config.components import (
    Part,
    args_of,
    dict_at,
    entries,
    is_spec,
    nested_specs,
    objects_in,
    specs_in,
)
from utils.config.files import deep_merge, set_by_path
from utils.config.forms import form_errors
from utils.config.measured import definition_of, measured_by_test_alone, monitor_errors, validation_errors
from utils.config.optimizer_args import refused_by_optimizer
from utils.config.schema import KNOWN_KEYS, SECTION_MODELS, Config, Flag, TrainerSettings
from utils.config.types import argument_errors, find_by_import, find_in_source, renamed
from utils.duration import is_duration
from utils.errors import UserError, refuse, shortened, shown
from utils.nearest import nearest, own_keys_line, resembles
from utils.old_forms.config import in_todays_terms

_MAX_ERRORS = 20  # in one message


def check_config(
    config: dict[str, Any], parts: dict[str, Part], also_logged: Iterable[str] | None = (), begins: bool = True
) -> list[str]:
    """Return the keys that the framework does not know: the project's own.

    parts: {section: Part} of what is built by name; {} if the project's own script decides that. also_logged: names
    that the trainer logs besides the loss and the metrics; None if nothing will be monitored. begins: whether the
    weights are still to be initialized, so that their file must exist. Nothing is imported, so the answer comes
    within the first second. Raises UserError with one line for each error.
    """
    misplaced = dict(_misplaced_arguments(config, parts))
    errors, own_keys = key_errors(config, whole=bool(parts), misplaced=misplaced)
    moved = {".args.".join(key.rsplit(".", 1)) for key in misplaced}
    of_components = (line for line in _component_errors(config, parts) if _place_of(line) not in moved)
    found = [errors, of_components, _flag_errors(config, parts)]
    if parts:
        found += [monitor_errors(config, parts, also_logged), validation_errors(config, parts)]
        found += [_kernel_errors(config, parts), _file_errors(config) if begins else ()]
    _raise_first(itertools.chain(*found))
    return own_keys


def check_types(config: dict[str, Any], parts: dict[str, Part]) -> None:
    """Import every type and bind its args; torch's optimizers look at theirs. Raises UserError with all errors."""
    _raise_first(
        error
        for component in _components(config, parts)
        for error in _errors_of(*component, find_by_import) or refused_by_optimizer(*component)
    )


@contextlib.contextmanager
def imports_kept() -> Iterator[None]:
    """A context without garbage collections, which take a tenth of the start while torch is imported."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # later collections need not look at them either
        gc.enable()


def notes(config: dict[str, Any], parts: dict[str, Part], own_keys: Iterable[str]) -> Iterator[str]:
    """Yield lines on what may not be meant: earlier names of types, metrics that are not measured, own keys.

    All types must exist.
    """
    for path, spec, part in _components(config, parts):
        if now := renamed(spec["type"], part):
            yield f"{path}.type: {spec['type']!r} is {now!r} now"
    yield from measured_by_test_alone(config, parts)
    yield from own_keys_line(own_keys)


def _raise_first(errors):
    """Raise UserError with the first errors, each once, if there are any; with one error for a value that is refused.

    They are found one by one, since it takes time to look for what a name may have meant.
    """
    lines, refused = {}, set()
    for error in errors:
        place = _place_of(error).removesuffix(".type")
        if refused & {place, place.partition(".args.")[0]}:
            continue
        if len(lines) == _MAX_ERRORS:
            raise UserError("\n".join([*lines, "and more errors; fix these first"]))
        lines[error] = None
        if ": got " in error:
            refused.add(place)
    refuse(lines)


def _place_of(error):
    return error.partition(":")[0]


# Keys, and the form of their values


def key_errors(
    config: dict[str, Any], whole: bool, misplaced: dict[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """Return (a line for each misspelt key, value of a wrong form and broken rule; the keys that are unknown here).

    whole: all sections must exist in the form that our own scripts read; otherwise only the top keys and the
    "trainer" section are checked, since a project with scripts of its own may shape the others as it likes.
    misplaced: {key: its error} of keys that are known to belong elsewhere.
    """
    misplaced = (misplaced or {}) | dict(_outside_sections(config))
    misspelt, own = _unknown_keys(config, whole)
    misspelt = {key: meant for key, meant in misspelt.items() if key not in misplaced}
    own = [key for key in own if key not in misplaced]
    errors = [f"{key}: {error}" for key, error in misplaced.items() if error]
    errors += [f"{key}: no such key; did you mean {meant!r}?" for key, meant in misspelt.items()]
    meant = {".".join([*key.split(".")[:-1], name]) for key, name in misspelt.items()}
    todays = config if whole else in_todays_terms(config)[0]
    checked = todays if whole else {key: todays[key] for key in ("name", "n_gpu", "trainer", "cli") if key in todays}
    for kind, line in form_errors(Config, checked):
        if _place_of(line) not in (*meant, *misplaced) and (whole or kind != "missing"):
            errors.append(line)
    if config.get("strict") is True:
        errors += [f'{key}: not a key of this framework, and "strict" is on' for key in own]
    return errors, own


def _unknown_keys(config, whole):
    """({misspelt key: the right name}, [keys that resemble none]), all with their dotted paths."""
    places = [("", Config, config), ("trainer.", TrainerSettings, config.get("trainer"))]
    for name, model in SECTION_MODELS.items() if whole else ():
        places += [(f"{path}.", model, given) for path, given in objects_in(config, name).items()]
    misspelt, own = {}, []
    for prefix, model, section in places:
        known = tuple(model.model_fields)
        for key in section if isinstance(section, dict) else ():
            if key in known or key == "$schema":
                continue
            free = [name for name in known if name not in section]
            meant = resembles(key, free) if whole else None  # a project with scripts of its own is only warned
            if whole and not meant:
                bare = key.rstrip("0123456789")  # "arch1" where there is no "arch"
                meant = bare if bare in free else resembles(key, known)
            if meant:
                misspelt[prefix + key] = nearest(key, known) or meant
            else:
                own.append(prefix + key)
    return misspelt, own


def _outside_sections(config):
    """(key, error) of an empty section whose keys stand beside it, as in YAML that is not indented; then (each, "")."""
    for section, model in _SECTIONS_WITH_KEYS.items():
        if config.get(section, section) is not None:
            continue
        known = model.model_fields
        beside = [key for key in config if key in known and key not in Config.model_fields]
        if beside:
            yield section, f"is empty, and {', '.join(beside)} stand beside it; indent them, so that they are in it"
            yield from ((key, "") for key in beside)


_SECTIONS_WITH_KEYS = {**SECTION_MODELS, "trainer": TrainerSettings}


# Names and arguments


def _misplaced_arguments(config, parts):
    """(key, error) of an argument of a constructor that stands beside "args" instead of in it."""
    for name in (name for name in SECTION_MODELS if name in parts):
        for path, spec in specs_in(config, name, parts[name].default).items():
            strange = [key for key in spec if key not in SECTION_MODELS[name].model_fields]
            definition = definition_of(spec, parts[name]) if strange else None
            taken = {parameter.name for parameter in (definition and definition.parameters) or ()}
            for key in strange:
                if key in taken:
                    yield f"{path}.{key}", f"belongs in args: {path}.args.{key}"


def _components(config, parts):
    """(path, spec, Part) of every component of the config that has the right form."""
    for name, part in parts.items():
        for path, spec in specs_in(config, name, part.default).items():
            yield from _with_nested(path, spec, part)
            loader = spec.get("args", {}).get("data_loader")  # of the callback ValidateOn
            if is_spec(loader) and "valid_data_loader" in parts:
                yield f"{path}.args.data_loader", {"args": {}, **loader}, parts["valid_data_loader"]


def _with_nested(path, spec, part):
    """A component and those within it: what is nested in its arguments, or what its groups of parameters set."""
    for i, group in enumerate(entries(spec.get("groups"))):
        settings = {"type": spec["type"], "args": group.get("args", {})} if isinstance(group, dict) else {}
        if is_spec(settings):
            yield f"{path}.groups.{i}", settings, part
    args = spec.get("args", {})
    if part.nested:
        for keys, inner in nested_specs(args):
            yield from _with_nested(".".join([path, "args", *map(str, keys)]), inner, part)
        args = {key: 1 if is_duration(value) else value for key, value in args.items()}
    yield path, {**spec, "args": args}, part


def _component_errors(config, parts):
    """Names that do not exist or are of a wrong kind, and arguments that do not fit."""
    for path, spec, part in _components(config, parts):
        yield from _errors_of(path, spec, part)
        yield from (f"{path}.args.{error}" for error in part.rules(spec["args"]))


def _errors_of(path, spec, part, find=find_in_source):
    """The error of a component's name, or those of its arguments. find: looks the name up."""
    try:
        definition = find(spec["type"], part)
    except UserError as error:
        return [f"{path}.type: {error}"]
    if definition.parameters is None:
        return []
    is_used = part.called_with is not None and definition.kind == "function"
    given = part.called_with if is_used else part.given
    errors = argument_errors(definition.parameters, spec["args"], given, by_name=part.given_by_name)
    if path == "data_loader":
        no_folds = (
            f"fold: {spec['type']} has no folds; a BaseDataLoader has, if it takes an argument 'fold' and passes it on"
        )
        errors = [no_folds if error.startswith("fold: no such") else error for error in errors]
    return [f"{path}.args.{error}" for error in errors]


_EXAMPLES = {"int": 1, "float": 0.5, "str": "text", "bool": True}


def _flag_errors(config, parts):
    """Flags of "cli" whose target does not exist, or does not take the flag's type; found by setting an example."""
    for i, entry in enumerate(entries(config.get("cli"))):
        try:
            flag = Flag.model_validate(entry)
        except ValidationError:  # key_errors reports it
            continue
        section = flag.target.partition(".")[0]
        trial = config | deep_merge({}, {section: config[section]} if section in config else {})
        try:
            set_by_path(trial, flag.target, _EXAMPLES[flag.type], KNOWN_KEYS)
        except UserError as error:
            yield f"cli.{i}.target: {error}"
            continue
        for component in _components(trial, {section: parts[section]} if section in parts else {}):
            for error in _errors_of(*component):
                _, of_type, wanted = error.partition("; it should be ")
                if _place_of(error) == flag.target and of_type:
                    yield f"cli.{i}.type: got {flag.type!r}; {flag.target} takes {wanted}"
                elif _place_of(error) == flag.target:
                    yield f"cli.{i}.target: {error}"


# Rules that need source files or the disk


def _kernel_errors(config, parts):
    """A fused kernel of an optimizer that has none."""
    args = args_of(config, "optimizer")
    definition = definition_of(config.get("optimizer"), parts.get("optimizer"))
    wanted = dict_at(config, "trainer").get("fused") and not args.get("foreach") and "fused" not in args
    if wanted and definition and definition.parameters and definition.default("fused") is None:
        yield f"trainer.fused: {shown(config['optimizer']['type'])} has no fused kernel; leave it out"


def _file_errors(config):
    """A file of weights that does not exist, or needs a package that is not installed."""
    path = dict_at(config, "init_weights").get("path")
    if isinstance(path, str) and not os.path.isfile(path):
        yield f"init_weights.path: there is no file {shortened(path)}"
    elif str(path).endswith(".safetensors") and find_spec("safetensors") is None:
        yield "init_weights.path: needs the package safetensors; install it: pip install safetensors"
