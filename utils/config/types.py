"""Resolve the "type" names of a config to classes and functions, of the right kind and from allowed places only.

And check their arguments, and call them.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Collection, Iterable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from utils.config.annotations import accepts, as_arguments, wanted
from utils.config.components import OWN_SECTION, Part, as_spec
from utils.config.source import Definition, derives, find_definition, modules_below, public_names, source_of
from utils.errors import UserError, brief, refuse, shown
from utils.nearest import did_you_mean, nearest
from utils.signatures import signature

_LIBRARIES = ("torch", "torchvision", "torchmetrics")
_EXAMPLES = "examples"  # a folder of the project; any section may name its files in full, as "examples.gan.model.Gan"
_OWN_ROOMS = ("model", "trainer")  # a section of a library's classes may name the project's in full, from these folders

# Where the files of earlier versions are now, so that their configs and checkpoints can be used.
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


def resolve(name: str, module: ModuleType, part: Part) -> Any:
    """Return the class or function that a config's "type" names. module: where a bare name is looked up.

    Raises UserError, without the section's name, if there is none, if it is of the wrong kind, or if it lies
    outside the allowed places.
    """
    home, attribute = _home(name, module.__name__, part)
    if home != module.__name__:
        try:
            module = importlib.import_module(home)
        except ModuleNotFoundError as error:
            if error.name != home and not home.startswith(f"{error.name}."):
                raise  # the module exists; one that it imports does not
            raise UserError(f"there is no module {home!r}{_meant(name, part)}") from None
    found = getattr(module, attribute, None)
    if found is None:
        names = [key for key in vars(module) if key[0] != "_"]
        raise UserError(f"{home} has no {attribute!r}{_meant(name, part, names)}")
    if not inspect.isclass(found) and not inspect.isroutine(found):
        raise UserError(f"{name!r} is neither a class nor a function")
    _require_kind(found, name, home, part)
    package = getattr(found, "needs_package", None)
    if package and find_spec(package) is None:
        raise UserError(f"{name!r} needs the package {package}; install it: pip install {package}")
    return found


def find_type(path: str, name: str, part: Part, module: ModuleType | None = None) -> Any:
    """Return what resolve() does; errors begin with the path of the section. module: by default that of the part."""
    try:
        return resolve(name, module or importlib.import_module(part.module), part)
    except UserError as error:
        raise UserError(f"{path}.type: {error}") from None


def look_up(
    path: str,
    section: Any,
    part: Part,
    module: ModuleType | None = None,
    given: int = 0,
    further: dict[str, Any] | None = None,
    whole: bool = True,
    called_with: int | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Return (class or function, its keyword arguments) of a section {"type", "args"}. Raises UserError.

    given, whole: as for argument_errors. further: keyword arguments that the script adds. called_with: number of
    positional arguments that a function gets when it is used.
    """
    spec, further = as_spec(path, section), further or {}
    keywords = dict(spec.get("args") or {})
    for key in sorted(further.keys() & keywords):
        raise UserError(f"{path}.args.{key}: given in the config and by the script; take it out of the config")
    keywords |= further
    found = find_type(path, spec["type"], part, module)
    given = called_with if called_with and not inspect.isclass(found) else given
    parameters = signature_of(found)
    refuse(f"{path}.args.{error}" for error in argument_errors(parameters, keywords, given, whole))
    return found, as_arguments(parameters, keywords)


def build(path: str, section: Any, part: Part) -> Any:
    """Return the object that a section {"type", "args"} describes. Raises UserError."""
    found, keywords = look_up(path, section, part)
    return call(path, found, (), keywords)


def find_in_source(name: str, part: Part) -> Definition:
    """Return the Definition of a config's "type" as far as source files show it; nothing is imported.

    Raises UserError as resolve does.
    """
    home, attribute = _home(name, part.module, part)
    if source_of(home) is None and not is_library(home):
        raise UserError(f"there is no file {home.replace('.', '/')}.py{_meant(name, part)}")
    definition = find_definition(home, attribute)
    if definition is None:
        raise UserError(f"{home} has no {attribute!r}{_meant(name, part, public_names(home))}")
    if definition.kind == "function" and not (part.factories if is_library(home) else part.functions):
        remedy = part.remedy and f": {part.remedy}"
        raise UserError(f"{name!r} is the wrong kind of function; a class is needed{remedy}")
    return definition


def find_by_import(name: str, part: Part) -> Definition:
    """Return the Definition of a config's "type" as it is after importing its module. Raises UserError as resolve."""
    found = resolve(name, importlib.import_module(part.module), part)
    return Definition("class" if inspect.isclass(found) else "function", signature_of(found))


