"""What a project's configs name in its code: types and arguments, which --check sees only when a script builds."""

import ast
from collections.abc import Iterator
from typing import Any

from scaffold.adopting.ours import bound_names
from scaffold.adopting.reading import Source
from utils.errors import brief
from utils.nearest import nearest

_BUILDERS = {"init_obj", "init_ftn", "initialize"}


def wrong_names(config: dict[str, Any], script: Source, sources: dict[str, Source]) -> Iterator[str]:
    """Yield a line for each name in a config that the project's own module for it does not have.

    script: says which module that is, by config.init_obj("arch", module_arch), by get_instance(module_arch, "arch",
    config) or by getattr(module_loss, config["loss"]). Sections of other modules, such as torch.optim, are passed over.
    """
    modules = {source.module: source for source in sources.values()}
    for section, module in _parts(script).items():
        source, value = modules.get(module), config.get(section)
        if source is None or _is_open(source):
            continue
        if isinstance(value, dict):
            yield from _errors(f"{section}.type", value.get("type"), source)
            yield from _wrong_arguments(section, value, source)
        else:
            for name in value if isinstance(value, list) else [value]:
                yield from _errors(section, name, source)


def _parts(script):
    """{section: module} of what a script builds or looks up by name."""
    modules = {}
    for node in ast.walk(script.tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = {}
    for node in ast.walk(script.tree):
        module, section = _pair(node)
        if isinstance(node, ast.ListComp):  # [getattr(module_metric, name) for name in config["metrics"]]
            module, section = _pair(node.elt)[0], _key(node.generators[0].iter)
        if section and module in modules:
            found[section] = modules[module]
    return found


def _pair(node):
    """(module, section) of a call that builds or looks up; (None, None) for anything else."""
    if not isinstance(node, ast.Call) or len(node.args) < 2:
        return None, None
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    first, second = node.args[:2]
    if called in _BUILDERS:
        return ast.unparse(second), _text(first)
    if called == "get_instance":
        return ast.unparse(first), _text(second)
    if called == "getattr":
        return ast.unparse(first), _key(second)
    return None, None


def _key(node):
    """The key of config["key"]; None for anything else."""
    return _text(node.slice) if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "config" else None


def _text(node):
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _is_open(source):
    """Whether a module also has names that its code does not show."""
    nodes = [node for node in ast.walk(source.tree) if isinstance(node, ast.ImportFrom)]
    return any(alias.name == "*" for node in nodes for alias in node.names) or "__getattr__" in source.definitions()


def _errors(path, name, source):
    if isinstance(name, str) and name not in (known := bound_names(source.tree)):
        close = nearest(name, source.definitions() or known)
        yield f"{path}: got {brief(name)}; {source.module} has no such name" + (
            f"; did you mean {close!r}?" if close else ""
        )


def _wrong_arguments(section, value, source):
    """Lines on the arguments that the constructor of a section's type, or the function, does not take."""
    node, given = source.definitions().get(value.get("type")), value.get("args")
    if isinstance(node, ast.ClassDef):
        node = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
    if not isinstance(node, ast.FunctionDef) or node.args.kwarg or not isinstance(given, dict):
        return
    taken = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
    for name in given.keys() - set(taken):
        close = nearest(name, taken)
        yield f"{section}.args.{name}: {value['type']} takes no such argument" + (
            f"; did you mean {close!r}?" if close else ""
        )
