"""Classes of the template that a project had made its own: when one is kept as a whole, and what that takes."""

import ast
import re
from collections.abc import Sequence
from typing import NamedTuple

from scaffold.adopting.reading import Source
from scaffold.adopting.tables import written_through
from scaffold.adopting.trainer_init import is_suited

_OWN_CONFIG = "from utils.old_forms.own_config import OwnConfigParser"
_READER = "from utils.runs.checkpoint import load_checkpoint"
_READER_OF_LOGGER = "from utils.old_forms.checkpoint import torch_load"
_UNWRITTEN = (
    "MetricTracker writes `{}`, which does not change its table with pandas 3; write self._data.loc[row, column]"
)
_DECORATED = "ConfigParser is kept as a whole with @{}; look whether the class is still made as you want"
_GET = "ConfigParser.get: the framework calls get(name, default); give it a second argument, with a default"


class Repaired(NamedTuple):
    """The code of a class that is kept as a whole.

    imports: statements that it needs besides. is_derived: whether it has the framework's class as a base. left: (line
    of the file, reason) of what is left to do by hand.
    """

    code: str
    imports: Sequence[str] = ()
    is_derived: bool = False
    left: Sequence[tuple[int, str]] = ()


def takes_default(method: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a method takes a name and a default, as the framework calls config.get(name, default), or the name."""
    return len(method.args.args) == 3 and len(method.args.defaults) in (1, 2) and not method.args.kwonlyargs


def differs(node: ast.ClassDef, own: dict[str, list]) -> str | None:
    """Return why the framework's class cannot stand below a class of the project's; None if it can.

    own: {method: its statements that are not the template's}.
    """
    methods = {item.name: item for item in node.body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))}
    if node.name == "ConfigParser":
        if "__new__" in methods:
            return "has a __new__ of its own"
        for name in ("__init__", "from_args"):
            if name in methods and any(unit.node is methods[name] for unit in own[name]):
                return f"takes other arguments in {name} than the framework's"
    elif node.name == "MetricTracker":
        if own.get("__init__") or own.get("update"):
            return "counts in a way of its own"
    elif node.name == "BaseTrainer":
        if "__init__" in methods and not is_suited(methods["__init__"]):
            return "is not given a model, an optimizer and a config"
        if "train" in methods and (call := _other_epochs(methods["train"])):
            return f"runs an epoch by `{call}`"
    return None


def _other_epochs(train):
    """A call in train() by which an epoch is run that is not that of the template, as text; None without one."""
    assigned = [item for item in ast.walk(train) if isinstance(item, ast.Assign)]
    unpacked = [item.value for item in assigned if isinstance(item.targets[0], ast.Tuple)]
    calls = [node for node in ast.walk(train) if isinstance(node, ast.Call)]
    calls = [node for node in calls if re.fullmatch(r"self\._\w*epoch", ast.unparse(node.func))]
    same = [node for node in calls if ast.unparse(node.func) == "self._train_epoch"]
    same = [node for node in same if len(node.args) + len(node.keywords) == 1]
    others = [node for node in same if node in unpacked] if same else calls  # beside it, self._log_epoch(...) is none
    return ast.unparse(others[0]) if others else None


def repaired(source: Source, node: ast.ClassDef) -> Repaired:
    """Return the code of a class that is kept as a whole, as it runs with today's torch and pandas.

    A ConfigParser gets the framework's as its last base. A MetricTracker writes into its table as pandas 3 allows, and
    a checkpoint, which pickles its config, is read without running code of the file.
    """
    text = source.text_of(node)
    if node.name == "ConfigParser":
        return _parser(text, node)
    if node.name == "MetricTracker":
        code, left = written_through(text)
        first = node.end_lineno - text.count("\n") if node.end_lineno else 1
        return Repaired(code, left=[(first + line - 1, _UNWRITTEN.format(target)) for line, target in left])
    if node.name == "Logger":  # of 2018, which checkpoints hold
        allowed = f'torch.serialization.add_safe_globals([Logger, (Logger, "{source.module}.Logger")])'
        return Repaired(f"{text}\n\n\n{allowed}", ["import torch"])
    if node.name != "BaseTrainer":
        return Repaired(text)
    reader, statement = "load_checkpoint", _READER
    if re.search(r"""checkpoint\[['"]logger['"]\]""", text):  # which load_checkpoint gives as a stand-in
        reader, statement = "torch_load", _READER_OF_LOGGER
    text, count = re.subn(r"\btorch\.load\(([\w.]+)\)", rf"{reader}(\1)", text)
    return Repaired(text, [statement] if count else [])


def _parser(text, node):
    """A ConfigParser with the framework's as its last base; what it has from its own bases comes first, as before."""
    bases = [base for base in map(ast.unparse, node.bases) if base != "object"]
    keywords = [f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in node.keywords]
    given = ", ".join(["OwnConfigParser", *bases, "FrameworkConfigParser", *keywords])
    head = re.compile(r"^class ConfigParser\b[^:]*:", re.MULTILINE)
    left = [(item.lineno, _DECORATED.format(ast.unparse(item))) for item in node.decorator_list]
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "get" and not takes_default(item):
            left.append((item.lineno, _GET))
    return Repaired(head.sub(lambda _: f"class ConfigParser({given}):", text, count=1), [_OWN_CONFIG], True, left)
