"""The flags of new_project.py that describe a task and its data, and the plan for them."""

import argparse
import importlib
import os
import shlex
from pathlib import Path

from scaffold.tasks.plan import Plan
from utils.errors import UserError, shown

# the flags beside --data that each takes
_TAKES = {
    "image-folder": ("test",),
    "table": ("target", "group", "test"),
    "text": ("test",),
    "arrays": ("target", "group"),
    "mnist": (),
}


TASKS = tuple(_TAKES)


def add_task_flags(parser: argparse.ArgumentParser) -> None:
    """Add --task, --data and the flags that go with them."""
    group = parser.add_argument_group("a project for data that you have")
    group.add_argument("--task", choices=TASKS, help="what the data are: docs/new_projects.md describes each")
    group.add_argument("--data", metavar="PATH", help="file or folder of the data, which stays where it is")
    group.add_argument("--target", metavar="COLUMN", help="column, or array, to predict")
    group.add_argument("--group", metavar="COLUMN", help="column, or array; samples with the same value stay together")
    group.add_argument("--test", metavar="PATH", help="file or folder of test data; by default some data are set aside")


def plan_from(arguments: argparse.Namespace) -> Plan | None:
    """Return the plan for a task after a look at the data; None without --task. Raises UserError."""
    given = {name: getattr(arguments, name) for name in ("data", "target", "group", "test") if getattr(arguments, name)}
    task = arguments.task
    if task is None:
        if given:
            raise UserError(f"--{next(iter(given))}: say with --task what the data are: {', '.join(TASKS)}")
        return None
    if "data" not in given and task != "mnist":
        raise UserError(f"--task {task}: say with --data where the data are")
    for name in given.keys() - {"data", *_TAKES[task]}:
        takers = " and ".join(f"--task {other}" for other in TASKS if name in _TAKES[other])
        raise UserError(f"--{name}: is for {takers}")
    for name, value in given.items():
        if any("\ud800" <= letter <= "\udfff" for letter in absolute(value)):  # bytes that are no UTF-8
            raise UserError(f"--{name}: {shown(value)}: is not in UTF-8, in which configs are; rename it")
    words = ["--task", task, *(word for name, value in given.items() for word in (f"--{name}", value))]
    paths = {name: absolute(given.pop(name)) for name in ("data", "test") if name in given}
    module = importlib.import_module(f"scaffold.tasks.{task.replace('-', '_')}")
    command = f"new_project.py {Path(arguments.path).name} {shlex.join(words)}"
    return module.plan(f"python {shown(command)}", paths.pop("data", None), **paths, **given)


def absolute(path: str) -> str:
    """Return the path as a config holds it: absolute, since a project moves more often than its data."""
    return os.path.abspath(os.path.expanduser(path))
