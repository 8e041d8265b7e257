"""What the framework offers to a project's code: its modules, their names, the members of its classes."""

import ast
import functools
from pathlib import Path

from scaffold.template import TEMPLATE

# Classes of the old template that the framework has too, and where.
CLASSES = {
    "BaseTrainer": "base.base_trainer",
    "BaseDataLoader": "base.base_data_loader",
    "BaseModel": "base.base_model",
    "ConfigParser": "parse_config",
    "MetricTracker": "utils.metric_tracker",
    "TensorboardWriter": "logger.visualization",
}


def file_of(module: str, folder: Path = TEMPLATE) -> Path | None:
    """Return the file of a module in a folder; None if there is none."""
    path = folder.joinpath(*module.split("."))
    for place in (path.with_suffix(".py"), path / "__init__.py"):
        if place.is_file():
            return place
    return None


def names_of(module: str, folder: Path = TEMPLATE) -> set[str]:
    """Return what `from module import ...` finds in a folder's module; nothing if there is no such module."""
    path = file_of(module, folder)
    if path is None:
        return set()
    names = bound_names(ast.parse(path.read_text(encoding="utf-8-sig")))
    if path.name == "__init__.py":
        names |= {entry.stem for entry in path.parent.iterdir() if entry.suffix == ".py" or entry.is_dir()}
    return names


def bound_names(tree: ast.Module) -> set[str]:
    """Return the names that a module has once it is imported; not those of star imports."""
    names = set()
    left: list[ast.AST] = list(tree.body)
    while left:
        node = left.pop()
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(node.name)
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names} - {"*"}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        left += ast.iter_child_nodes(node)
    return names


@functools.cache
def members(name: str) -> frozenset[str]:
    """Return the methods and attributes of a class of the framework, and of those that it is derived from here."""
    node = _class(name)
    found = {item.name for item in node.body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))}
    found |= set(stored_attributes(node))
    found |= bound_names(ast.Module([item for item in node.body if isinstance(item, (ast.Assign, ast.AnnAssign))], []))
    return frozenset(found)


@functools.cache
def read_only(name: str) -> frozenset[str]:
    """Return the properties of a class of the framework that cannot be set."""
    methods = [item for item in _class(name).body if isinstance(item, ast.FunctionDef)]
    decorated = [(method.name, ast.unparse(item)) for method in methods for item in method.decorator_list]
    settable = {method for method, by in decorated if by.endswith((".setter", "cached_property"))}
    return frozenset({method for method, by in decorated if by == "property"} - settable)


def stored_attributes(node: ast.AST) -> dict[str, int]:
    """Return {attribute: line} of what is assigned to attributes of self."""
    found = {}
    for item in ast.walk(node):
        if isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store) and _is_self(item.value):
            found.setdefault(item.attr, item.lineno)
    return found


def read_attributes(node: ast.AST) -> dict[str, int]:
    """Return {attribute: line} of the attributes of self that are used."""
    found = {}
    for item in ast.walk(node):
        if isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Load) and _is_self(item.value):
            found.setdefault(item.attr, item.lineno)
    return found


def _is_self(node):
    return isinstance(node, ast.Name) and node.id == "self"


def _class(name):
    path = file_of(CLASSES[name])
    assert path is not None
    found = [item for item in ast.parse(path.read_text()).body if isinstance(item, ast.ClassDef) and item.name == name]
    return found[0]
