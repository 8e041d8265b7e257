"""What the old template's own files consisted of, to tell a project's changes from them.

fingerprints.json holds, for each function of victoresque/pytorch-template from 2018 to 2020, digests of its
statements. The digests do not reveal the statements. A statement of a function that is not among them is the project's.
Of some functions it holds whole versions, too, in order, to see what a project removed. Names of variables count;
comments, docstrings, types, layout, quotes, long texts and calls that only log or print do not.
"""

import ast
import difflib
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_FINGERPRINTS = Path(__file__).with_name("fingerprints.json")
_LONG = 40  # letters; a longer text is a message
_CLOSE = 0.75  # of 1; a function less alike is of another version
_LOGS = {"debug", "info", "warning", "warn", "error", "critical"}


class Unit(NamedTuple):
    """A statement, the head of a compound one, or one entry of a dict that is assigned.

    function: its name, with its class: "BaseTrainer.train".
    """

    function: str
    node: ast.AST
    line: int
    digest: str


@functools.cache
def fingerprints() -> dict[str, frozenset[str]]:
    """Return the digests of the statements of each function of the old template."""
    known = json.loads(_FINGERPRINTS.read_text(encoding="utf-8"))["statements"]
    return {function: frozenset(digests.split()) for function, digests in known.items()}


@functools.cache
def versions() -> dict[str, list[list[str]]]:
    """Return the digests of whole versions of some functions of the old template, in order."""
    known = json.loads(_FINGERPRINTS.read_text(encoding="utf-8"))["versions"]
    return {function: [digests.split() for digests in found] for function, found in known.items()}


@functools.cache
def stock_names() -> frozenset[str]:
    """Return the names of the old template's classes and functions outside classes."""
    return frozenset(function.partition(".")[0] for function in fingerprints())


def own_units(function: str, node: ast.AST) -> list[Unit]:
    """Return the units of a function that no version of the old template had; all, if it had no such function."""
    known = fingerprints().get(function, frozenset())
    return [unit for unit in units(function, node) if unit.digest not in known]


def lines_of_gaps(function: str, node: ast.AST) -> list[int]:
    """Return the lines of a function before which statements of the old template were removed or put elsewhere.

    It is compared with the version that it is closest to. Nothing is found in functions of which no version is known,
    and in those that have little in common with any.
    """
    if function not in versions():
        return []
    found = list(units(function, node))
    digests = [unit.digest for unit in found]
    compared = [difflib.SequenceMatcher(None, version, digests, autojunk=False) for version in versions()[function]]
    closest, lines = max(compared, key=lambda one: one.ratio()), []
    if closest.ratio() < _CLOSE and function != "BaseDataLoader._split_sampler":
        return []
    for kind, _, _, start, end in closest.get_opcodes():
        replaced = any(digest not in fingerprints()[function] for digest in digests[start:end])
        if kind == "delete" or (kind == "replace" and not replaced):
            lines.append(found[start].line if start < len(found) else getattr(node, "end_lineno", 0))
    return lines


def units(function: str, node: ast.AST) -> Iterator[Unit]:
    """Yield the units of a function, in order; the first is its signature."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        head = ["def", _plain(node.args), [_plain(decorator) for decorator in node.decorator_list]]
        yield Unit(function, node, node.lineno, _digest(head))
        yield from _units_of_body(function, node.body)
        return
    bare = ast.Assign([node.target], node.value) if isinstance(node, ast.AnnAssign) and node.value else node
    if isinstance(bare, ast.Assign) and isinstance(bare.value, ast.Dict) and len(bare.value.keys) > 1:
        targets = [_plain(target) for target in bare.targets]
        for key, value in zip(bare.value.keys, bare.value.values, strict=True):
            yield Unit(function, node, value.lineno, _digest([targets, _plain(key), _plain(value)]))
        return
    bodies = [
        name for name in ("body", "orelse", "finalbody", "handlers") if isinstance(getattr(bare, name, None), list)
    ]
    head = {name: _plain(value) for name, value in ast.iter_fields(bare) if name not in bodies}
    if not isinstance(node, ast.Try):
        yield Unit(function, node, getattr(node, "lineno", 0), _digest([type(bare).__name__, head]))
    for name in bodies:
        yield from _units_of_body(function, getattr(node, name))


def _units_of_body(function, body):
    for statement in body:
        if not is_silent(statement):
            yield from units(function, statement)


def is_silent(statement: ast.AST) -> bool:
    """Whether training does not depend on a statement: a docstring, pass, print, a line of the log, a type alone."""
    if isinstance(statement, ast.Pass) or (isinstance(statement, ast.AnnAssign) and statement.value is None):
        return True
    if not isinstance(statement, ast.Expr):
        return False
    value = statement.value
    if isinstance(value, ast.Constant):
        return True
    if not isinstance(value, ast.Call):
        return False
    called = value.func
    if isinstance(called, ast.Name):
        return called.id == "print"
    return isinstance(called, ast.Attribute) and called.attr in _LOGS and "logg" in ast.unparse(called.value)


def _plain(node):
    """The node as lists, dicts and texts, the same in all versions of Python: without what is empty."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > _LONG:
        return "..."
    if isinstance(node, ast.AST):
        fields = {name: _plain(value) for name, value in ast.iter_fields(node) if name not in ("ctx", "kind")}
        if isinstance(node, ast.arg):
            fields.pop("annotation", None)
        return [type(node).__name__, {name: value for name, value in fields.items() if value not in (None, [])}]
    if isinstance(node, list):
        return [_plain(item) for item in node]
    return node if node is None else repr(node)


def _digest(plain):
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:10]
