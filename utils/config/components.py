"""The components of a config, {"type": ..., "args": {...}}: what each section may name, and where they stand.

What does not have the right form is left out by the functions here; the forms in the schema tell of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from utils.config.files import names_several
from utils.epoch_metrics import METHODS
from utils.errors import UserError, brief
from utils.rules import loader_errors


@dataclass(frozen=True)
class Part:
    """What one section of a config may name, and what the script adds when it builds it."""

    module: str
    """Where a bare name is looked up; "mine.Name" is looked up in the file mine.py beside it."""
    ready: tuple[str, ...] = ()
    """Modules of the framework where a bare name is looked up that the module does not have."""
    bases: tuple[str, ...] = ()
    """Dotted names of the classes of which a class must derive from one; none: any class will do."""
    libraries: tuple[str, ...] = ()
    """Library modules whose classes a dotted name may point to."""
    factories: tuple[str, ...] = ()
    """Library modules whose functions it may point to."""
    functions: bool = False
    """Whether a function of the project will do."""
    given: int = 0
    """How many positional arguments the script passes when it builds the object."""
    default: str | None = None
    """The type of a section that names none."""
    given_by_name: tuple[str, ...] = ()
    """Names of the other arguments that it passes then."""
    called_with: int | None = None
    """How many positional arguments a function gets when it is used, for a function that is not called to build."""
    nested: bool = False
    """Whether arguments may be durations, and other objects of the part."""
    methods: tuple[str, ...] = ()
    """What a class of the project must have, instead of a base."""
    remedy: str = ""
    """What to do with a class or function that is of another kind."""
    rules: Callable = lambda args: ()
    """What is wrong with arguments, {name: value}, for any class of the part: lines "argument: what is wrong"."""


_LOADER = Part(
    "data_loader.data_loaders",
    ready=("base.data.tables", "base.data.image_folders", "base.data.arrays", "base.data.texts"),
    bases=("base.base_data_loader.BaseDataLoader",),
    remedy="write one in data_loader/ and give it the dataset",
    rules=loader_errors,
)

# The sections that train.py and test.py build. A script that builds others, or passes more, says so to from_args.
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
    "optimizer": Part("torch.optim", bases=("torch.optim.Optimizer",), libraries=("torch.optim",), given=1),
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

# For a section that only the project's own script knows: anything of the module that the script passes, and by
# dotted name what any of the sections above may name.
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


def dict_at(section, key):
    """The dict that stands at the key; an empty one if something else does, as the form of values tells."""
    return section[key] if isinstance(section.get(key), dict) else {}


def args_of(config, name):
    """The args of a section."""
    return dict_at(dict_at(config, name), "args")


def entries(value):
    """The entries of a list, as many as it may have; none of anything else."""
    return value[:MAX_ENTRIES] if isinstance(value, list) else []


def objects_in(config, name):
    """{path: what stands there} of a section: the entries of a list, several objects under names, or itself."""
    section = config.get(name)
    if isinstance(section, list):
        return {f"{name}.{i}": entry for i, entry in enumerate(entries(section))}
    if names_several(section):
        return {f"{name}.{key}": entry for key, entry in section.items()}
    return {name: section}


def is_spec(value):
    """Whether it is {"type": ..., "args": ...} in the right form."""
    return isinstance(value, dict) and isinstance(value.get("type"), str) and isinstance(value.get("args", {}), dict)


def specs_in(config, name, default=None):
    """The same of those that have the form of {"type": ..., "args": ...}; a bare name is one without args.

    default: the type of an object that names none.
    """
    named = {
        path: {"type": value} if isinstance(value, str) else value for path, value in objects_in(config, name).items()
    }
    if default:
        named = {path: {"type": default, **value} for path, value in named.items() if isinstance(value, dict)}
    return {path: value for path, value in named.items() if is_spec(value)}


def nested_specs(args):
    """(keys that lead there, spec) of each object {"type": ..., "args": ...} among arguments."""
    for key, value in args.items():
        places = {(key, i): item for i, item in enumerate(value)} if isinstance(value, list) else {(key,): value}
        yield from ((place, item) for place, item in places.items() if is_spec(item))


def metric_name(spec):
    """What a metric is called in logs."""
    return spec.get("name") or last_word(spec["type"])


def metric_names(config):
    """{path: what it is called in logs} of the metrics that have the right form."""
    names = {path: metric_name(spec) for path, spec in specs_in(config, "metrics").items()}
    return {path: name for path, name in names.items() if isinstance(name, str)}


def last_word(name):
    """The name of a class without its module; "" for what is no name."""
    return name.rpartition(".")[2] if isinstance(name, str) else ""


def as_spec(path, section):
    """A section as {"type": ..., "args": ...}; a bare name is short for one without args. Raises UserError."""
    spec = {"type": section} if isinstance(section, str) else section
    if not isinstance(spec, dict) or not isinstance(spec.get("type"), str):
        example = '{"type": ..., "args": {...}}'
        raise UserError(f"{path}: got {brief(section)}; it should be an object such as {example}")
    return spec
