"""Find all errors of a config, before anything is built: first from its text and source files, then by importing.

For every section: its keys and the form of their values, names, arguments, and the rules that source files decide.
"""

import importlib
import inspect
import itertools
import os
from importlib.util import find_spec

from pydantic import ValidationError

from utils.config.components import args_of, dict_at, entries, is_spec, metric_names, nested_specs, objects_in, specs_in
from utils.config.files import deep_merge, set_by_path
from utils.config.forms import form_errors
from utils.config.schema import KNOWN_KEYS, OTHER_LOADERS, SECTION_MODELS, Config, Flag, TrainerSettings
from utils.config.types import argument_errors, find_in_source, renamed, resolve, signature_of
from utils.duration import is_duration
from utils.errors import UserError, brief, refuse, shortened, shown
from utils.nearest import did_you_mean, nearest, resembles
from utils.rules import nothing_to_validate, validated_twice

_MOST_TOLD = 20  # errors


def check_config(config, parts, also_logged=(), begins=True):
    """The config's keys that the framework does not know, its project's own.

    parts: {section: Part} of what is built by name; {} if the project's own script decides that. also_logged: names
    that the trainer logs besides the loss and the metrics, None if nothing will be monitored. begins: whether the
    weights are still to be initialised, so that their file must be there. Nothing is imported, so the answer comes
    within the first second. Raises UserError with one line for each error.
    """
    errors, own_keys = key_errors(config, whole=bool(parts))
    told = {_place_of(error) for error in errors if _is_of_value(error)}
    errors = itertools.chain(errors, _component_errors(config, parts, told), _flag_errors(config, parts))
    if parts:
        errors = itertools.chain(
            errors,
            _monitor_errors(config, parts, also_logged, told),
            _validation_errors(config, parts),
            _kernel_errors(config, parts),
            _file_errors(config) if begins else (),
        )
    _raise_first(errors)
    return own_keys


def check_types(config, parts):
    """Look up every type for good and bind its args, building nothing. Raises UserError with all errors."""
    _raise_first(_errors_in_types(config, parts))


def renamed_types(config, parts):
    """A line for each type that the config names as an earlier version did; all of them must be known."""
    for path, spec, part in _components(config, parts):
        if now := renamed(spec["type"], part):
            yield f"{path}.type: {spec['type']!r} is {now!r} now"


def _errors_in_types(config, parts):
    for path, spec, part in _components(config, parts):
        try:
            found = resolve(spec["type"], importlib.import_module(part.module), part)
        except UserError as error:
            yield f"{path}.type: {error}"
            continue
        yield from _binding_errors(path, spec, part, signature_of(found), is_class=inspect.isclass(found))


def _raise_first(errors):
    """Raise UserError with the errors, each once, if there are any; of a great many, with the first.

    They are found one by one, since it takes time to look for what a name may have meant.
    """
    told = {}
    for error in errors:
        if len(told) == _MOST_TOLD:
            raise UserError("\n".join([*told, "and more errors; fix these first"]))
        told[error] = None
    refuse(told)


def _place_of(error):
    return error.partition(":")[0]


def _is_of_value(error):
    """Whether the error refuses a single value, for which one error is enough, and not several values together."""
    return ": got " in error


# Keys, and the form of their values


def key_errors(config, whole):
    """(errors, own keys): a line for each misspelt key, value of a wrong form and broken rule; the keys unknown here.

    whole: all sections must be there in the form that our own scripts read; otherwise only the top keys and the
    "trainer" section are checked, since a project with scripts of its own may shape the others as it likes.
    """
    misspelt, own = _unknown_keys(config, whole)
    errors = [f"{key}: no such key; did you mean {meant!r}?" for key, meant in misspelt.items()]
    meant = {".".join([*key.split(".")[:-1], name]) for key, name in misspelt.items()}
    checked = config if whole else {key: config[key] for key in ("name", "n_gpu", "trainer", "cli") if key in config}
    for kind, line in form_errors(Config, checked):
        if _place_of(line) not in meant and (whole or kind != "missing"):
            errors.append(line)
    if config.get("strict") is True:
        errors += [f'{key}: not a key of this framework, and "strict" is on' for key in own]
    return errors, own


