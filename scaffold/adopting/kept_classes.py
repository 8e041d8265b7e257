"""What a project had changed in a class of the template: kept as a subclass of the framework's, whole, or as work."""

import ast
import re
import textwrap
from typing import NamedTuple

from scaffold.adopting.kept_folders import folder_property
from scaffold.adopting.ours import CLASSES, members, read_attributes, stored_attributes
from scaffold.adopting.reading import Source
from scaffold.adopting.stock import fingerprints, is_silent, lines_of_gaps, own_units
from scaffold.adopting.trainer_init import init_override
from scaffold.adopting.whole import differs, repaired, takes_default
from utils.errors import shortened

# A project's own version of these classes is kept as a whole: it needs nothing of the framework.
_WHOLE = {"BaseDataLoader", "BaseModel"}
_HEAVY = 15  # statements of a project's own in what the framework's BaseTrainer does itself: that is another trainer
_BASES = {"object", "Module", "DataLoader", "ABC", "ABCMeta"}  # that a class of the template may have
_KEPT = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Assign, ast.AnnAssign, ast.ClassDef)  # in the body of a class
_OVERRIDABLE = {"ConfigParser": {"init_obj", "init_ftn", "initialize", "get_logger", "__getitem__"}}
_THEIRS = {"ConfigParser": {"from_file", "__contains__", "get"}}  # which a project may have under the same name
_WRITER = "the framework's writer is used; what it lacks, self.writer.writer has, which is torch's"
_INSTEAD = {
    "BaseTrainer.train": "the framework runs the epochs; make what was added a callback (docs/callbacks.md), or "
    "move it to _train_epoch",
    "BaseTrainer._save_checkpoint": "the framework saves, and each attribute of the trainer that has state_dict and "
    "load_state_dict with it (docs/trainers.md)",
    "BaseTrainer._resume_checkpoint": "the framework restores what it has saved (docs/runs.md)",
    "BaseTrainer": "the framework does this itself; override it in your trainer if it should be done differently",
    "ConfigParser": "the framework reads the command line, and makes a run's folders when they are first asked for; do "
    "other things in the script",
    "MetricTracker": "the framework's averages are used",
    "TensorboardWriter": _WRITER,
    "WriterTensorboardX": _WRITER,
    "Logger": "the framework's is used",
}
# What the framework does for every attribute that has state_dict and load_state_dict.
_SAVERS = {"BaseTrainer._save_checkpoint", "BaseTrainer._resume_checkpoint"}
_SAVED = re.compile(
    r"""(['"]\w+['"]: |state\[['"]\w+['"]\] = )self\.\w+\.state_dict\(\),?"""
    r"""|self\.\w+\.load_state_dict\(checkpoint\[['"]\w+['"]\]\)"""
    r"""|if self\.\w+( is not None)?:|if ['"]\w+['"] in checkpoint(\.keys\(\))?:"""
)
_BY_HAND = "add it to a class of your own that is derived from the framework's, if it is needed"
_ANOTHER = (
    "BaseTrainer has {} statements of its own where the framework's trains, saves and restores, so it is kept as a "
    "whole; to get what the framework does, move them to your trainer (docs/trainers.md)"
)


_UNSUITED = (
    "{} {}, so it is kept as a whole, as your own class; it works as it did, without what the framework's does{}"
)
_LACKS = {"ConfigParser": " (--check, --set, -r auto, resuming in the run's own folder)"}


class Work(NamedTuple):
    """Something that is left to do by hand. place: "file:line". reason: what, and why."""

    place: str
    reason: str


