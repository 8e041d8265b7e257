"""Imports of the template's modules in a project's code: rewritten to what the framework calls them, and checked."""

import ast
import builtins
from typing import NamedTuple

from scaffold.adopting.keeping import Kept
from scaffold.adopting.kept_classes import Work
from scaffold.adopting.ours import bound_names, file_of, names_of
from scaffold.adopting.reading import ROOMS, Source, absolute

PACKAGES = (*ROOMS, "parse_config")


class Rewritten(NamedTuple):
    """A statement that was rewritten. place: "file:line"."""

    place: str
    before: str
    after: str


class Names:
    """Where the names are that the old template's modules had.

    sources: the project's code before the move. framework: those that were the template's. moved: {old module: new
    module} of the project's files that had to make room for the framework's.
    """

    def __init__(
        self, sources: dict[str, Source], framework: dict[str, Source], kept: Kept, moved: dict[str, str]
    ) -> None:
        self._sources = {source.module: source for source in sources.values()}
        self.replaced = {source.module for source in framework.values()}
        self.kept, self.moved = kept, moved
        self.exports = {package: set(names_of(package)) | set(kept.exports.get(package, ())) for package in ROOMS}
        self.exports["parse_config"] = set(names_of("parse_config"))
        self._export_files_that_stay(framework)

    def _export_files_that_stay(self, framework):
        """Keep exporting from the packages what they had exported of the project's own files."""
        for source in framework.values():
            if source.module not in ROOMS:
                continue
            for node in source.tree.body:
                if not isinstance(node, ast.ImportFrom):
                    continue
                module = absolute(source, node)
                if module in self.replaced or (module.partition(".")[0] in ROOMS and module not in self._sources):
                    continue
                names = {alias.asname or alias.name for alias in node.names}
                if "*" in names:
                    names = set(self._sources[module].definitions()) if module in self._sources else set()
                for name in names - self.exports[source.module]:
                    self.kept.exports.setdefault(source.module, {})[name] = self.moved.get(module, module)
                    self.exports[source.module].add(name)

    def home(self, module: str, name: str) -> str | None:
        """Return the module from which a name of a module is now imported; None if no module has it."""
        if module in self.moved:
            return self.moved[module]
        if (module, name) in self.kept.names:
            return self.kept.names[module, name]
        if f"{module}.{name}" in self._sources and f"{module}.{name}" not in self.replaced:
            return module
        package = self.package_of(module)
        if module in self.replaced:
            if name in self.exports[package]:
                return package
            return module if name in names_of(module) else None
        if module in PACKAGES:
            return module if name in self.exports[module] else None
        return module if module in self._sources or name in names_of(module) else None

    def source(self, module: str) -> Source:
        """Return the file that had the old module."""
        return self._sources[module]

    def package_of(self, module: str) -> str:
        """Return the module of the framework that has what an old module had."""
        parser = module in self.replaced and "ConfigParser" in self._sources[module].definitions()
        return "parse_config" if parser else module.partition(".")[0]

    def star(self, module: str) -> dict[str, tuple[str, ast.stmt | None]]:
        """Return what a star import of an old module brought: {name: (module, or the import statement it came by)}."""
        source = self._sources.get(module)
        if source is None:
            return {}
        found: dict[str, tuple[str, ast.stmt | None]] = {}
        for node in source.tree.body:
            if isinstance(node, ast.ImportFrom) and [alias.name for alias in node.names] == ["*"]:
                if (inner := absolute(source, node)) != module:
                    found |= self.star(inner)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                found |= dict.fromkeys(bound_names(ast.Module([node], [])), (module, node))
        assigned = [node for node in source.tree.body if isinstance(node, (ast.Assign, ast.AnnAssign))]
        own = {*source.definitions(), *bound_names(ast.Module(list(assigned), []))}
        return {name: what for name, what in (found | dict.fromkeys(own, (module, None))).items() if name[0] != "_"}


def concerned(module: str, names: Names) -> bool:
    """Whether imports from a module may have to be rewritten."""
    return module in names.moved or module in names.replaced or module in ROOMS


