"""Find all mistakes of a config, before anything is built: first from source files alone, then by importing."""

import collections
import importlib
import inspect
import itertools
import os
import re
from importlib.util import find_spec

from pydantic import ValidationError

from utils.config.files import deep_merge, names_several, set_by_path
from utils.config.schema import KNOWN_KEYS, MAX_ENTRIES, OTHER_LOADERS, Flag, mistakes_in
from utils.config.types import (
    argument_mistakes,
    default_in_source,
    renamed,
    resolve,
    signature_of,
    source_argument_mistakes,
    type_mistake,
)
from utils.duration import is_duration
from utils.errors import UserError, brief, shortened, shown
from utils.folds import parse_fold
from utils.nearest import did_you_mean, nearest
from utils.patterns import in_bounded_time

_MOST_TOLD = 20  # mistakes


def check_config(config, parts, also_logged=(), begins=True):
    """The config's keys that the framework does not know, its project's own.

    parts: {section: Part} of what is built by name; {} if the project's own script decides that. also_logged: names
    that the trainer logs besides the loss and the metrics, None if nothing will be monitored. begins: whether the
    weights are still to be initialised, so that their file must be there. Nothing is imported, so the answer comes
    within the first second. Raises UserError with one line for each mistake.
    """
    mistakes, own_keys = mistakes_in(config, whole=bool(parts))
    told = set(map(_place_of, mistakes))
    _raise_first(itertools.chain(mistakes, _mistakes_beyond_form(config, parts, also_logged, begins, told)))
    return own_keys


def _mistakes_beyond_form(config, parts, also_logged, begins, told):
    """What is wrong besides keys and the form of values, of which the schema tells; told: the places where it did.

    Found one by one, since it takes time to look for what a name may have meant.
    """
    for path, spec, part in _components(config, parts):
        if not {path, f"{path}.type"} & told:  # by the schema, as of "parallel"
            wrong = type_mistake(spec["type"], part)
            mistakes = [f"{path}.type: {wrong}"] if wrong else _source_argument_mistakes(path, spec, part)
            told.update(map(_place_of, mistakes))
            yield from mistakes
    yield from _flag_mistakes(config, parts)
    if not parts:
        return
    yield from _name_mistakes(config, parts, also_logged)
    yield from _optimizer_mistakes(config) + _plateau_mistakes(config) + _switch_mistakes(config, parts)
    yield from _chain_mistakes(config, parts)
    yield from (mistake for mistake in _loader_mistakes(config) if _place_of(mistake) not in told)
    yield from _split_mistakes(config, parts) + _limit_mistakes(config, parts)
    if begins:
        yield from _init_weights_mistakes(config)


def _place_of(mistake):
    return mistake.partition(":")[0]


def check_types(config, parts):
    """Look up every type for good and bind its args, building nothing. Raises UserError with all mistakes."""
    _raise_first(_mistakes_in_types(config, parts))


def renamed_types(config, parts):
    """A line for each type that the config names as an earlier version did; all of them must be known."""
    for path, spec, part in _components(config, parts):
        if now := renamed(spec["type"], part):
            yield f"{path}.type: {spec['type']!r} is {now!r} now"


def _mistakes_in_types(config, parts):
    for path, spec, part in _components(config, parts):
        try:
            found = resolve(spec["type"], importlib.import_module(part.module), part)
        except UserError as error:
            yield f"{path}.type: {error}"
            continue
        given = part.given if inspect.isclass(found) or part.called_with is None else part.called_with
        wrong = argument_mistakes(signature_of(found), spec.get("args", {}), given, by_name=part.given_by_name)
        yield from _with_place(path, spec, wrong)


def _raise_first(mistakes):
    """Raise UserError with the mistakes, each told once, if there are any; of a great many, with the first."""
    told = {}
    for mistake in mistakes:
        if len(told) == _MOST_TOLD:
            raise UserError("\n".join([*told, "and more mistakes; mend these first"]))
        told[mistake] = None
    if told:
        raise UserError("\n".join(told))


