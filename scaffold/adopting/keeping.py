"""What a project had added to the template's files lives on in files of its own, or is listed as work."""

import ast
import builtins
from pathlib import PurePosixPath

from scaffold.adopting.kept_classes import Classes, Work
from scaffold.adopting.ours import CLASSES, bound_names, names_of, stored_attributes
from scaffold.adopting.reading import ROOMS, Source, absolute
from scaffold.adopting.stock import is_silent, own_units, stock_names
from utils.errors import shortened

_LOG = "the framework sets the log up; logger/logger_config.json says what is written where"

_AT_IMPORT = "it ran when the file was imported: put it where your script starts, if it is needed"


class Kept:
    """What of the template's files lives on.

    room: the folder that holds it. files: {path: text}. names: {(old module, name): module that has it now}. whole:
    classes of the template that are kept as a whole. exports: {package: {name: module}}, what the package's __init__.py
    is to import at its end. told: lines on what is kept. work: what is not.
    """

    def __init__(self, sources: dict[str, Source], framework: dict[str, Source], room: str) -> None:
        self.room = room
        self.files: dict[str, str] = {}
        self.names: dict[tuple[str, str], str] = {}
        self.exports: dict[str, dict[str, str]] = {}
        self.whole: set[str] = set()
        self.told: list[str] = []
        self.work: list[Work] = []
        theirs = [source.tree for place, source in sources.items() if place not in framework]
        nodes = [node for tree in theirs for node in ast.walk(tree)]
        self._used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        self._used |= {node.id for node in nodes if isinstance(node, ast.Name)}
        self._used |= {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
        stored = {name for tree in theirs for name in stored_attributes(tree)}
        for source in sorted(framework.values(), key=lambda source: "BaseTrainer" not in source.definitions()):
            self._keep(source, Classes(source, self._used, stored))  # the trainer first: what it needs is used

    def _keep(self, source, classes):
        """Keep what is the project's of one file."""
        package = source.module.partition(".")[0]
        parser = package not in ROOMS or "ConfigParser" in source.definitions()
        ours = names_of("parse_config" if parser else package)
        kept: dict[str, str] = {}  # the code of each name
        for name, node in source.definitions().items():
            if name not in stock_names():
                if name[0] != "_" or name in self._used:
                    kept[name] = source.text_of(node)
            elif name not in ours:  # the framework does without
                if name in self._used and not parser:
                    kept[name] = source.text_of(node)
            elif isinstance(node, ast.ClassDef):
                if text := classes.keep(node):
                    kept[name] = text
            elif units := own_units(name, node):
                if name == "setup_logging":
                    self.work.append(Work(f"{source.place}:{units[0].line}", f"{name} was changed: {_LOG}"))
                else:
                    kept[name] = source.text_of(node)
        self.work += classes.work
        self.whole |= classes.whole
        self._used |= _names_in({name: kept[name] for name in classes.whole & kept.keys()})
        used = self._used | _names_in(kept)
        kept |= {name: text for name, text in _constants(source).items() if name in used}
        if kept:
            self._write(source, kept, classes, package, parser, ours)
        for node in source.tree.body:
            if _acts(node) and not any(source.text_of(node) in text for text in self.files.values()):
                what = shortened(ast.unparse(node).splitlines()[0])
                self.work.append(Work(f"{source.place}:{node.lineno}", f"`{what}` is not kept; {_AT_IMPORT}"))

    def _write(self, source, kept, classes, package, parser, ours):
        """Write the file of what is kept: the imports that it needs, then its statements in their order."""
        definitions = source.definitions()
        others = {name: source.text_of(node) for name, node in definitions.items() if name not in ours}
        others |= _constants(source)
        while more := {name: others[name] for name in _names_in(kept) & others.keys() - kept.keys()}:
            kept |= more  # what is kept needs others of the same file
        texts = list(dict.fromkeys(_in_order(source, kept)))
        needed = _names_in(dict(enumerate(texts))) - kept.keys()
        lines = _imports(source, needed | {"*"})
        lines += [f"from {'parse_config' if parser else package} import {name}" for name in needed & definitions.keys()]
        lines += [f"from {CLASSES[name]} import {name} as Framework{name}" for name in classes.derived]
        lines += [line for line in classes.imports if line not in lines]
        place = self._place(source)
        head = f'"""What this project had added to or changed in its {source.place}."""'
        imports = ["\n".join(sorted(lines, key=lambda line: (line[:4] == "from", line)))] if lines else []
        self.files[place] = "\n\n".join([head, *imports, *(f"\n{text}" for text in texts)]) + "\n"
        module = place.removesuffix(".py").replace("/", ".")
        for name in kept:
            if parser or name in ours:  # the framework keeps using its own
                self.names[source.module, name] = self.names[package, name] = module
            else:
                self.names[source.module, name] = package
                self.exports.setdefault(package, {})[name] = module
        listed = [f"{name}{classes.derived.get(name, ' as a whole' if name in classes.whole else '')}" for name in kept]
        self.told.append(f"kept in {place}, of {source.place}: {', '.join(listed)}")

    def _place(self, source):
        path = PurePosixPath(source.place)
        stem = path.parent.name if path.name == "__init__.py" else path.stem
        place = f"{self.room}/{stem}.py"
        return place if place not in self.files else f"{self.room}/{path.parent.name}_{stem}.py"


def _constants(source):
    """What is assigned outside functions, {name: code}."""
    found = {}
    for node in source.tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            names = bound_names(ast.Module([node], [])) - {"__all__"}
            found.update(dict.fromkeys(names, source.text_of(node)))
    return found


def _names_in(texts):
    """Names of variables that pieces of code use; texts: a dict of these."""
    trees = [ast.parse(text) for text in texts.values()]
    used = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    return used - set(dir(builtins))


def _in_order(source, kept):
    """The code of what is kept in the order of the file, with the calls between that set something up."""
    for node in source.tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names = {node.name}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            names = bound_names(ast.Module([node], []))
        elif _is_call(node):
            yield source.text_of(node)
            continue
        else:
            continue
        yield from (kept[name] for name in sorted(names & kept.keys()))


def _is_call(node):
    """Whether a statement outside functions is one that _in_order keeps."""
    if not isinstance(node, ast.Expr) or is_silent(node):
        return False
    return not ast.unparse(node).startswith("logging.basicConfig(")  # the template's, and the framework sets the log up


def _acts(node):
    """Whether a statement outside functions does more than give names to values."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return False
    if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
        return False
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(isinstance(target, (ast.Attribute, ast.Subscript)) for target in targets)
    if isinstance(node, ast.stmt) and not isinstance(node, ast.Expr):
        return any(_acts(inner) for inner in ast.iter_child_nodes(node)) or isinstance(node, ast.Delete)
    if isinstance(node, ast.ExceptHandler):
        return any(_acts(inner) for inner in node.body)
    return _is_call(node)


def _imports(source, needed):
    """The import statements of a file that bind needed names, with absolute names of modules.

    What a call outside functions uses is needed, too.
    """
    calls = [node for node in source.tree.body if _is_call(node)]
    needed = needed | {name.id for call in calls for name in ast.walk(call) if isinstance(name, ast.Name)}
    lines = []
    for node in source.tree.body:
        if isinstance(node, ast.Import):
            lines += [
                f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
                for alias in node.names
                if (alias.asname or alias.name.partition(".")[0]) in needed
            ]
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            names = [alias for alias in node.names if (alias.asname or alias.name) in needed]
            if names and not (names[0].name == "*" and absolute(source, node).partition(".")[0] in ROOMS):
                listed = ", ".join(f"{a.name} as {a.asname}" if a.asname else a.name for a in names)
                lines.append(f"from {absolute(source, node)} import {listed}")
        elif isinstance(node, (ast.Try, ast.If)) and bound_names(ast.Module([node], [])) & needed:
            lines.append(source.text_of(node))
    return list(dict.fromkeys(lines))
