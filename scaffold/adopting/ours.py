"""What the framework offers to a project's code: its modules, their names, the members of its classes."""

import ast
import functools
import importlib
from pathlib import Path

from scaffold.adopting.stock import stock_names
from scaffold.template import TEMPLATE
from utils.old_forms.named import bound_names

# Classes of the old template that the framework has too, and from where a project imports them.
CLASSES = {
    "BaseTrainer": "base",
    "BaseDataLoader": "base",
    "BaseModel": "base",
    "ConfigParser": "parse_config",
    "MetricTracker": "utils",
    "TensorboardWriter": "logger",
}


def file_of(module: str, folder: Path = TEMPLATE) -> Path | None:
    """Return the file of a module in a folder; None if there is none."""
    path = folder.joinpath(*module.split("."))
    for place in (path.with_suffix(".py"), path / "__init__.py"):
        if place.is_file():
            return place
    return None


@functools.cache
def names_of(module: str) -> frozenset[str]:
    """Return what `from module import ...` finds in the framework; nothing if it has no such module."""
    path = file_of(module)
    if path is None:
        return frozenset()
    names = bound_names(_parsed(path))
    if path.name == "__init__.py":
        names |= {entry.stem for entry in path.parent.iterdir() if entry.suffix == ".py" or entry.is_dir()}
    if module in ("logger", "utils"):  # names that only old projects import are made when they are asked for
        loaded = importlib.import_module(module)
        names |= {name for name in stock_names() if hasattr(loaded, name)}
    return frozenset(names)


@functools.cache
def members(name: str) -> frozenset[str]:
    """Return the methods and attributes of a class of the framework, and of its classes that it is derived from."""
    found = set()
    for node in _classes(CLASSES[name], name):
        found |= {item.name for item in node.body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))}
        found |= set(stored_attributes(node))
        found |= bound_names(
            ast.Module([item for item in node.body if isinstance(item, (ast.Assign, ast.AnnAssign))], [])
        )
    return frozenset(found)


def stored_attributes(node: ast.AST) -> dict[str, int]:
    """Return {attribute: line} of what is assigned to attributes of self."""
    return _attributes(node, ast.Store)


def read_attributes(node: ast.AST) -> dict[str, int]:
    """Return {attribute: line} of the attributes of self that are used."""
    return _attributes(node, ast.Load)


def _attributes(node, context):
    found = {}
    for item in ast.walk(node):
        if isinstance(item, ast.Attribute) and isinstance(item.ctx, context) and ast.unparse(item.value) == "self":
            found.setdefault(item.attr, item.lineno)
    return found


def _classes(module, name):
    """The definition of a class that a module of the framework has or imports, and of those it is derived from."""
    path = file_of(module)
    if path is None:
        return []
    imported = {}
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return [
                node,
                *(found for base in node.bases for found in _classes(*_where(path, module, ast.unparse(base)))),
            ]
        if isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return _classes(*imported[name]) if name in imported and imported[name] != (module, name) else []


def _where(path, module, name):
    """(module, name) of a class that a file imports, or has itself."""
    for node in _parsed(path).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return node.module, alias.name
    return module, name.rpartition(".")[2]


@functools.cache
def _parsed(path):
    return ast.parse(path.read_text(encoding="utf-8-sig"))