def _unknown_keys(config, whole):
    """({misspelt key: the right name}, [keys that resemble none]), all with their dotted paths.

    A project with scripts of its own may well have a valid_loader or a test_loader.
    """
    places = [("", Config, config), ("trainer.", TrainerSettings, config.get("trainer"))]
    for name, model in SECTION_MODELS.items() if whole else ():
        places += [(f"{path}.", model, given) for path, given in objects_in(config, name).items()]
    misspelt, own = {}, []
    for prefix, model, section in places:
        known = tuple(model.model_fields)
        for key in section if isinstance(section, dict) else ():
            if key in known or key == "$schema":
                continue
            free = [name for name in known if name not in section and (whole or name not in OTHER_LOADERS)]
            meant = resembles(key, free) or (whole and (_numbered(key, free) or resembles(key, known)))
            if meant:
                misspelt[prefix + key] = (whole and nearest(key, known)) or meant  # given already or not
            else:
                own.append(prefix + key)
    return misspelt, own


def _numbered(key, names):
    """The name that stands in the key with a number behind it, as in "arch1" where there is no "arch"."""
    name = key.rstrip("0123456789")
    return name if name in names else None


# Names and arguments


def _components(config, parts):
    """(path, spec, Part) of everything that the config names and that is well enough formed to look up."""
    for name, part in parts.items():
        for path, spec in specs_in(config, name, part.default).items():
            yield from _with_nested(path, spec, part)


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


def _component_errors(config, parts, told):
    """Names that lead nowhere, or to a wrong kind of thing, and arguments that do not fit.

    told: places of which no more is to be said; those of the errors are added.
    """
    for path, spec, part in _components(config, parts):
        if not {path, f"{path}.type"} & told:  # by the schema, as of "parallel"
            errors = _source_errors(path, spec, part)
            told.update(map(_place_of, errors))
            yield from errors
        errors = [f"{path}.args.{error}" for error in part.rules(spec.get("args", {}))]
        yield from (error for error in errors if not _is_of_value(error) or _place_of(error) not in told)


def _source_errors(path, spec, part):
    """What is wrong with a component as far as source files tell."""
    try:
        definition = find_in_source(spec["type"], part)
    except UserError as error:
        return [f"{path}.type: {error}"]
    if definition.parameters is None:
        return []
    return _binding_errors(path, spec, part, definition.parameters, is_class=definition.kind != "function")


def _binding_errors(path, spec, part, parameters, is_class):
    """What is wrong with a component's arguments for a class or function of these parameters."""
    given = part.given if is_class or part.called_with is None else part.called_with
    errors = argument_errors(parameters, spec.get("args", {}), given, by_name=part.given_by_name)
    foldless = f"fold: {spec['type']} has no folds: let it take an argument 'fold' and pass it on to BaseDataLoader"
    of_loader = path == "data_loader"
    errors = [foldless if of_loader and error.startswith("fold: no such") else error for error in errors]
    return [f"{path}.args.{error}" for error in errors]


def _default(config, parts, name, argument):
    """Source text of the default that an argument of a section's class has; None where it cannot be read."""
    try:
        return find_in_source(config[name]["type"], parts[name]).default(argument)
    except (UserError, KeyError, TypeError, AttributeError):
        return None


_EXAMPLES = {"int": 1, "float": 0.5, "str": "text", "bool": True}


def _flag_errors(config, parts):
    """Flags of "cli" whose target is not there, or does not take what is typed; found by setting an example."""
    for i, entry in enumerate(entries(config.get("cli"))):
        try:
            flag = Flag.model_validate(entry)
        except ValidationError:  # of which key_errors tells
            continue
        section = flag.target.partition(".")[0]
        trial = config | deep_merge({}, {section: config[section]} if section in config else {})
        try:
            set_by_path(trial, flag.target, _EXAMPLES[flag.type], KNOWN_KEYS)
        except UserError as error:
            yield f"cli.{i}.target: {error}"
            continue
        for path, spec, part in _components(trial, parts):
            for error in _source_errors(path, spec, part) if flag.target.startswith(f"{path}.args.") else ():
                _, of_type, wanted = error.partition("; it should be ")
                if _place_of(error) == flag.target and of_type:
                    yield f"cli.{i}.type: got {flag.type!r}; {flag.target} takes {wanted}"
                elif _place_of(error) == flag.target:
                    yield f"cli.{i}.target: {error}"