def rewrite(source: Source, names: Names) -> tuple[str, list[Rewritten], list[Work]]:
    """Return the text of a file with its imports of the template's modules rewritten, and what was rewritten.

    The work is what it imports that the framework does not have.
    """
    lines, done, work = list(source.lines), [], []
    renamed = dict(_renamed(source, names))
    for node in ast.walk(source.tree):  # before imports are rewritten, which moves lines
        if isinstance(node, ast.Attribute) and isinstance(node.value, (ast.Name, ast.Attribute)):
            module, index = ast.unparse(node.value), node.lineno - 1
            module = renamed.get(module, module)
            package = names.package_of(module)
            home = names.home(module, node.attr) if module in {*PACKAGES, *names.replaced} else None
            if module in names.replaced - set(PACKAGES):  # utils.util.f, after import utils.util
                lines[index] = lines[index].replace(f"{module}.{node.attr}", f"{package}.{node.attr}")
            if home not in (None, module, *PACKAGES):
                reason = f"{module}.{node.attr} is the framework's there; yours is {home}.{node.attr}"
                work.append(Work(f"{source.place}:{node.lineno}", reason))
    for node in sorted(_imports_in(source.tree), key=lambda node: -node.lineno):
        if source.place in names.kept.files and (node.names[0].asname or "").startswith("Framework"):
            continue  # what a kept class is derived from
        if isinstance(node, ast.ImportFrom):
            new, missing = _from(source, node, names)
        else:
            new, missing = _plain(node, names)
        work += [Work(f"{source.place}:{node.lineno}", text) for text in missing]
        if new is None:
            continue
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        before = " ".join(" ".join(line.split()) for line in lines[first : last + 1])
        head, tail = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
        if head.strip() or tail.strip().startswith((";", "\\")):
            reason = f"more than one statement in a line; import what it needs in lines of their own: {'; '.join(new)}"
            work.append(Work(f"{source.place}:{node.lineno}", reason))
            continue
        end = "\r" if lines[first].endswith("\r") else ""
        comment = f"  {tail.strip()}" if tail.strip() else ""
        written = [new[0] + comment, *new[1:]] if new else ["pass"]
        lines[first : last + 1] = [f"{head}{line}{end}" for line in written]
        done.append(Rewritten(f"{source.place}:{node.lineno}", before, "; ".join(new) or "nothing of it is used"))
    return "\n".join(lines), done[::-1], sorted(work, key=lambda item: int(item.place.rpartition(":")[2]))


def _renamed(source, names):
    """(variable, module) of each of the template's modules that a file imports under a name of its own."""
    for node in _imports_in(source.tree):
        for alias in node.names:
            module = f"{absolute(source, node)}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
            if module in names.replaced and (alias.asname or isinstance(node, ast.ImportFrom)):
                yield alias.asname or alias.name, module


def _imports_in(tree):
    return [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]


def _from(source, node, names):
    """The statements that replace `from ... import ...`, None if it stays, and the names that are not there."""
    module = absolute(source, node)
    relocated = bool(node.level and module) and source.module in names.moved  # its folder is another one now
    if not concerned(module, names):
        listed = ", ".join(f"{alias.name} as {alias.asname}" if alias.asname else alias.name for alias in node.names)
        return [f"from {module} import {listed}"] if relocated else None, []
    if node.names[0].name == "*":
        return _star(source, module, names)
    homes, missing, lines = {}, [], []
    for alias in node.names:
        text = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
        inner = f"{module}.{alias.name}"
        if inner in names.replaced and (module, alias.name) not in names.kept.names:
            lines.append(f"import {names.package_of(inner)} as {alias.asname or alias.name}")
            continue
        if inner in names.moved:
            parent, _, last = names.moved[inner].rpartition(".")
            lines.append(f"from {parent} import {last} as {alias.asname or alias.name}")
            continue
        home = names.home(module, alias.name)
        if home is None:
            missing.append(f"{module} has no {alias.name}: the framework does not have it")
        homes.setdefault(home or module, []).append(text)
    lines += [f"from {home} import {', '.join(texts)}" for home, texts in homes.items()]
    same = not lines or lines == [f"from {module} import {', '.join(homes.get(module, []))}"]
    return (None if same and not (relocated and lines) else lines), missing


def _star(source, module, names):
    """Explicit imports of what a file uses of a star import."""
    found = names.star(module) or dict.fromkeys(names.exports.get(module, ()), (module, None))
    if source.place.endswith("__init__.py"):
        used = {name for name, (_, node) in found.items() if node is None}
    else:
        loaded = {node.id for node in ast.walk(source.tree) if isinstance(node, ast.Name)} - set(dir(builtins))
        used = loaded & found.keys() - bound_names(source.tree)
    homes, statements, missing = {}, [], []
    for name in sorted(used):
        origin, node = found[name]
        home = names.home(origin, name)
        if node is not None and home is None:
            statements += [line for line in _one_import(names, origin, node, name) if line not in statements]
        elif home is None:
            missing.append(f"{origin} has no {name}: the framework does not have it")
        else:
            homes.setdefault(home, []).append(name)
    return [*statements, *(f"from {home} import {', '.join(texts)}" for home, texts in homes.items())], missing


def _one_import(names, module, node, name):
    """The import of one name that came through a star import."""
    for alias in node.names:
        if (alias.asname or alias.name.partition(".")[0]) != name:
            continue
        text = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
        if isinstance(node, ast.Import):
            yield f"import {text}"
        else:
            yield f"from {absolute(names.source(module), node)} import {text}"


def _plain(node, names):
    """The statements that replace `import ...`, None if it stays, and the names that are not there."""
    lines = []
    for alias in node.names:
        module = names.moved.get(alias.name, alias.name)
        if alias.name in names.replaced and (alias.asname or file_of(alias.name) is None):
            module = names.package_of(alias.name)  # which alone has the old forms
        lines.append(f"import {module}" + (f" as {alias.asname}" if alias.asname else ""))
    same = lines == [f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "") for alias in node.names]
    return (None if same else lines), []
