"""Find a class or function in source files, importing nothing.

So a misspelt name or argument is found before torch has loaded, and no code that a config names runs. What the source
does not show (compiled modules, decorators, names made at run time) is left to the look-up by import.
"""

import ast
import functools
import inspect
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path


@dataclass(frozen=True)
class Definition:
    """A class, a function or something else, and the parameters that a caller may give."""

    kind: str  # "class", "function" or "unsure"
    parameters: tuple[inspect.Parameter, ...] | None = None  # None if the source does not show them

    def default(self, argument: str) -> str | None:
        """Return the source text of an argument's default; None if there is no such argument."""
        defaults = {parameter.name: parameter.default for parameter in self.parameters or ()}
        return defaults.get(argument)


_UNSURE = Definition("unsure")


def find_definition(module: str, name: str) -> Definition | None:
    """Return the Definition of a module's name; None if the source shows that the module has no such name."""
    node, home = _find(module, name)
    if isinstance(node, ast.FunctionDef):
        return Definition("function", None if node.decorator_list else _parameters(node.args))
    if isinstance(node, ast.ClassDef):
        return Definition("class", _constructor(node, home))
    return node


def derives(module: str, name: str, bases: Collection[str]) -> bool:
    """Whether the source shows that a module's name is a class derived from one of the bases, dotted names."""
    node, home = _find(module, name)
    for base in node.bases if isinstance(node, ast.ClassDef) else ():
        if isinstance(base, ast.Name) and base.id != node.name:
            above, home_above = _find(home, base.id)
            if isinstance(above, ast.ClassDef) and f"{home_above}.{above.name}" in bases:
                return True
            if derives(home, base.id, bases):
                return True
    return False


@functools.cache
def public_names(module: str) -> tuple[str, ...]:
    """Return the names of the classes and functions that a module's source defines or imports."""
    names = _read(module)
    defined = [
        name
        for name, node in names.items()
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) or (isinstance(node, tuple) and _is_no_module(*node))
    ]
    inherited = [name for star in names.get("*", ()) if star != module for name in public_names(star)]
    return tuple(name for name in dict.fromkeys(defined + inherited) if not name.startswith("_"))


def _is_no_module(module, name):
    """Whether an import brings a class or a function, as far as files show it: `from torch import nn` does not."""
    return bool(name) and source_of(f"{module}.{name}") is None


def modules_below(package: str) -> Iterator[str]:
    """Yield the names of the modules in a package and its subfolders, found by their files."""
    spec = PathFinder.find_spec(package)
    for folder in map(Path, (spec and spec.submodule_search_locations) or ()):
        for path in sorted(folder.rglob("*.py")):
            yield ".".join([package, *path.relative_to(folder).with_suffix("").parts])


def source_of(module: str) -> Path | None:
    """Return the path of the module's source file; None if there is none to read."""
    search = None
    for part in module.split("."):
        spec = PathFinder.find_spec(part, search)  # by the last part of its name, so that no parent is imported
        if spec is None:
            return None
        search = spec.submodule_search_locations
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def _find(module, name, depth=8):
    """(the name's node, _UNSURE or None; the module that holds it)."""
    names = _read(module)
    if not names or depth == 0:
        return _UNSURE, module
    if name in names:
        node = names[name]
        if not isinstance(node, tuple):
            return node, module
        found, home = _find(node[0], node[1], depth - 1) if node[1] else (_UNSURE, module)
        return (_UNSURE, module) if found is None else (found, home)
    for star in names["*"]:
        node, home = _find(star, name, depth - 1)
        if node is not None:
            return node, home
    return None, module


@functools.cache
def _read(module):
    """{name: its class or function node, (module, name) of an import, or _UNSURE}; {} if the source does not show it.

    "*" lists the modules from which the module imports all names.
    """
    path = source_of(module)
    if path is None:
        return {}
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (OSError, ValueError, SyntaxError):
        return {}
    if any(sign in source for sign in ("globals()", "sys.modules", "def __getattr__", "exec(")):
        return {}
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names = {"*": []}
    for node in _outside_definitions(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef():
                names[node.name] = node
            case ast.ImportFrom():
                home = _absolute(node, package)
                names["*"] += [home for alias in node.names if alias.name == "*"]
                names |= {alias.asname or alias.name: (home, alias.name) for alias in node.names if alias.name != "*"}
            case ast.Import():
                names |= {alias.asname or alias.name.partition(".")[0]: (alias.name, "") for alias in node.names}
            case ast.Name(id=name, ctx=ast.Store()) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                names.setdefault(name, _UNSURE)
    return names


def _outside_definitions(tree):
    """All nodes of a module in their order, but for those within classes and functions."""
    left = [tree]
    while left:
        node = left.pop()
        yield node
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            left += reversed(list(ast.iter_child_nodes(node)))


def _absolute(node, package):
    """Full name of the module that a from-import reads."""
    if not node.level:
        return node.module
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])


def _constructor(node, home):
    """Parameters of the class's own or inherited constructor without self; None if the source does not show them."""
    if node.decorator_list or any(
        keyword.arg == "metaclass" and _text(keyword.value) != "ABCMeta" for keyword in node.keywords
    ):
        return None
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name in ("__init__", "__new__"):
            return None if item.decorator_list or item.name == "__new__" else _parameters(item.args)[1:]
    for base in node.bases:
        if not isinstance(base, ast.Name) or base.id == node.name:  # imported under the same name
            return None
        above, home_above = _find(home, base.id)
        if not isinstance(above, ast.ClassDef):
            return None
        parameters = _constructor(above, home_above)
        if parameters is None or parameters:
            return parameters
    return ()


def _parameters(arguments):
    """inspect.Parameters of a function's arguments; annotations and defaults are source text, not evaluated."""
    kinds = inspect.Parameter
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    found = [(arg, kinds.POSITIONAL_OR_KEYWORD, default) for arg, default in zip(positional, defaults, strict=True)]
    found += [(arguments.vararg, kinds.VAR_POSITIONAL, None)]
    keyword_only = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    found += [(arg, kinds.KEYWORD_ONLY, default) for arg, default in keyword_only]
    found += [(arguments.kwarg, kinds.VAR_KEYWORD, None)]
    return tuple(
        kinds(arg.arg, kind, default=_text(default), annotation=_text(arg.annotation))
        for arg, kind, default in found
        if arg is not None
    )


def _text(node):
    """Source text of an expression; inspect.Parameter.empty for None."""
    return inspect.Parameter.empty if node is None else ast.unparse(node)
