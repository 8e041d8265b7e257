"""Start a project of your own from this template, move an old one in, or bring one up to date.

python new_project.py ../my_project
python new_project.py ../my_project --task table --data trees.csv --target height
python new_project.py --adopt ../old_project
python new_project.py --update ../my_project
"""

import argparse
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from scaffold.adopt import adopt
from scaffold.git import make_repository
from scaffold.tasks.choose import add_task_flags, plan_from
from scaffold.tasks.plan import Plan, apply_plan
from scaffold.template import TEMPLATE, copy_template, write_manifest
from scaffold.update import ROOMS, update
from utils.distributed.launch import refuse_several
from utils.errors import UserError, clean_exit, in_one_line


def main(target: str | Path, name: str | None = None, git: bool = True, plan: Plan | None = None) -> None:
    """Make a project in the target folder, named after it unless `name` is given.

    plan: of a task, for which the project is made. Raises UserError, and then leaves nothing behind.
    """
    target = Path(target).resolve()
    name = target.name if name is None else name
    require_usable(target, name)
    existed = target.exists()
    made = next((parent for parent in reversed(target.parents) if not parent.exists()), target)
    try:
        copy_template(target, name)
        if plan is not None:
            apply_plan(plan, target, name)
        write_manifest(target, of_task=[] if plan is None else sorted(plan.rooms))
    except BaseException as error:
        for path in list(target.iterdir()) if existed else [made]:
            if path.is_dir():
                shutil.rmtree(path)
            elif os.path.lexists(path):
                path.unlink()
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or "not all of it could be copied; is the disk full?"
        raise UserError(f"{target}: cannot make the project: {reason}") from None
    for line in [] if plan is None else plan.found:
        print(f"found: {line}")
    print(f"{name} is ready in {target}")
    if git and (problem := make_repository(target)):
        print(f"without a git commit: {problem}")
    print(f"next: cd {shlex.quote(str(target))} && make train")


def require_usable(target: Path, name: str) -> None:
    """Raise UserError for a name or a folder that a project cannot have."""
    if not re.fullmatch(r"[\w][\w.+ -]*", name):
        raise UserError(f"--name: got {name!r}; a name is letters, digits, '_', '-', '.', '+' and spaces")
    if os.path.isfile(target):
        raise UserError(f"{target}: is a file; give a folder that does not exist yet")
    if os.path.isdir(target) and any(target.iterdir()):
        raise UserError(f"{target}: is not empty; give a folder that does not exist yet")
    if target.is_relative_to(TEMPLATE):
        raise UserError(f"{target}: lies inside the template; give a folder outside {TEMPLATE}")


def require_together(given: argparse.Namespace) -> None:
    """Raise UserError for flags that do not belong to what is asked for."""
    verb = next((verb for verb in ("adopt", "update") if getattr(given, verb)), None)
    belongs = {"adopt": {"dry_run"}, "update": {"dry_run", "force", "rooms"}, None: _NEW}[verb]
    for flag, value in vars(given).items():
        if value and flag in {"dry_run", "force", "rooms", *_NEW} - belongs:
            takers = "a new project" if flag in _NEW else "--update" if flag != "dry_run" else "--adopt and --update"
            raise UserError(f"--{flag.replace('_', '-')}: is for {takers}")


_NEW = {"name", "no_git", "task", "data", "target", "group", "test"}  # flags of a new project


if __name__ == "__main__":
    summary = "Start a project of your own from this template, move an old one in, or bring one up to date."
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("path", help="folder to make, which must not exist yet or be empty; or the project's folder")
    verbs = parser.add_mutually_exclusive_group()
    verbs.add_argument("--adopt", action="store_true", help="move in a project of victoresque/pytorch-template")
    verbs.add_argument("--update", action="store_true", help="bring the framework of a project up to date")
    parser.add_argument("--name", help="name of a new project, by default the folder's")
    parser.add_argument("--no-git", action="store_true", help="do not make a git repository")
    add_task_flags(parser)
    moving = parser.add_argument_group("to adopt or update (MIGRATING.md, docs/updating.md)")
    moving.add_argument("--dry-run", action="store_true", help="only say what would be done")
    moving.add_argument("--force", action="store_true", help="update what is not committed, or is newer")
    moving.add_argument("--rooms", nargs="+", choices=ROOMS, default=[], help="your folders to merge, too")
    given = in_one_line(parser).parse_args()
    with clean_exit():
        refuse_several("new_project.py")
        require_together(given)
        if given.adopt:
            adopt(given.path, given.dry_run)
        elif given.update:
            sys.exit(update(given.path, given.rooms, given.dry_run, given.force))
        else:
            main(given.path, given.name, git=not given.no_git, plan=plan_from(given))