def as_spec(path, section):
    """A section as {"type": ..., "args": ...}; a bare name is short for one without args. Raises UserError."""
    spec = {"type": section} if isinstance(section, str) else section
    if not isinstance(spec, dict) or not isinstance(spec.get("type"), str):
        raise UserError(
            f'{path}: got {brief(section)}; it should be an object such as {{"type": ..., "args": {{...}}}}'
        )
    return spec


def metric_name(spec):
    """What a metric is called in logs."""
    return spec.get("name") or spec["type"].rpartition(".")[2]


def _components(config, parts):
    """(path, spec, Part) of everything that the config names and that is well enough formed to look up."""
    for name, part in parts.items():
        section = config.get(name)
        if isinstance(section, list):
            entries = {f"{name}.{i}": entry for i, entry in enumerate(_entries(section))}
        elif names_several(section):
            entries = {f"{name}.{key}": entry for key, entry in section.items()}
        else:
            entries = {name: section}
        for path, entry in entries.items():
            spec = {"type": entry} if isinstance(entry, str) else entry
            if part.default and isinstance(spec, dict):
                spec = {"type": part.default, **spec}
            if _is_formed(spec):
                yield from _with_nested(path, spec, part)


def _is_formed(spec):
    return isinstance(spec, dict) and isinstance(spec.get("type"), str) and isinstance(spec.get("args", {}), dict)


def _section(config, name):
    """The section; as one that is empty if it is none, of which the schema tells."""
    return config[name] if isinstance(config.get(name), dict) else {}


def _args_of(config, name):
    return _section(_section(config, name), "args")


def _entries(value):
    """The entries of a list, as many as it may have; none of anything else."""
    return value[:MAX_ENTRIES] if isinstance(value, list) else []


def _with_nested(path, spec, part):
    """A component and those within it: what is nested in its arguments, or what its groups of parameters set."""
    for i, group in enumerate(_entries(spec.get("groups"))):
        settings = {"type": spec["type"], "args": group.get("args", {})} if isinstance(group, dict) else {}
        if _is_formed(settings):
            yield f"{path}.groups.{i}", settings, part
    if not part.nested:
        yield path, spec, part
        return
    args = {}
    for key, value in spec.get("args", {}).items():
        items = value if isinstance(value, list) else [value]
        for i, item in enumerate(items):
            if _is_formed(item):
                yield from _with_nested(f"{path}.args.{key}" + (f".{i}" if items is value else ""), item, part)
        args[key] = 1 if is_duration(value) else value
    yield path, {**spec, "args": args}, part


def _source_argument_mistakes(path, spec, part):
    return _with_place(path, spec, source_argument_mistakes(spec["type"], part, spec.get("args", {})))


def _with_place(path, spec, mistakes):
    """The mistakes in arguments, with their dotted paths."""
    foldless = f"{spec['type']} has no folds: let it take an argument 'fold' and pass it on to BaseDataLoader"
    return [
        f"{path}.args.fold: {foldless}"
        if path == "data_loader" and mistake.startswith("fold: no such")
        else f"{path}.args.{mistake}"
        for mistake in mistakes
    ]


_EXAMPLES = {"int": 1, "float": 0.5, "str": "text", "bool": True}


def _flag_mistakes(config, parts):
    """Flags of "cli" whose target is not there, or does not take what is typed; found by setting an example."""
    for i, entry in enumerate(_entries(config.get("cli"))):
        try:
            flag = Flag.model_validate(entry)
            section = flag.target.partition(".")[0]
            trial = config | deep_merge({}, {section: config[section]} if section in config else {})
            set_by_path(trial, flag.target, _EXAMPLES[flag.type], KNOWN_KEYS)
        except ValidationError:  # which the schema tells
            continue
        except UserError as error:
            yield f"cli.{i}.target: {error}"
            continue
        for path, spec, part in _components(trial, parts):
            if flag.target.startswith(f"{path}.args.") and type_mistake(spec["type"], part) is None:
                wrong = _source_argument_mistakes(path, spec, part)
                yield from (_of_flag(i, flag, line) for line in wrong if line.startswith(f"{flag.target}: "))


