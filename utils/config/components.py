"""The components of a config, {"type": ..., "args": {...}}: what each section may name, and how to find them.

The functions skip whatever does not have the right form; the schema reports it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from utils.config.files import names_several
from utils.epoch_metrics import METHODS
from utils.errors import MissingSection, UserError, brief
from utils.rules import loader_errors, rate_errors


@dataclass(frozen=True)
class Part:
    """What one section of a config may name, and what the script adds when it builds it."""

    module: str
    """Where a bare name is looked up; "mine.Name" is looked up in the file mine.py beside it."""
    ready: tuple[str, ...] = ()
    """Modules of the framework where a bare name is looked up if the module lacks it."""
    bases: tuple[str, ...] = ()
    """Dotted names of base classes; a class must derive from one of them. Empty: any class of the project."""
    libraries: tuple[str, ...] = ()
    """Library modules whose classes a dotted name may point to."""
    factories: tuple[str, ...] = ()
    """Library modules whose functions a dotted name may point to."""
    functions: bool = False
    """Whether a function of the project is allowed."""
    given: int = 0
    """Number of positional arguments that the script passes when it builds the object."""
    default: str | None = None
    """The type of a section that names none."""
    given_by_name: tuple[str, ...] = ()
    """Names of the keyword arguments that the script passes then."""
    called_with: int | None = None
    """Number of positional arguments of a function that is used as it is, not called to build an object."""
    nested: bool = False
    """Whether arguments may be durations, and other components of the part."""
    methods: tuple[str, ...] = ()
    """Methods that a class of the project needs, instead of a base."""
    remedy: str = ""
    """What to do about a class or function of the wrong kind."""
    rules: Callable[[dict[str, Any]], Iterable[str]] = lambda args: ()
    """Returns a line "argument: error" for each wrong argument of {name: value}, for any class of the part."""


_LOADER = Part(
    "data_loader.data_loaders",
    ready=("base.data.tables", "base.data.image_folders", "base.data.arrays", "base.data.texts"),
    bases=("base.base_data_loader.BaseDataLoader", "base.data.streams.StreamDataLoader"),
    remedy="write one in data_loader/ and give it the dataset",
    rules=loader_errors,
)

# The sections that train.py and test.py build. A script that builds others, or passes more, gives from_args its own.
PARTS = {
    "arch": Part(
        "model.model",
        bases=("torch.nn.Module",),
        libraries=("torch.nn", "torchvision.models"),
        factories=("torchvision.models",),
        functions=True,
    ),
    "loss": Part(
        "model.loss",
        bases=("torch.nn.Module",),
        libraries=("torch.nn",),
        factories=("torch.nn.functional",),
        functions=True,
        called_with=2,
    ),
    "metrics": Part(
        "model.metric",
        bases=("torchmetrics.metric.Metric",),
        libraries=("torchmetrics",),
        factories=("torch.nn.functional",),
        functions=True,
        called_with=2,
        methods=METHODS,
    ),
    "optimizer": Part(
        "torch.optim", bases=("torch.optim.Optimizer",), libraries=("torch.optim",), given=1, rules=rate_errors
    ),
    "lr_scheduler": Part(
        "torch.optim.lr_scheduler",
        bases=("torch.optim.lr_scheduler.LRScheduler",),
        libraries=("torch.optim.lr_scheduler",),
        given_by_name=("optimizer",),
        nested=True,
    ),
    "trainer": Part("trainer.trainer", bases=("base.base_trainer.BaseTrainer",), given=7),
    "callbacks": Part(
        "trainer.callbacks",
        ready=tuple(f"base.training.{name}" for name in ("callbacks", "monitors", "weight_averaging", "profile")),
        bases=("base.base_callback.BaseCallback",),
    ),
    "trackers": Part("logger.trackers", bases=("logger.base_tracker.BaseTracker",)),
    "parallel": Part("utils.distributed.parallel", functions=True, given=2, default="ddp"),
    "data_loader": _LOADER,
    "valid_data_loader": _LOADER,
    "test_data_loader": _LOADER,
}

_PARTS = tuple(PARTS.values())

# For a section that only the project's own script knows: anything of the module that the script passes and, by dotted
# name, what any of the sections above may name.
OWN_SECTION = Part(
    "",
    bases=(
        *(base for part in _PARTS for base in part.bases),
        "torch.utils.data.DataLoader",
        "torch.utils.data.Dataset",
    ),
    libraries=tuple(place for part in _PARTS for place in part.libraries),
    factories=tuple(place for part in _PARTS for place in part.factories),
    functions=True,
)

MAX_ENTRIES = 100  # of a list whose entries are looked up by name


def dict_at(section: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the dict at the key; an empty one if the value has another form."""
    return section[key] if isinstance(section.get(key), dict) else {}