def renamed(name: str, part: Part) -> str | None:
    """Return today's name for a type name of an earlier version; None for other names."""
    home, attribute = _home(name, part.module, part)
    place, room = name.rpartition(".")[0], part.module.rpartition(".")[0]
    if not place or home in (place, f"{room}.{place}") or is_library(home):
        return None
    return attribute if home in part.ready else f"{home}.{attribute}"


def signature_of(found: Any) -> tuple[inspect.Parameter, ...]:
    """Return the parameters of a class or function; open to all keywords if it has no readable signature."""
    if inspect.isclass(found) and found.__init__ is _import("torch.nn.Module").__init__:
        return ()  # its signature accepts any keyword, and its body none
    try:
        return tuple(signature(found).parameters.values())
    except ValueError:
        return (inspect.Parameter("keywords", inspect.Parameter.VAR_KEYWORD),)


def argument_errors(
    parameters: Iterable[inspect.Parameter],
    args: dict[str, Any],
    given: int,
    whole: bool = True,
    by_name: Collection[str] = (),
) -> list[str]:
    """Return a line 'key: error' for each argument that does not fit.

    given: number of positional arguments before these. whole: an argument without a default is required. by_name: names
    of the keyword arguments that are given, too.
    """
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    free = [p for p in parameters if p.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)]
    passed = [p.name for p in free[:given]]
    free = {p.name: p for p in free[given:] if p.name not in by_name}
    errors = []
    for key, value in args.items():
        if key in free and not accepts(free[key], value):
            errors.append(f"{key}: got {brief(value)}; it should be {wanted(free[key])}")
        elif key not in free and not open_ended:
            errors.append(f"{key}: no such argument{did_you_mean(key, list(free)) if free else '; it takes none'}")
    missing = [p.name for p in free.values() if p.default is inspect.Parameter.empty and p.name not in args]
    alone = f", and a run passes ({', '.join(passed)}) alone" if given == 2 else ""  # of a loss or a metric
    return errors + [f"{name}: missing; it has no default{alone}" for name in missing if whole]


def call(path: str, found: Any, args: Iterable[Any], keywords: dict[str, Any]) -> Any:
    """Return found(*args, **keywords); an error about its arguments becomes a UserError that names their place.

    So does a class that lacks a method which its base demands, or whose constructor does not call that of its base.
    """
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(found.__abstractmethods__))
        raise UserError(f"{path}.type: {found.__name__} lacks {lacking}, which its base class demands")
    place = f"{path}: raised while {found.__name__} was built"  # the last line of the traceback of a project's own code
    try:
        made = found(*args, **keywords)
    except AttributeError as error:
        if inspect.isclass(found) and (_is_unfinished(error.obj) or "before Module.__init__() call" in str(error)):
            raise UserError(f"{path}.type: {_UNFINISHED.format(found.__name__)}: {error}") from error
        error.add_note(place)
        raise
    except OSError as error:
        raise UserError(f"{path}: {found.__name__}: {error}{_where_looked(error, keywords)}") from error
    except (ValueError, TypeError, ImportError, ArithmeticError, LookupError, RuntimeError) as error:
        if not isinstance(error, UserError) and not is_library(found.__module__):
            error.add_note(place)
            raise
        names_it = str(error).partition(":")[0] in {parameter.name for parameter in signature_of(found)}
        text = f"{path}.args.{error}" if names_it else f"{path}.args: {found.__name__}: {error}"
        raise UserError(f"{text}{_where_looked(error, keywords)}") from error
    except Exception as error:
        error.add_note(place)
        raise
    if inspect.isclass(found) and _is_unfinished(made):
        raise UserError(f"{path}.type: {_UNFINISHED.format(found.__name__)}")
    return made


def _where_looked(error, keywords):
    """The absolute path, if an error is about an argument that is a relative path at which there is nothing."""
    for value in keywords.values():
        is_named = isinstance(value, str) and value and shown(value) in str(error)
        is_path = is_named and (isinstance(error, OSError) or set(value) & set("/\\."))  # else a column, for example
        if is_path and not os.path.isabs(value) and "://" not in value and not os.path.exists(value):
            return f"; looked for at {shown(os.path.abspath(value))}"
    return ""


_UNFINISHED = "the constructor of {} has to call super().__init__(...) before it uses what its base class provides"


def _is_unfinished(made):
    """Whether it is a module or a loader of torch whose own constructor was not called."""
    torch = sys.modules.get("torch")  # there are none of them without it
    if torch is None or not isinstance(made, (torch.nn.Module, torch.utils.data.DataLoader)):
        return False
    return ("_modules" if isinstance(made, torch.nn.Module) else "sampler") not in vars(made)


