"""The constructor of a project's own BaseTrainer, as that of a subclass of the framework's."""

import ast
import builtins
import textwrap

from scaffold.adopting.ours import bound_names, stored_attributes
from scaffold.adopting.reading import Source
from scaffold.adopting.stock import Unit, own_units

_NEEDED = ("model", "optimizer", "config")  # without these the framework's trainer is another one
_ROLES = {
    "model": ("model",),
    "criterion": ("criterion", "loss", "loss_fn", "loss_ftn", "criterions", "losses"),
    "metric_ftns": ("metric_ftns", "metrics", "metric_fns", "metric"),
    "optimizer": ("optimizer", "optimizers"),
    "config": ("config",),
}
_INSTEAD = {"criterion": "None", "metric_ftns": "[]"}  # of an argument that the project's constructor does not have
# What the framework's constructor sets.
_SET = {
    "config",
    "logger",
    "model",
    "criterion",
    "metric_ftns",
    "optimizer",
    "epochs",
    "save_period",
    "monitor",
    "writer",
}
_SET |= {
    "mnt_mode",
    "mnt_metric",
    "mnt_best",
    "early_stop",
    "start_epoch",
    "checkpoint_dir",
    "device",
    "loss",
    "metrics",
}


def init_override(source: Source, method: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str | None, list[int]]:
    """Return the code of a constructor that keeps what the project had added, and the lines that it cannot keep.

    None where the framework's constructor will do. A statement is kept that is the project's as a whole and sets
    nothing that the framework sets, with the template's assignments to variables that it uses.
    """
    own = own_units("BaseTrainer.__init__", method)
    taken = {name: _taken(method, names) for name, names in _ROLES.items()}
    changed_signature = any(unit.node is method for unit in own)
    if not all(taken[name] for name in _NEEDED):
        return None, [unit.line for unit in own]
    kept, left = _kept_statements(source, method, own)
    if not kept and not changed_signature:
        return None, left
    given = [taken[name] or _INSTEAD[name] for name in _ROLES]
    if _taken(method, ["resume"]):  # until September 2019: (..., optimizer, resume, config, train_logger)
        given.insert(4, "resume")
        given += [name] if (name := _taken(method, ["train_logger"])) else []
    lines = [f"def __init__({ast.unparse(method.args)}):", f"    super().__init__({', '.join(given)})"]
    texts = [textwrap.indent(textwrap.dedent(source.text_of(statement)), "    ") for statement in kept]
    return "\n".join([*lines, *texts]), left


def is_suited(method: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a constructor is given what the framework's BaseTrainer needs."""
    return all(_taken(method, _ROLES[name]) for name in _NEEDED)


def _taken(method, names):
    """The argument of the constructor that has one of the names; None without one."""
    arguments = [argument.arg for argument in [*method.args.args, *method.args.kwonlyargs]]
    return next((name for name in names if name in arguments), None)


def _kept_statements(source, method, own: list[Unit]):
    """Statements to keep, in order, and the lines of those that cannot be."""
    outside = {argument.arg for argument in ast.walk(method.args) if isinstance(argument, ast.arg)}
    outside |= set(dir(builtins)) | bound_names(source.tree)
    kept: list[ast.stmt] = []
    left = []
    for statement in method.body:
        units = [unit for unit in own if unit.node is not method and _holds(statement, unit.node)]
        if not units:
            continue
        needed = _assignments_for(statement, method.body, outside)
        if (
            any(unit.node is statement for unit in units)
            and needed is not None
            and not _SET & set(stored_attributes(statement))
        ):
            kept += [item for item in [*needed, statement] if item not in kept]
        else:
            left += [unit.line for unit in units]
    return sorted(kept, key=lambda item: item.lineno), left


def _holds(statement, node):
    return any(item is node for item in ast.walk(statement))


def _assignments_for(statement, body, outside):
    """The assignments before a statement to variables that it uses; None if these come from elsewhere."""
    found: list[ast.stmt] = []
    left = [statement]
    while left:
        item = left.pop()
        names = {node.id for node in ast.walk(item) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        for name in names - outside - bound_names(ast.Module([item], [])):
            before = [s for s in body if s.lineno < item.lineno and name in bound_names(ast.Module([s], []))]
            plain = [s for s in before if isinstance(s, (ast.Assign, ast.AnnAssign)) and not stored_attributes(s)]
            if not before or plain != before:
                return None
            new = [s for s in before if s not in found]
            found += new
            left += new
    return found
