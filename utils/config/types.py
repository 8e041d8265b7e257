"""Resolve the "type" names of a config to classes and functions, of the right kind and from allowed places only."""

import ast
import importlib
import inspect
import itertools
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from utils.config.components import OWN_SECTION
from utils.config.source import find_definition, modules_below, public_names, source_of
from utils.errors import UserError, brief
from utils.nearest import did_you_mean, nearest

_LIBRARIES = ("torch", "torchvision", "torchmetrics")
_EXAMPLES = "examples"  # a folder of the project, whose files any section may name in full, as "examples.gan.model.Gan"

# Where files of earlier versions are now, so that configs and checkpoints of then find them.
_MOVED = {
    "data_loader.arrays": "base.data.arrays",
    "data_loader.image_folders": "base.data.image_folders",
    "data_loader.tables": "base.data.tables",
    "data_loader.texts": "base.data.texts",
    "data_loader.cifar10": "examples.cifar_resnet.data",
    "data_loader.mnist_by_ratio": "examples.mlp.data",
    "data_loader.mnist_to_itself": "examples.autoencoder.data",
    "model.autoencoder": "examples.autoencoder.model",
    "model.char_lm": "examples.char_lm.model",
    "model.gan": "examples.gan.model",
    "model.mlp": "examples.mlp.model",
    "model.resnet": "examples.cifar_resnet.model",
    "model.tabular": "examples.tabular.model",
    "trainer.gan_trainer": "examples.gan.trainer",
    "trainer.monitors": "base.training.monitors",
    "trainer.profile": "base.training.profile",
    "trainer.weight_averaging": "base.training.weight_averaging",
}


def resolve(name, module, part):
    """The class or function that a config's "type" names. module: where a bare name is looked up.

    Raises UserError, without the section's name, if there is none, if it is of the wrong kind, or if it lies
    outside the allowed places.
    """
    home, attribute = _home(name, module.__name__, part)
    if home != module.__name__:
        try:
            module = importlib.import_module(home)
        except ModuleNotFoundError as error:
            if error.name != home and not home.startswith(f"{error.name}."):
                raise  # the module is there; what it imports is not
            raise UserError(f"there is no module {home!r}{_meant(name, part)}") from None
    found = getattr(module, attribute, None)
    if found is None:
        raise UserError(_not_found(attribute, module.__name__, [key for key in vars(module) if key[0] != "_"], part))
    if not inspect.isclass(found) and not inspect.isroutine(found):
        raise UserError(f"{name!r} is neither a class nor a function")
    _require_kind(found, name, home, part)
    package = getattr(found, "needs_package", None)
    if package and find_spec(package) is None:
        raise UserError(f"{name!r} needs the package {package}; install it: pip install {package}")
    return found


def find_in_source(name, part):
    """The Definition of what a config's "type" names, as far as source files tell; nothing is imported.

    Raises UserError as resolve does.
    """
    home, attribute = _home(name, part.module, part)
    if source_of(home) is None and not is_library(home):
        raise UserError(f"there is no file {home.replace('.', '/')}.py{_meant(name, part)}")
    definition = find_definition(home, attribute)
    if definition is None:
        raise UserError(_not_found(attribute, home, public_names(home), part))
    if definition.kind == "function" and not (part.factories if is_library(home) else part.functions):
        raise UserError(
            f"{name!r} is the wrong kind of function; a class is needed{part.remedy and f': {part.remedy}'}"
        )
    return definition


def signature_of(found):
    """The parameters of a class or function; open to all keywords where it has no readable signature."""
    if inspect.isclass(found) and found.__init__ is _import("torch.nn.Module").__init__:
        return ()  # it looks open to any keyword, and accepts none
    try:
        return tuple(inspect.signature(found).parameters.values())
    except ValueError:
        return (inspect.Parameter("keywords", inspect.Parameter.VAR_KEYWORD),)