def _of_flag(i, flag, mistake):
    _, is_type, wanted = mistake.partition("; it should be ")
    if is_type:
        return f"cli.{i}.type: got {flag.type!r}; {flag.target} takes {wanted}"
    return f"cli.{i}.target: {mistake}"


def _name_mistakes(config, parts, also_logged):
    """Metrics of one name, and monitored names of which it is known that nothing will log them."""
    specs = [(spec, part) for path, spec, part in _components(config, parts) if path.startswith("metrics.")]
    named = [(metric_name(spec), type_mistake(spec["type"], part)) for spec, part in specs]
    named = [(name, mistake) for name, mistake in named if isinstance(name, str)]
    misspelt = [name for name, mistake in named if mistake]
    logged = ["loss", *(name for name, _ in named)]
    repeated = [name for name, count in collections.Counter(logged).items() if count > 1]
    yield from (f'metrics: two are called {brief(name)}; give one a "name"' for name in repeated)
    if also_logged is None or not isinstance(config.get("metrics", []), list):
        return
    if config.get("valid_data_loader") is not None or _sets_aside(config, parts) is not False:
        logged += [f"val_{name}" for name in logged]
    logged += also_logged
    right = [name for name in logged if name.removeprefix("val_") not in misspelt]
    not_split = "; data_loader.args.validation_split sets no samples aside, and there is no valid_data_loader"
    for path, name in watched(config).items():
        if name not in logged and (
            not misspelt or (nearest(name, right) and not nearest(name.removeprefix("val_"), misspelt))
        ):
            meant = not_split if name.removeprefix("val_") in logged else did_you_mean(name, right)
            yield f"{path}: nothing called {brief(name)} is logged{meant}"


def _optimizer_mistakes(config):
    """An optimizer that no loop here can use, and keys that only one of several has."""
    section = _section(config, "optimizer")
    alone = not names_several(section)
    specs = {"optimizer": section} if alone else {f"optimizer.{key}": spec for key, spec in section.items()}
    mistakes = [
        f"{path}.type: LBFGS wants to compute the loss itself, several times a step; use another"
        for path, spec in specs.items()
        if isinstance(spec, dict) and str(spec.get("type")).rpartition(".")[2] == "LBFGS"
    ]
    return mistakes + [
        f"optimizer.{key}: is for one of several optimizers; choose what one trains with requires_grad or Freeze"
        for key in ("params", "every")
        if alone and key in section
    ]


def _plateau_mistakes(config):
    """What contradicts ReduceLROnPlateau, and what only it understands."""
    trainer, scheduler = _section(config, "trainer"), _section(config, "lr_scheduler")
    if not str(scheduler.get("type")).endswith("ReduceLROnPlateau"):
        return ["lr_scheduler.monitor: only ReduceLROnPlateau watches a value"] if scheduler.get("monitor") else []
    mistakes = []
    if scheduler.get("interval") == "step":
        mistakes.append("lr_scheduler.interval: ReduceLROnPlateau steps after an epoch; leave interval out")
    mode, _, monitored = str(trainer.get("monitor", "off")).partition(" ")
    given = _args_of(config, "lr_scheduler").get("mode", "min")
    if mode in ("min", "max") and scheduler.get("monitor", monitored) == monitored and given != mode:
        mistakes.append(
            f"lr_scheduler.args.mode: got {brief(given)}, but trainer.monitor is {brief(trainer['monitor'])}; "
            f"give {mode!r}, or another value to watch as lr_scheduler.monitor"
        )
    return mistakes


_SET_THE_RATE_ANEW = (
    "a warm-up",
    "SequentialLR",
    "CyclicLR",
    "OneCycleLR",
    "CosineAnnealingWarmRestarts",
    "ReduceLROnPlateau",
)