# Rules for which source files or the disk are asked; those between keys alone are in the schema


def watched(config):
    """{path: name} of the values that the config monitors."""
    monitors = {"trainer.monitor": dict_at(config, "trainer").get("monitor")}
    for i, callback in enumerate(entries(config.get("callbacks"))):
        monitors[f"callbacks.{i}.args.monitor"] = args_of({"callback": callback}, "callback").get("monitor")
    watched = {path: monitor[4:] for path, monitor in monitors.items() if str(monitor).startswith(("min ", "max "))}
    of_scheduler = dict_at(config, "lr_scheduler").get("monitor")
    return watched | ({"lr_scheduler.monitor": of_scheduler} if isinstance(of_scheduler, str) else {})


def _monitor_errors(config, parts, also_logged, told):
    """Monitored names of which it is known that nothing will log them."""
    if also_logged is None or not isinstance(config.get("metrics", []), list):
        return
    named = metric_names(config)
    misspelt = [name for path, name in named.items() if f"{path}.type" in told]
    logged = ["loss", *named.values()]
    if _validates(config, parts) is not False:
        logged += [f"val_{name}" for name in logged]
    logged += also_logged
    right = [name for name in logged if name.removeprefix("val_") not in misspelt]
    not_split = "; data_loader.args.validation_split sets no samples aside, and there is no valid_data_loader"
    for path, name in watched(config).items():
        of_misspelt = misspelt and (not nearest(name, right) or nearest(name.removeprefix("val_"), misspelt))
        if name not in logged and not of_misspelt:
            meant = not_split if name.removeprefix("val_") in logged else did_you_mean(name, right)
            yield f"{path}: nothing called {brief(name)} is logged{meant}"


def _validation_errors(config, parts):
    """Validation data from two places, and what needs such data where there are none."""
    trainer = dict_at(config, "trainer")
    if config.get("valid_data_loader") is not None and _sets_aside(config, parts):
        yield validated_twice(args_of(config, "data_loader"))
    if trainer.get("overfit_batches") is None and _validates(config, parts) is False:
        keys = ("limit_valid_batches", "sanity_check_batches")
        yield from (nothing_to_validate(key) for key in keys if trainer.get(key))


def _validates(config, parts):
    """Whether there are validation data; None if that cannot be told."""
    return config.get("valid_data_loader") is not None or _sets_aside(config, parts)


def _sets_aside(config, parts):
    """Whether data_loader sets validation samples aside; None if that cannot be told."""
    args = args_of(config, "data_loader")
    if args.get("fold") is not None:
        return True
    if "validation_split" in args:
        return args["validation_split"] != 0
    default = _default(config, parts, "data_loader", "validation_split")
    return default not in ("0", "0.0") if isinstance(default, str) else None


def _kernel_errors(config, parts):
    """A fused kernel of an optimizer that has none."""
    name, args = dict_at(config, "optimizer").get("type"), args_of(config, "optimizer")
    wanted = dict_at(config, "trainer").get("fused") and not args.get("foreach") and "fused" not in args
    known = isinstance(name, str) and "optimizer" in parts
    if wanted and known and _default(config, parts, "optimizer", "fused") is None:
        yield f"trainer.fused: {shown(name)} has no fused kernel; leave it out"


def _file_errors(config):
    """A file of weights that is not there, or needs a package that is not."""
    path = dict_at(config, "init_weights").get("path")
    if isinstance(path, str) and not os.path.isfile(path):
        yield f"init_weights.path: there is no file {shortened(path)}"
    elif str(path).endswith(".safetensors") and find_spec("safetensors") is None:
        yield "init_weights.path: needs the package safetensors; install it: pip install safetensors"