def argument_errors(parameters, args, given, whole=True, by_name=()):
    """One 'key: what is wrong' for each argument that does not fit.

    given: how many positional ones come first. whole: an argument without a default must be there. by_name: those that
    are given too, wherever they stand.
    """
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    free = [p for p in parameters if p.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)]
    free = {p.name: p for p in free[given:] if p.name not in by_name}
    errors = []
    for key, value in args.items():
        if key in free:
            if not _accepts(free[key], value):
                errors.append(f"{key}: got {brief(value)}; it should be {free[key].annotation}")
        elif not open_ended:
            errors.append(f"{key}: no such argument{did_you_mean(key, list(free)) if free else '; it takes none'}")
    for key, parameter in free.items():
        if whole and parameter.default is inspect.Parameter.empty and key not in args:
            errors.append(f"{key}: missing; it has no default")
    return errors


def _home(name, module, part):
    """(module to look in, name to look up) for a type name. Raises UserError for a place that is not allowed."""
    if not all(piece.isidentifier() and not piece.startswith("_") for piece in name.split(".")):
        raise UserError(f"{brief(name)} is not a name such as 'MyModel', 'mine.MyModel' or 'torch.nn.Linear'")
    place, _, attribute = name.rpartition(".")
    room = module.rpartition(".")[0]
    if not place:
        return _home_of_bare(attribute, module, part), attribute
    if place.split(".")[0] in _LIBRARIES:
        allowed = (*part.libraries, *part.factories)
        if not any(place == library or place.startswith(f"{library}.") for library in allowed):
            where = (
                f"what stands here may come from {', '.join(dict.fromkeys(allowed))}"
                if allowed
                else "only the project's own will do here"
            )
            raise UserError(f"{name!r} is not allowed; {where}{_meant(name, part)}")
        library = place.split(".")[0]
        if source_of(library) is None:
            raise UserError(f"{name!r} needs the package {library}, which is not installed: pip install {library}")
        return place, attribute
    if not room or is_library(room):
        raise UserError(f"{name!r} is not allowed; give a name of {module}")
    if place.startswith(f"{_EXAMPLES}.") or place in part.ready:
        return place, attribute
    home = place if place.startswith(f"{room}.") else f"{room}.{place}"
    if home == module:
        return _home_of_bare(attribute, module, part), attribute
    return _MOVED[home] if home in _MOVED and source_of(home) is None else home, attribute


def _home_of_bare(attribute, module, part):
    """The module itself, or one of part.ready if only that has the name."""
    if find_definition(module, attribute) is None:
        return next((home for home in part.ready if attribute in public_names(home)), module)
    return module


def renamed(name, part):
    """What a type name of an earlier version is called now, or None if it is not such a name."""
    home, attribute = _home(name, part.module, part)
    place, room = name.rpartition(".")[0], part.module.rpartition(".")[0]
    if not place or home in (place, f"{room}.{place}") or is_library(home):
        return None
    return attribute if home in part.ready else f"{home}.{attribute}"


def _meant(name, part):
    """ "; did you mean ...?", if the dotted name resembles one of the project's or a library's that may stand here."""
    places = {place: f"{place}." for place in (*part.libraries, *part.factories)} | dict.fromkeys(part.ready, "")
    room, source = part.module.rpartition(".")[0], source_of(part.module)
    if room and source is not None and not is_library(room):
        places |= {f"{room}.{path.stem}": f"{path.stem}." for path in source.parent.glob("*.py")}
        places |= {example: f"{example}." for example in modules_below(_EXAMPLES)}
    known = [prefix + public for place, prefix in places.items() for public in public_names(place)]
    close = nearest(name, known, cutoff=0.7)
    return f"; did you mean {close!r}?" if close else ""