def _chain_mistakes(config, parts):
    """Schedules that undo what they are chained with, and chains in places where torch cannot step them."""
    mistakes = []
    for path, spec, _ in _components(config, {name: part for name, part in parts.items() if name == "lr_scheduler"}):
        kind, nested = _bare_type(spec), spec.get("args", {}).get("schedulers")
        if kind == "ChainedScheduler" and spec.get("warmup"):
            mistakes.append(f"{path}.warmup: is not for ChainedScheduler; chain a LinearLR too")
        for i, item in enumerate(_entries(nested)):
            place = f"{path}.args.schedulers.{i}"
            inner = "" if not _is_formed(item) else "a warm-up" if item.get("warmup") else _bare_type(item)
            if kind == "ChainedScheduler" and inner in _SET_THE_RATE_ANEW:
                mistakes.append(f"{place}: {inner} sets the rate anew, whatever it is chained with; use another")
            if kind == "SequentialLR" and inner == "ChainedScheduler":
                mistakes.append(f"{place}.type: ChainedScheduler can be no part of a SequentialLR; use another")
    return mistakes


def _bare_type(spec):
    return spec["type"].rpartition(".")[2]


def _loader_mistakes(config):
    """Values that no BaseDataLoader takes, whatever its data."""
    mistakes = []
    for name in ("data_loader", *OTHER_LOADERS):
        args = _args_of(config, name)
        for key, lowest in (("batch_size", 1), ("num_workers", 0)):
            value = args.get(key, lowest)
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                mistakes.append(f"{name}.args.{key}: got {brief(value)}; it should be an integer of at least {lowest}")
        split = args.get("validation_split", 0)
        share = isinstance(split, float) and 0 <= split < 1
        number = isinstance(split, int) and not isinstance(split, bool) and split >= 0
        if not share and not number:
            where = f"{name}.args.validation_split"
            mistakes.append(f"{where}: got {brief(split)}; give a share from 0.0 to below 1.0, or a number of samples")
        if args.get("fold") is not None:
            try:
                parse_fold(args["fold"])
            except UserError as error:
                mistakes.append(f"{name}.args.{error}")
    return mistakes


def _split_mistakes(config, parts):
    """Two answers to the question what is validated on."""
    args = _args_of(config, "data_loader")
    mistakes = []
    if args.get("stratify") and args.get("groups"):
        mistakes.append("data_loader.args.groups: a split goes by stratify or by groups; leave one of them out")
    if args.get("fold") is not None and args.get("validation_split", 0) != 0:
        mistakes.append("data_loader.args.fold: validation_split sets samples aside too; leave one of them out")
    if config.get("valid_data_loader") is not None and _sets_aside(config, parts):
        how = next((key for key in ("fold", "validation_split") if args.get(key)), None)
        remedy = f"leave data_loader.args.{how} out, or this" if how else "give data_loader.args.validation_split: 0"
        mistakes.append(f"valid_data_loader: data_loader sets validation samples aside already; {remedy}")
    mistakes += [
        f"valid_data_loader.args.{key}: all its samples are validated on; leave it out"
        for key in ("fold", "validation_split")
        if _args_of(config, "valid_data_loader").get(key)
    ]
    return mistakes