def _home(name, module, part):
    """(module to look in, name to look up) for a type name. Raises UserError for a place that is not allowed."""
    if not all(piece.isidentifier() and not piece.startswith("_") for piece in name.split(".")):
        raise UserError(f"{brief(name)} is not a name such as 'MyModel', 'mine.MyModel' or 'torch.nn.Linear'")
    place, _, attribute = name.rpartition(".")
    room = module.rpartition(".")[0]
    home = place if not place or place.startswith(f"{room}.") else f"{room}.{place}"
    if is_library(place):
        allowed = (*part.libraries, *part.factories)
        if not any(f"{place}.".startswith(f"{library}.") for library in allowed):
            places = f"it may come from {', '.join(dict.fromkeys(allowed))}" if allowed else "give one of the project"
            raise UserError(f"{name!r} is not allowed; {places}{_meant(name, part)}")
        library = place.split(".")[0]
        if source_of(library) is None:
            raise UserError(f"{name!r} needs the package {library}, which is not installed: pip install {library}")
        return place, attribute
    in_full = (*_OWN_ROOMS, _EXAMPLES) if is_library(room) else (_EXAMPLES,)
    if place in part.ready or any(place.startswith(f"{folder}.") for folder in in_full):
        return place, attribute
    if place and (not room or is_library(room)):
        own = f", or in full one of the project, such as '{_OWN_ROOMS[1]}.mine.{attribute}'" if room else ""
        raise UserError(f"{name!r} is not allowed; give a name of {module}{own}")
    if not place or home == module:
        if part.ready and find_definition(module, attribute) is None:  # which reads the source: a library's is large
            return next((other for other in part.ready if attribute in public_names(other)), module), attribute
        return module, attribute
    if source_of(home) is None:  # a file of an earlier version
        home = _MOVED.get(home, home)
    return home, attribute


def _meant(name, part, names=()):
    """ "; did you mean ...?" for a type name that is not found; else "; there are ...", if any names are known.

    names: those of the module in which it was looked up.
    """
    place, _, attribute = name.rpartition(".")
    in_reach = _names_in_reach(part)
    if place:
        close = nearest(name, [*in_reach, *(f"{place}.{other}" for other in names)], cutoff=0.7)
        if close and part.module:
            close = renamed(close, part) or close
    else:
        dotted = {other.rpartition(".")[2]: other for other in reversed(in_reach)}
        ready = [other for other in in_reach if "." not in other]
        close = dotted.get(name) or nearest(name, [*names, *ready], cutoff=0.6)
        close = close or dotted.get(nearest(name, dotted, cutoff=0.9) or "")
        fitting = [other for home in part.ready for other in public_names(home) if derives(home, other, part.bases)]
        names = dict.fromkeys([*names, *fitting])
    return f"; did you mean {close!r}?" if close else did_you_mean(attribute, names)


def _names_in_reach(part):
    """What a config may write for the section, besides the names of its own module."""
    places = dict.fromkeys(part.ready, "")
    room, source = part.module.rpartition(".")[0], source_of(part.module)
    if room and source is not None and not is_library(room):
        places |= {f"{room}.{path.stem}": f"{path.stem}." for path in sorted(source.parent.glob("*.py"))}
        places |= {example: f"{example}." for example in modules_below(_EXAMPLES)}
    places |= {place: f"{place}." for place in (*part.libraries, *part.factories)}
    return [prefix + public for place, prefix in places.items() for public in public_names(place)]


def _require_kind(found, name, home, part):
    """Raise UserError unless the section may hold the kind of class or function that a name leads to.

    The project's own definitions are trusted. What its files import, or a library holds, must be a class of one of
    the section's bases or a function of one of its factory modules: a config cannot reach `system` through a file
    that imports it.
    """
    own = _project_of(found.__module__) == _project_of(home) and not is_library(home)
    if inspect.isclass(found):
        lacking = [method for method in part.methods if own and not hasattr(found, method)]
        if lacking:
            needed = ", ".join(part.methods)
            raise UserError(f"{name!r} has no {' and no '.join(lacking)}; a class here needs {needed}")
        needs_base = part.bases and not (own and (part is OWN_SECTION or part.methods))
        # nothing can derive from a class whose module is not loaded
        bases = tuple(_import(base) for base in part.bases if base.rpartition(".")[0] in sys.modules)
        fits = issubclass(found, bases) if needs_base else own
    else:
        factory = any(f"{found.__module__}.".startswith(f"{place}.") for place in part.factories)
        fits = (own and part.functions) or factory
    passed_in = part is OWN_SECTION and "." not in name and found.__module__.split(".")[0] == home.split(".")[0]
    if not fits and not passed_in:
        kind = "class" if inspect.isclass(found) else "function"
        origin = "" if own or found.__module__ == home else f", from {found.__module__},"
        remedy = part.remedy and f": {part.remedy}"
        needed = " or ".join(part.bases) or "class"
        raise UserError(f"{name!r}{origin} is the wrong kind of {kind}; a {needed} is needed{remedy}")


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


def is_library(module: str) -> bool:
    """Whether the module belongs to a library whose names a config may use."""
    return module.split(".")[0] in _LIBRARIES
