"""Classes of the template that a project had made its own: when one is kept as a whole, and what that takes."""

import ast
import re

from scaffold.adopting.reading import Source
from scaffold.adopting.trainer_init import is_suited

_PARSER = "class ConfigParser(OwnConfigParser, FrameworkConfigParser):"
_READER = "from utils.runs.checkpoint import load_checkpoint"


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
    for node in ast.walk(train):
        if not isinstance(node, ast.Call) or not re.fullmatch(r"self\._\w*epoch", ast.unparse(node.func)):
            continue
        stock = ast.unparse(node.func) == "self._train_epoch" and len(node.args) + len(node.keywords) == 1
        if not stock or node in unpacked:
            return ast.unparse(node)
    return None


def repaired(source: Source, node: ast.ClassDef) -> tuple[str, list[str], bool]:
    """Return the code of a class that is kept as a whole, and the imports that it needs besides.

    A ConfigParser gets the framework's as its base, and True is returned. A MetricTracker writes into its table as
    pandas 3 allows, and a checkpoint, which pickles its config, is read without running code of the file.
    """
    text = source.text_of(node)
    if node.name == "ConfigParser":
        head = re.compile(r"^class ConfigParser\b[^:]*:", re.MULTILINE)
        return head.sub(_PARSER, text, count=1), ["from utils.old_forms.own_config import OwnConfigParser"], True
    if node.name == "MetricTracker":
        zeros = r"self._data[\1] = pd.Series(\2, index=self._data.index, dtype=object)"
        text = re.sub(r"self\._data\[(\w+)\]\.values\[:\] = (\S+)", zeros, text)
        return re.sub(r"self\._data\.(?!loc\b|at\b)(\w+)\[(\w+)\]", r'self._data.loc[\2, "\1"]', text), [], False
    if node.name == "Logger":  # of 2018, which checkpoints hold
        return f"{text}\n\n\ntorch.serialization.add_safe_globals([Logger])", ["import torch"], False
    if node.name != "BaseTrainer":
        return text, [], False
    if re.search(r"""checkpoint\[['"]logger['"]\]""", text):
        return text, [], False  # torch.load gives it the project's own Logger, which load_checkpoint does not
    text, count = re.subn(r"\btorch\.load\(([\w.]+)\)", r"load_checkpoint(\1)", text)
    return text, [_READER] if count else [], False
