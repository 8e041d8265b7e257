"""Bind the args of a config to the parameters of a class or function, check them, and call it."""

import ast
import inspect
import re
import sys
from collections.abc import Collection, Iterable
from typing import Any

from utils.config.types import is_library, signature_of
from utils.errors import UserError, brief
from utils.nearest import did_you_mean


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
    free = {p.name: p for p in free[given:] if p.name not in by_name}
    errors = []
    for key, value in args.items():
        if key in free and not _accepts(free[key], value):
            errors.append(f"{key}: got {brief(value)}; it should be {_wanted(free[key])}")
        elif key not in free and not open_ended:
            errors.append(f"{key}: no such argument{did_you_mean(key, list(free)) if free else '; it takes none'}")
    missing = [p.name for p in free.values() if p.default is inspect.Parameter.empty and p.name not in args]
    return errors + [f"{name}: missing; it has no default" for name in missing if whole]


def as_arguments(parameters: Iterable[inspect.Parameter], args: dict[str, Any]) -> dict[str, Any]:
    """Return args with a float32 tensor for each list whose parameter's annotation takes a Tensor and no list."""
    lists = [p.name for p in parameters if isinstance(args.get(p.name), list) and _takes_tensor(_members(p))]
    if not lists:
        return args
    import torch  # only here: a config is checked without it

    return args | {name: torch.tensor(args[name], dtype=torch.float32) for name in lists}


def call(path: str, found: Any, args: Iterable[Any], keywords: dict[str, Any]) -> Any:
    """Return found(*args, **keywords); an error about its arguments becomes a UserError that names their place.

    So does a class that lacks a method which its base demands, or whose constructor does not call that of its base.
    """
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(found.__abstractmethods__))
        raise UserError(f"{path}.type: {found.__name__} lacks {lacking}, which its base class demands")
    try:
        made = found(*args, **keywords)
    except OSError as error:
        raise UserError(f"{path}: {found.__name__}: {error}") from error
    except AttributeError as error:
        if inspect.isclass(found) and (_is_unfinished(error.obj) or "before Module.__init__() call" in str(error)):
            raise UserError(f"{path}.type: {_UNFINISHED.format(found.__name__)}: {error}") from error
        raise
    except (ValueError, TypeError, ImportError, ArithmeticError, LookupError, RuntimeError) as error:
        if not isinstance(error, UserError) and not is_library(found.__module__):
            raise
        names_it = str(error).partition(":")[0] in {parameter.name for parameter in signature_of(found)}
        raise UserError(f"{path}.args.{error}" if names_it else f"{path}.args: {found.__name__}: {error}") from error
    if _is_unfinished(made):
        raise UserError(f"{path}.type: {_UNFINISHED.format(found.__name__)}")
    return made


_UNFINISHED = "the constructor of {} has to call super().__init__(...) before it uses what its base class provides"


def _is_unfinished(made):
    """Whether it is a module or a loader of torch whose own constructor was not called."""
    torch = sys.modules.get("torch")  # there are none of them without it
    if torch is None or not isinstance(made, (torch.nn.Module, torch.utils.data.DataLoader)):
        return False
    return ("_modules" if isinstance(made, torch.nn.Module) else "sampler") not in vars(made)


_JSON_TYPES = {
    "int": int,
    "float": (int, float),
    "bool": bool,
    "str": str,
    "list": list,
    "None": type(None),
    "Tensor": (),  # a config writes it as a list of numbers
}


def _accepts(parameter, value):
    """False only if the parameter's annotation, a Literal or a union of plain types, excludes the value."""
    literal = re.fullmatch(r"(?:typing\.)?Literal(\[.*\])", str(parameter.annotation))
    if literal:
        return value in ast.literal_eval(literal[1])
    members = _members(parameter)
    if not set(members) <= _JSON_TYPES.keys():
        return True
    if value is None:
        return "None" in members or parameter.default in ("None", None)
    if isinstance(value, bool):
        return "bool" in members
    if isinstance(value, list) and _takes_tensor(members):
        return _shape(value) is not None
    if not isinstance(value, (int, float, str, list, dict)):  # an object that a script passes
        return True
    return any(isinstance(value, _JSON_TYPES[member]) for member in members)


def _members(parameter):
    """The types in a parameter's annotation, a union of them; "Tensor" for torch's, and "list" for one of anything."""
    text = re.sub(r"^<class '([\w.]*\bTensor)'>$", r"\1", str(parameter.annotation)).strip("'\"")
    text = re.sub(r"\b(?:\w+\.)+Tensor\b", "Tensor", text)
    if union := re.fullmatch(r"(?:typing\.)?(Optional|Union)\[(.*\bTensor\b.*)\]", text):
        text = union[2].replace(", ", " | ").replace("NoneType", "None") + " | None" * (union[1] == "Optional")
    return re.split(r"\s*\|\s*", re.sub(r"\blist\[\w+\]", "list", text))


def _takes_tensor(members):
    return "Tensor" in members and set(members) <= _JSON_TYPES.keys() - {"list"}


def _wanted(parameter):
    if not _takes_tensor(_members(parameter)):
        return parameter.annotation
    return f"{parameter.annotation}; write a tensor as a list of numbers, [1.0, 2.0], or of rows of equal length"


def _shape(value):
    """The shape of nested lists of numbers, as (2, 3); None if they are ragged, empty or hold anything else."""
    if not isinstance(value, list):
        return () if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    shapes = {_shape(item) for item in value}
    shape = shapes.pop() if len(shapes) == 1 else None
    return None if shape is None else (len(value), *shape)
