"""What an older project consists of: which of its files are the old template's, and of which age."""

import ast
import re
from pathlib import PurePosixPath
from typing import NamedTuple

from scaffold.adopting.stock import fingerprints, lines_of_gaps, own_units, stock_names
from scaffold.adopting.tree import Tree

ROOMS = ("base", "logger", "utils")
BEFORE, MIDDLE, AFTER = "before 2019-09", "from 2019-09 to 2020-11", "after 2020-11"
_GONE = "statements of the template are missing before this line"
_WITH_PARSER = {"init_obj", "initialize", "from_args"}


class Source(NamedTuple):
    """A parsed file of the project. place: its path. lines: without line ends."""

    place: str
    tree: ast.Module
    lines: list[str]

    @property
    def module(self) -> str:
        """The dotted name under which it is imported."""
        path = PurePosixPath(self.place).with_suffix("")
        return ".".join(path.parent.parts if path.name == "__init__" else path.parts)

    def definitions(self) -> dict[str, ast.stmt]:
        """Return the classes and functions outside others, by name."""
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        return {node.name: node for node in self.tree.body if isinstance(node, kinds)}

    def text_of(self, node: ast.stmt) -> str:
        """Return the lines of a statement, with its decorators and the comments above it."""
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
        while first > 1 and self.lines[first - 2].lstrip().startswith("#") and not _is_heading(self.lines, first - 2):
            first -= 1
        return "\n".join(line.rstrip("\r") for line in self.lines[first - 1 : node.end_lineno])


def _is_heading(lines, index):
    """Whether a comment is the first line of a file: its encoding, or what runs it."""
    return index == 0 and re.match(r"#!|#.*coding[:=]", lines[0]) is not None


def read_sources(tree: Tree) -> tuple[dict[str, Source], dict[str, str]]:
    """Return the project's code by path, and why some of it cannot be parsed, by path."""
    sources, unread = {}, {}
    for place in tree.python_files():
        text = tree.read(place)
        if text is None:
            unread[place] = "is not UTF-8"
            continue
        text = text.removeprefix("\ufeff")  # of some editors on Windows
        try:
            sources[place] = Source(place, ast.parse(text), text.split("\n"))
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            unread[f"{place}:{line}"] = "is not code of today's Python"
    return sources, unread


def framework_of(sources: dict[str, Source]) -> dict[str, Source]:
    """Return the files among the sources that are the old template's, changed or not, by path.

    They are the files of base/, logger/ and utils/ that define one of its classes or functions, the __init__.py of
    these rooms, and the file with its ConfigParser: at the top, in a room, or in another folder if code outside that
    folder imports it.
    """
    return {place: source for place, source in sources.items() if _is_framework(source, sources)}


def _is_framework(source, sources):
    parent, name = PurePosixPath(source.place).parent.as_posix(), PurePosixPath(source.place).name
    defined = source.definitions()
    if isinstance(defined.get("ConfigParser"), ast.ClassDef):
        theirs = bool(_WITH_PARSER & _methods(defined["ConfigParser"]).keys()) or name == "parse_config.py"
        return theirs and (parent in (".", *ROOMS) or _is_imported(source, sources))
    return parent in ROOMS and (name == "__init__.py" or bool(defined.keys() & stock_names()))


def _is_imported(source, sources):
    """Whether code outside the folder of a file imports it."""
    folder = PurePosixPath(source.place).parent
    for other in sources.values():
        if folder in PurePosixPath(other.place).parents:
            continue
        for node in ast.walk(other.tree):
            if isinstance(node, ast.Import) and source.module in {alias.name for alias in node.names}:
                return True
            if isinstance(node, ast.ImportFrom):
                module = absolute(other, node)
                if source.module in {module, *(f"{module}.{alias.name}" for alias in node.names)}:
                    return True
    return False


def _methods(node):
    return {item.name: item for item in node.body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))}


def base_trainer_of(sources: dict[str, Source]) -> ast.ClassDef | None:
    """Return the definition of the project's BaseTrainer in base/; None if it has none."""
    for place, source in sources.items():
        found = source.definitions().get("BaseTrainer")
        if PurePosixPath(place).parent.as_posix() == "base" and isinstance(found, ast.ClassDef):
            return found
    return None


def nested_base(sources: dict[str, Source]) -> str | None:
    """Return the path of a file below the top whose folder is base/ and which defines BaseTrainer; None without one."""
    for place, source in sources.items():
        if PurePosixPath(place).parent.name == "base" and "BaseTrainer" in source.definitions():
            return place
    return None


def age_of(sources: dict[str, Source]) -> tuple[str, str]:
    """Return of which age the template was that the project was made from, and by what that shows.

    The trainer's constructor shows it best, then what the scripts call; a project may mix forms of several ages.
    """
    names = {
        node.attr for source in sources.values() for node in ast.walk(source.tree) if isinstance(node, ast.Attribute)
    }
    called = {
        node.func.id
        for source in sources.values()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    methods = _methods(found) if (found := base_trainer_of(sources)) else {}
    given = [argument.arg for argument in methods["__init__"].args.args] if "__init__" in methods else []
    if "get_instance" in called:
        return BEFORE, "get_instance(...) builds its parts"
    if "loss" in given and "metrics" in given:
        return BEFORE, "BaseTrainer is given loss and metrics"
    if "initialize" in names and "init_obj" not in names:
        return BEFORE, "config.initialize(...) builds its parts"
    if "_prepare_device" in methods:
        return MIDDLE, "BaseTrainer prepares the device"
    if "prepare_device" in called:
        return AFTER, "the script prepares the device"
    if "from_args" in names or "init_obj" in names:
        return MIDDLE, "config.init_obj(...) builds its parts, and nothing prepares the device"
    return BEFORE, "no part is built through the config"


def absolute(source: Source, node: ast.ImportFrom) -> str:
    """Return the absolute name of the module that a statement imports from."""
    if not node.level:
        return node.module or ""
    parts = PurePosixPath(source.place).parent.parts
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])


def changes_in(source: Source) -> list[tuple[int, str, str]]:
    """Return (line, function, text of the line) for each statement in the template's functions that is not its own."""
    found = []
    for name, node in source.definitions().items():
        if name not in stock_names():
            continue
        parts = _methods(node) if isinstance(node, ast.ClassDef) else {None: node}
        for method, function in parts.items():
            where = f"{name}.{method}" if method else name
            if where not in fingerprints():
                continue
            found += [(unit.line, where, source.lines[unit.line - 1].strip()) for unit in own_units(where, function)]
            found += [(line, where, _GONE) for line in lines_of_gaps(where, function)]
    return sorted(set(found))