def _switch_mistakes(config, parts):
    """Switches of the trainer that the device or the optimizer of the config cannot follow."""
    trainer, optimizer = _section(config, "trainer"), _section(config, "optimizer")
    mistakes = []
    if trainer.get("precision") == "fp16" and (config.get("device") in ("cpu", "mps") or config.get("n_gpu") == 0):
        mistakes.append(
            "trainer.precision: 'fp16' needs a CUDA GPU, which the config does not use; give 'bf16' or 'fp32'"
        )
    if trainer.get("cudnn_benchmark") and config.get("deterministic"):
        mistakes.append('trainer.cudnn_benchmark: chooses kernels by time, and "deterministic" is on; leave one out')
    if trainer.get("compile") in ("reduce-overhead", "max-autotune") and trainer.get("accumulate", 1) != 1:
        mode = f"trainer.compile: {trainer['compile']!r} records CUDA graphs, which overwrite accumulated gradients"
        mistakes.append(f"{mode}; give true or 'max-autotune-no-cudagraphs'")
    if trainer.get("fused") and isinstance(optimizer.get("type"), str):
        if "fused" in _args_of(config, "optimizer"):
            mistakes.append("trainer.fused: optimizer.args.fused says it already; leave one of them out")
        elif _args_of(config, "optimizer").get("foreach"):
            mistakes.append("trainer.fused: optimizer.args.foreach asks for another kernel; leave one of them out")
        elif "optimizer" in parts and default_in_source(optimizer["type"], parts["optimizer"], "fused") is None:
            mistakes.append(f"trainer.fused: {shown(optimizer['type'])} has no fused kernel; leave it out")
    return mistakes


def _init_weights_mistakes(config):
    """A file that is not there, and regular expressions that are none."""
    section = _section(config, "init_weights")
    mistakes = []
    path = section.get("path")
    if isinstance(path, str) and not os.path.isfile(path):
        mistakes.append(f"init_weights.path: there is no file {shortened(path)}")
    elif str(path).endswith(".safetensors") and find_spec("safetensors") is None:
        mistakes.append("init_weights.path: needs the package safetensors; install it: pip install safetensors")
    rename = section.get("rename")
    try:
        with in_bounded_time("init_weights.rename"):
            mistakes += _expression_mistakes(_entries(list(rename) if isinstance(rename, dict) else rename))
    except UserError as error:
        mistakes.append(str(error))
    return mistakes


def _expression_mistakes(patterns):
    """Texts that are no regular expressions; of what is no text the schema tells."""
    mistakes = []
    for pattern in patterns:
        try:
            re.compile(pattern if isinstance(pattern, str) else "")
        except (re.error, OverflowError, RecursionError) as error:
            mistakes.append(f"init_weights.rename: {brief(pattern)} is no regular expression: {error}")
    return mistakes


def _limit_mistakes(config, parts):
    """Limits that contradict another one, or are of validation data that are not there."""
    trainer = _section(config, "trainer")
    mistakes = []
    if trainer.get("limit_train_batches") is not None and trainer.get("len_epoch") is not None:
        mistakes.append("trainer.limit_train_batches: trainer.len_epoch says how many already; leave one of them out")
    validates = config.get("valid_data_loader") is not None or _sets_aside(config, parts) is not False
    if trainer.get("overfit_batches") is None and not validates:
        mistakes += [
            f"trainer.{key}: there are no validation data; set data_loader.args.validation_split, or leave it out"
            for key in ("limit_valid_batches", "sanity_check_batches")
            if trainer.get(key)
        ]
    return mistakes


def watched(config):
    """{path: name} of the values that the config monitors."""
    monitors = {"trainer.monitor": _section(config, "trainer").get("monitor")}
    for i, callback in enumerate(_entries(config.get("callbacks"))):
        monitors[f"callbacks.{i}.args.monitor"] = _args_of({"callback": callback}, "callback").get("monitor")
    watched = {path: monitor[4:] for path, monitor in monitors.items() if str(monitor).startswith(("min ", "max "))}
    of_scheduler = _section(config, "lr_scheduler").get("monitor")
    return watched | ({"lr_scheduler.monitor": of_scheduler} if isinstance(of_scheduler, str) else {})


def _sets_aside(config, parts):
    """Whether data_loader sets validation samples aside; None if that cannot be told."""
    section, part, args = _section(config, "data_loader"), parts.get("data_loader"), _args_of(config, "data_loader")
    if args.get("fold") is not None:
        return True
    if "validation_split" in args:
        return args["validation_split"] != 0
    if not isinstance(section.get("type"), str) or part is None:
        return None
    default = default_in_source(section["type"], part, "validation_split")
    return default not in ("0", "0.0") if isinstance(default, str) else None
