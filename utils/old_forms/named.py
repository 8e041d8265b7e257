"""What a project's configs name in its code: types and arguments, which --check sees only when a script builds."""

import ast
import importlib
import inspect
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from utils.errors import brief
from utils.nearest import nearest
from utils.signatures import signature

_BUILDERS = {"init_obj", "init_ftn", "initialize"}


def wrong_names_of_script(config: dict[str, Any]) -> list[str]:
    """Return the lines of wrong_names for the script that runs; its modules lie beside it."""
    script = Path(sys.argv[0])
    tree = _read(script) if script.suffix == ".py" else None
    if tree is None:
        return []

    def read(module):
        path = script.parent.joinpath(*module.split("."))
        return _read(path.with_suffix(".py")) or _read(path / "__init__.py")

    return list(wrong_names(config, tree, read))


def _read(path):
    """The code of a file; None if it cannot be read."""
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None


def wrong_names(config: dict[str, Any], script: ast.Module, read: Callable[[str], ast.Module | None]) -> Iterator[str]:
    """Yield a line for each name in a config that the module for it, of the project or of torch, does not have.

    script: says which module that is, by config.init_obj("arch", module_arch), by get_instance(module_arch, "arch",
    config) or by getattr(module_loss, config["loss"]). read: returns the code of a module of the project, None for
    another. Passed over are sections of other modules, those that the script looks up in more than one, and types with
    a dot, which init_obj looks up elsewhere.
    """
    for section, module in _parts(script).items():
        value, tree = config.get(section), read(module)
        if isinstance(value, dict) and not isinstance(value.get("type"), str):
            continue
        if tree is None and module.partition(".")[0] == "torch" and isinstance(value, dict):
            yield from _wrong_in_torch(section, value, module)
        if tree is None or _is_open(tree):
            continue
        if isinstance(value, dict):
            yield from _errors(f"{section}.type", value.get("type"), module, tree)
            yield from _wrong_arguments(section, value, definitions(tree))
        else:
            for name in value if isinstance(value, list) else [value]:
                yield from _errors(section, name, module, tree)


def definitions(tree: ast.Module) -> dict[str, ast.stmt]:
    """Return the classes and functions outside others, by name."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name: node for node in tree.body if isinstance(node, kinds)}


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


def _parts(script):
    """{section: module} of what a script builds or looks up by name in one module alone."""
    imported = defaultdict(set)  # a script may import one of two modules under the same name
    for node in ast.walk(script):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                imported[alias.asname or top].add(alias.name if alias.asname else top)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                imported[alias.asname or alias.name].add(None if node.level else f"{node.module}.{alias.name}")
    found = defaultdict(set)  # with None for what is not such a module
    for node in ast.walk(script):
        module, section = _pair(node)
        if isinstance(node, ast.ListComp) and _called(node.elt) == "getattr":
            module, section = _pair(node.elt)[0], _key(node.generators[0].iter)  # for name in config["metrics"]
        head, _, rest = (module or "").partition(".")
        for whole in imported.get(head, {None}):
            found[section].add(f"{whole}.{rest}" if whole and rest else whole)
    single = {section: modules.pop() for section, modules in found.items() if len(modules) == 1}
    return {section: module for section, module in single.items() if section and module}


def _called(node):
    """The last name of the function that a call calls; "" for anything else."""
    function = node.func if isinstance(node, ast.Call) else None
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _pair(node):
    """(module, section) of a call that builds or looks up, module being None if unknown; else (None, None)."""
    called = _called(node)
    if called not in {*_BUILDERS, "get_instance", "getattr"} or not node.args:
        return None, None
    first, second = [*node.args, None][:2]
    if called in _BUILDERS:
        return second and ast.unparse(second), _text(first)
    if called == "get_instance":
        return ast.unparse(first), _text(second)
    return ast.unparse(first) if len(node.args) == 2 else None, _key(second)  # a default may be looked up elsewhere


def _key(node):
    """The key of config["key"]; None for anything else."""
    return _text(node.slice) if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "config" else None


def _text(node):
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _is_open(tree):
    """Whether a module also has names that its code does not show."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return any(alias.name == "*" for node in nodes for alias in node.names) or "__getattr__" in definitions(tree)


def _errors(path, name, module, tree):
    if isinstance(name, str) and "." not in name and name not in (known := bound_names(tree)):
        yield f"{path}: got {brief(name)}; {module} has no such name" + _meant(name, definitions(tree) or known)


def _meant(name, names):
    close = nearest(name, names)
    return f"; did you mean {close!r}?" if close else ""


def _wrong_arguments(section, value, defined):
    """Lines on the arguments that the constructor of a section's type, or the function, does not take."""
    node, given = defined.get(value.get("type")), value.get("args")
    if isinstance(node, ast.ClassDef):
        node = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
    if not isinstance(node, ast.FunctionDef) or node.args.kwarg or not isinstance(given, dict):
        return
    taken = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
    yield from _not_taken(section, value, taken)


def _not_taken(section, value, taken):
    for name in [key for key in value["args"] if key not in taken]:
        yield f"{section}.args.{name}: {value['type']} takes no such argument" + _meant(name, taken)


def _wrong_in_torch(section, value, module):
    """Lines on a type that a module of torch does not have, and on arguments that its constructor does not take."""
    try:
        found = vars(importlib.import_module(module))
    except ImportError:
        return
    name, public = value["type"], [other for other in found if other[0].isupper()]
    if "." not in name and name not in found:
        yield f"{section}.type: got {brief(name)}; {module} has no such name" + _meant(name, public)
    elif inspect.isclass(kind := found.get(name)) and isinstance(value.get("args"), dict):
        parameters = signature(kind).parameters
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            yield from _not_taken(section, value, list(parameters))