def args_of(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the args of a section."""
    return dict_at(dict_at(config, name), "args")


def entries(value: object) -> list[Any]:
    """Return the entries of a list, up to the allowed number; none of anything else."""
    return value[:MAX_ENTRIES] if isinstance(value, list) else []


def is_spec(value: object) -> bool:
    """Whether it is {"type": ..., "args": ...} in the right form."""
    return isinstance(value, dict) and isinstance(value.get("type"), str) and isinstance(value.get("args", {}), dict)


def objects_in(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Return {path: value} of the entries of a list, of several objects under names, or of the section itself."""
    section = config.get(name)
    if isinstance(section, list):
        return {f"{name}.{i}": entry for i, entry in enumerate(entries(section))}
    if names_several(section):
        return {f"{name}.{key}": entry for key, entry in section.items()}
    return {name: section}


def specs_in(config: dict[str, Any], name: str, default: str | None = None) -> dict[str, dict[str, Any]]:
    """Return {path: spec} of the components in a section; a bare name is one without args.

    default: the type of an object that names none.
    """
    specs = {}
    for path, value in objects_in(config, name).items():
        value = {"type": value} if isinstance(value, str) else value
        if default and isinstance(value, dict):
            value = {"type": default, **value}
        if is_spec(value):
            specs[path] = value
    return specs


def nested_specs(args: dict[str, Any]) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """Yield (keys that lead there, spec) of each component among arguments."""
    for key, value in args.items():
        places = {(key, i): item for i, item in enumerate(value)} if isinstance(value, list) else {(key,): value}
        yield from ((place, item) for place, item in places.items() if is_spec(item))


def metric_name(spec: dict[str, Any]) -> str:
    """Return the name of a metric in logs."""
    return spec.get("name") or last_word(spec["type"])


def metric_names(config: dict[str, Any]) -> dict[str, str]:
    """Return {path: name in logs} of the metrics that have the right form."""
    names = {path: metric_name(spec) for path, spec in specs_in(config, "metrics").items()}
    return {path: name for path, name in names.items() if isinstance(name, str)}


def watched(config: dict[str, Any]) -> dict[str, str]:
    """Return {path: name} of the values that the config monitors."""
    monitors = {"trainer.monitor": dict_at(config, "trainer").get("monitor")}
    for i, callback in enumerate(entries(config.get("callbacks"))):
        monitors[f"callbacks.{i}.args.monitor"] = args_of({"callback": callback}, "callback").get("monitor")
    watched = {path: monitor[4:] for path, monitor in monitors.items() if str(monitor).startswith(("min ", "max "))}
    of_scheduler = dict_at(config, "lr_scheduler").get("monitor")
    return watched | ({"lr_scheduler.monitor": of_scheduler} if isinstance(of_scheduler, str) else {})


def last_word(name: object) -> str:
    """Return the name of a class without its module; "" if it is not text."""
    return name.rpartition(".")[2] if isinstance(name, str) else ""


def as_spec(path: str, section: object) -> dict[str, Any]:
    """Return a section as {"type": ..., "args": ...}, also for a bare name. Raises UserError for other forms."""
    spec = {"type": section} if isinstance(section, str) else section
    if not isinstance(spec, dict) or not isinstance(spec.get("type"), str):
        example = '{"type": ..., "args": {...}}'
        kind = MissingSection if section is None else UserError
        raise kind(f"{path}: got {brief(section)}; it should be an object such as {example}")
    return spec