class Classes:
    """The template's classes in one file of a project.

    used: names that the project's code uses. stored: attributes of self that it sets. derived: {class: the methods that
    are kept, as text}, of those whose changes are kept in a subclass. whole: classes that are kept as a whole. imports:
    statements that the code of these needs besides. work: what is not kept.
    """

    def __init__(self, source: Source, used: set[str], stored: set[str]) -> None:
        self.source, self._used, self._stored = source, used, stored
        self.derived: dict[str, str] = {}
        self.whole: set[str] = set()
        self.imports: list[str] = []
        self.work: list[Work] = []

    def keep(self, node: ast.ClassDef) -> str | None:
        """Return the code that keeps what is the project's of a class; None if that is nothing."""
        name = node.name
        methods = [item for item in node.body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))]
        own = {method.name: own_units(f"{name}.{method.name}", method) for method in methods}
        stock = {method.name for method in methods if f"{name}.{method.name}" in fingerprints()}
        if name not in CLASSES:  # the framework has it for old projects alone
            if name in self._used:
                return self._whole(node) if any(own.values()) else None
            for method, found in own.items():
                self._leave(f"{name}.{method}", {unit.line for unit in found})
            return None
        if why := differs(node, own):
            place = f"{self.source.place}:{node.lineno}"
            self.work.append(Work(place, _UNSUITED.format(name, why, _LACKS.get(name, ""))))
            return self._whole(node)
        gaps = {method.name: lines_of_gaps(f"{name}.{method.name}", method) for method in methods}
        init = next((method for method in methods if method.name == "__init__"), None)
        override, left = init_override(self.source, init) if name == "BaseTrainer" and init else (None, [])
        heavy = len(left) + sum(len(own[method]) for method in stock - {"__init__"}) if name == "BaseTrainer" else 0
        lost = list(_lost_of(node))
        if heavy > _HEAVY or (name in _WHOLE and (lost or any(own[method] or gaps[method] for method in stock))):
            if heavy:
                self.work.append(Work(f"{self.source.place}:{node.lineno}", _ANOTHER.format(heavy)))
            return self._whole(node)
        self.work += [Work(f"{self.source.place}:{line}", f"{name} loses {what}: {_BY_HAND}") for line, what in lost]
        self._leave(f"{name}.__init__", set(left))
        fewer = {method for method in _OVERRIDABLE.get(name, ()) if gaps.get(method)}  # kept as they are
        for method in gaps.keys() - fewer:
            lines = gaps[method]
            self._leave(f"{name}.{method}", set(lines), "statements of the template are missing before ")
        return self._derive(node, methods, own, stock, init, override, fewer)

    def _whole(self, node):
        """The code of a class that is kept as a whole, repaired for today's torch and pandas."""
        made = repaired(self.source, node)
        self.imports += made.imports
        self.whole.add(node.name)
        self.work += [Work(f"{self.source.place}:{line}", reason) for line, reason in made.left]
        if made.is_derived:
            self.derived[node.name] = " as a whole"
        return made.code

    def _derive(self, node, methods, own, stock, init, override, fewer):
        """The code of a subclass with what is the project's of a class; override: the code of its constructor.

        fewer: methods that have less than the template's, and are kept.
        """
        name = node.name
        is_plain = not any(_lost_of(node))  # in a dataclass or a NamedTuple a type alone is a field
        items = [item for item in node.body if isinstance(item, _KEPT[2:]) and not (is_plain and is_silent(item))]
        texts = {ast.unparse(item): self.source.text_of(item) for item in items}
        kept, changed, superfluous = [], {}, set()
        for method in methods:
            if name == "BaseTrainer" and method is init:
                texts |= {method.name: override} if override else {}
            elif method.name not in stock and method.name in members(name) and not _may_stay(name, method):
                reason = f"{name}.{method.name}: the framework's {name} has something of this name; choose another"
                self.work.append(Work(f"{self.source.place}:{method.lineno}", reason))
            elif name == "ConfigParser" and method.name not in stock and (made := folder_property(method, init)):
                texts[method.name], lines = made
                superfluous |= lines
            elif method.name in stock and own[method.name] and method.name not in _OVERRIDABLE.get(name, ()):
                lines = {unit.line for unit in own[method.name]}
                saved = {line for line in lines if _SAVED.fullmatch(self.source.lines[line - 1].strip())}
                superfluous |= saved if f"{name}.{method.name}" in _SAVERS else set()
                changed[method.name] = lines
            elif method.name not in stock or own[method.name] or self._lost(name, method.name) or method.name in fewer:
                texts[method.name] = self.source.text_of(method)
                kept.append(method)
        for method, lines in changed.items():
            self._leave(f"{name}.{method}", lines - superfluous)
        if not texts:
            return None
        body = "\n\n".join(textwrap.indent(textwrap.dedent(text.expandtabs(4)), "    ") for text in texts.values())
        code = f"class {name}(Framework{name}):\n{body}"
        self.derived[name] = f", a subclass with {', '.join(texts)}"
        self._check_attributes(name, kept, ast.parse(code))
        return code

    def _lost(self, name, method):
        """Whether the project calls a method of the template's class that the framework's does not have."""
        return method in self._used and method not in members(name) and not method.startswith("__")

    def _check_attributes(self, name, methods, code):
        """List attributes as work that kept methods read, and that nothing else sets any more."""
        functions = {item.name: item for item in ast.walk(code) if isinstance(item, _KEPT[:2])}
        known = members(name) | self._stored | functions.keys()
        known |= {"device", "loss", "metrics"} if name == "BaseTrainer" else set()
        for method in methods:
            others = [function for other, function in functions.items() if other != method.name]
            set_elsewhere = {attribute for function in others for attribute in stored_attributes(function)}
            for attribute, line in read_attributes(method).items():
                magic = attribute.startswith("__") and attribute.endswith("__")
                if attribute not in known | set_elsewhere and not magic:
                    reason = f"{name}.{method.name} reads self.{attribute}, which the framework's {name} does not set"
                    self.work.append(Work(f"{self.source.place}:{line}", reason))

    def _leave(self, function, lines, what=""):
        """List lines of a function that are not kept as work; what: what they are, if not the project's own."""
        if not lines:
            return
        different = sorted(lines)
        named = ", ".join(map(str, different[:8])) + (", ..." if len(different) > 8 else "")
        what += f"line{'s' if len(different) > 1 else ''} {named} of {function}"
        reason = _INSTEAD.get(function) or _INSTEAD[function.partition(".")[0]]
        self.work.append(Work(f"{self.source.place}:{different[0]}", f"{what}: {reason}"))


def _may_stay(name, method):
    """Whether a method of the project's may stand in place of the framework's of the same name."""
    return method.name in _THEIRS.get(name, ()) and (method.name != "get" or takes_default(method))


def _lost_of(node):
    """(line, what) of each part of a class that a subclass of the framework's would not have."""
    given = [*node.bases, *(keyword.value for keyword in node.keywords), *node.decorator_list]
    for item in given:
        if item in node.decorator_list or ast.unparse(item).rpartition(".")[2] not in _BASES:
            yield item.lineno, ast.unparse(item)
    for item in node.body:
        if not isinstance(item, _KEPT) and not is_silent(item):
            yield item.lineno, f"`{shortened(ast.unparse(item).splitlines()[0])}`"
