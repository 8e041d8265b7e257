"""The annotations of parameters: whether a config's value fits one, and what becomes of a list where a Tensor fits."""

import ast
import inspect
import re
from collections.abc import Iterable
from typing import Any

_JSON_TYPES = {
    "int": int,
    "float": (int, float),
    "bool": bool,
    "str": str,
    "list": list,
    "None": type(None),
    "Tensor": (),  # a config writes it as a list of numbers
}


def accepts(parameter: inspect.Parameter, value: object) -> bool:
    """Return False only if the parameter's annotation, a Literal or a union of plain types, excludes the value."""
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


def wanted(parameter: inspect.Parameter) -> str:
    """Return what a value of the parameter should be, for a message."""
    annotation = str(parameter.annotation).strip("'\"")
    if not _takes_tensor(_members(parameter)):
        return annotation
    return f"{annotation}; write a tensor as a list of numbers, [1.0, 2.0], or of rows of equal length"


def as_arguments(parameters: Iterable[inspect.Parameter], args: dict[str, Any]) -> dict[str, Any]:
    """Return args with a float32 tensor for each list whose parameter's annotation takes a Tensor and no list."""
    lists = [p.name for p in parameters if isinstance(args.get(p.name), list) and _takes_tensor(_members(p))]
    if not lists:
        return args
    import torch  # only here: a config is checked without it

    return args | {name: torch.tensor(args[name], dtype=torch.float32) for name in lists}


def _members(parameter):
    """The types in a parameter's annotation, a union of them; "Tensor" for torch's, and "list" for one of anything."""
    text = re.sub(r"^<class '([\w.]*\bTensor)'>$", r"\1", str(parameter.annotation)).strip("'\"")
    text = re.sub(r"\b(?:\w+\.)+Tensor\b", "Tensor", text)
    text = re.sub(r"\b(?:typing\.)?[lL]ist\[\w+\]", "list", text)
    if union := re.fullmatch(r"(?:typing\.)?(Optional|Union)\[(.*)\]", text):
        text = union[2].replace(", ", " | ").replace("NoneType", "None") + " | None" * (union[1] == "Optional")
    return re.split(r"\s*\|\s*", text)


def _takes_tensor(members):
    return "Tensor" in members and set(members) <= _JSON_TYPES.keys() - {"list"}


def _shape(value):
    """The shape of nested lists of numbers, as (2, 3); None if they are ragged, empty or hold anything else."""
    if not isinstance(value, list):
        return () if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    shapes = {_shape(item) for item in value}
    shape = shapes.pop() if len(shapes) == 1 else None
    return None if shape is None else (len(value), *shape)
