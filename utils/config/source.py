"""Find a class or function in source files, importing nothing.

A misspelt name or argument is so found before torch has loaded, and no code of the config's choosing runs. What
cannot be read off the source (compiled modules, decorators, names made at run time) is left to the real look-up.
"""

import ast
import functools
import inspect
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path


@dataclass(frozen=True)
class Definition:
    """A class, a function or something else, and the parameters a caller may give, None where they are unsure."""

    kind: str  # "class", "function" or "unsure"
    parameters: tuple[inspect.Parameter, ...] | None = None

    def default(self, argument):
        """Source text of an argument's default, None where it cannot be read."""
        defaults = {parameter.name: parameter.default for parameter in self.parameters or ()}
        return defaults.get(argument)


_UNSURE = Definition("unsure")


def find_definition(module, name):
    """The Definition of a module's name, or None if the source shows that the module has no such name."""
    node, home = _find(module, name)
    if isinstance(node, ast.FunctionDef):
        return Definition("function", None if node.decorator_list else _parameters(node.args))
    if isinstance(node, ast.ClassDef):
        return Definition("class", _constructor(node, home))
    return node


def public_names(module):
    """Names of the classes and functions that a module's source defines or imports."""
    names = _read(module)
    defined = [
        name
        for name, node in names.items()
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) or (isinstance(node, tuple) and node[1])
    ]
    inherited = [name for star in names.get("*", ()) if star != module for name in public_names(star)]
    return [name for name in dict.fromkeys(defined + inherited) if not name.startswith("_")]


def modules_below(package):
    """Names of the modules in a folder of the search path and in the folders within it, found by their files."""
    spec = PathFinder.find_spec(package)
    for folder in map(Path, (spec and spec.submodule_search_locations) or ()):
        for path in sorted(folder.rglob("*.py")):
            yield ".".join([package, *path.relative_to(folder).with_suffix("").parts])


def source_of(module):
    """Path of the module's source file, or None if there is none to read."""
    search = None
    for part in module.split("."):
        spec = PathFinder.find_spec(part, search)  # its last name: a parent need not be loaded
        if spec is None:
            return None
        search = spec.submodule_search_locations
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def _find(module, name, depth=8):
    """(node or _UNSURE or None, the module that holds it)."""
    names = _read(module)
    if not names or depth == 0:
        return _UNSURE, module
    if name in names:
        node = names[name]
        if not isinstance(node, tuple):
            return node, module
        found, home = _find(*node, depth - 1) if node[1] else (_UNSURE, module)
        return (_UNSURE, module) if found is None else (found, home)
    found = [_find(star, name, depth - 1) for star in names.get("*", ())]
    for node, home in found:
        if node is not None:
            return node, home
    return None, module


@functools.cache
def _read(module):
    """{name: its class or function node, (module, name) of an import, or _UNSURE}; {} if it cannot be known.

    "*" lists the modules that the module imports all names from.
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
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            home = _absolute(node, package)
            for alias in node.names:
                if alias.name == "*":
                    names["*"].append(home)
                else:
                    names[alias.asname or alias.name] = (home, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (alias.name, "")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.setdefault(node.id, _UNSURE)
        elif isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name:
            names.setdefault(node.name, _UNSURE)
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
    """Parameters of the class's constructor without self, its own or its bases'; None where that is unsure."""
    if node.decorator_list or any(
        keyword.arg == "metaclass" and _text(keyword.value) != "ABCMeta" for keyword in node.keywords
    ):
        return None
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name in ("__init__", "__new__"):
            return None if item.decorator_list or item.name == "__new__" else _parameters(item.args)[1:]
    for base in node.bases:
        if not isinstance(base, ast.Name):
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
    keyword_only = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    found = [
        *((arg, kinds.POSITIONAL_OR_KEYWORD, default) for arg, default in zip(positional, defaults, strict=True)),
        (arguments.vararg, kinds.VAR_POSITIONAL, None),
        *((arg, kinds.KEYWORD_ONLY, default) for arg, default in keyword_only),
        (arguments.kwarg, kinds.VAR_KEYWORD, None),
    ]
    return tuple(
        kinds(arg.arg, kind, default=_text(default), annotation=_text(arg.annotation))
        for arg, kind, default in found
        if arg is not None
    )


def _text(node):
    """Source text of an expression; inspect.Parameter.empty for None."""
    return inspect.Parameter.empty if node is None else ast.unparse(node)