def _not_found(attribute, module, names, part):
    """What is wrong with a name that the module, which has these names, lacks."""
    room = module.rpartition(".")[0]
    if room and not is_library(module) and source_of(module) is not None:
        for path in sorted(source_of(module).parent.glob("*.py")):
            if attribute in public_names(f"{room}.{path.stem}"):
                return f"{module} has no {attribute!r}; it is in {room}/{path.stem}.py: write '{path.stem}.{attribute}'"
    names = [name for name in (*names, *itertools.chain(*map(public_names, part.ready))) if name != attribute]
    places = dict.fromkeys((*part.libraries, *part.factories))
    libraries = {public: f"{place}.{public}" for place in places for public in public_names(place)}
    own = None if attribute in libraries else nearest(attribute, names, cutoff=0.6)
    dotted = None if own else libraries.get(nearest(attribute, libraries, cutoff=0.9))
    return f"{module} has no {attribute!r}" + (
        f"; did you mean {dotted!r}?" if dotted else did_you_mean(attribute, names)
    )


def _require_kind(found, name, home, part):
    """Raise UserError unless what a name leads to is of a kind that its section may hold.

    What the project defines itself is trusted. What its files import, or a library holds, must be a class of one of
    the section's bases or a function of one of its factory modules: a config cannot reach `system` through a file
    that imports it.
    """
    own = _project_of(found.__module__) == _project_of(home) and not is_library(home)
    passed_in = part is OWN_SECTION and "." not in name and found.__module__.split(".")[0] == home.split(".")[0]
    needed = " or ".join(part.bases) or "class"
    if inspect.isclass(found):
        lacking = [method for method in part.methods if own and not hasattr(found, method)]
        if lacking:
            needed = ", ".join(part.methods)
            raise UserError(f"{name!r} has no {' and no '.join(lacking)}; a class here needs {needed}")
        bound = part.bases and not (own and (part is OWN_SECTION or part.methods))
        fits = issubclass(found, _loaded_bases(part)) if bound else own
    else:
        factory = any(f"{found.__module__}.".startswith(f"{place}.") for place in part.factories)
        fits = (own and part.functions) or factory
    if not fits and not passed_in:
        kind = "class" if inspect.isclass(found) else "function"
        origin = "" if own or found.__module__ == home else f", from {found.__module__},"
        remedy = part.remedy and f": {part.remedy}"
        raise UserError(f"{name!r}{origin} is the wrong kind of {kind}; a {needed} is needed{remedy}")


def _loaded_bases(part):
    """The classes of which one must derive, but for those of modules not loaded: nothing can derive from them yet."""
    return tuple(_import(base) for base in part.bases if base.rpartition(".")[0] in sys.modules)


def _project_of(module):
    """The folder that holds a module's top package; None for what has no file, such as builtins."""
    top = sys.modules.get((module or "").split(".")[0])
    path = getattr(top, "__file__", None) or next(iter(getattr(top, "__path__", ())), None)
    if path is None:
        return None
    path = Path(path).resolve()
    return path.parent.parent if path.name == "__init__.py" else path.parent


def _import(dotted):
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


def is_library(module):
    """Whether the module belongs to a library whose names a config may use."""
    return module.split(".")[0] in _LIBRARIES


_JSON_TYPES = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
    "Tensor": (),
    "list[float]": (list,),
    "list[int]": (list,),
    "list[str]": (list,),
    "list": (list,),
}


def _accepts(parameter, value):
    """False only if the parameter's annotation, a Literal or a union of plain types, leaves no place for the value."""
    literal = re.fullmatch(r"(?:typing\.)?Literal(\[.*\])", str(parameter.annotation))
    if literal:
        return value in ast.literal_eval(literal[1])
    members = [member.strip().removeprefix("torch.") for member in str(parameter.annotation).split("|")]
    if parameter.annotation is inspect.Parameter.empty or not set(members) <= _JSON_TYPES.keys():
        return True
    if value is None:
        return "None" in members or parameter.default in ("None", None)
    if isinstance(value, bool):
        return "bool" in members
    return any(isinstance(value, _JSON_TYPES[member]) for member in members)
