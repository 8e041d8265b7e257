"""Start a project of your own from this template: python new_project.py ../my_project."""

import argparse
import os
import re
import shlex
import shutil
from pathlib import Path

from scaffold.git import make_repository
from scaffold.tasks.choose import add_task_flags, plan_from
from scaffold.tasks.plan import Plan, apply_plan
from scaffold.template import TEMPLATE, copy_template, write_manifest
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
        write_manifest(target)
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Start a project of your own from this template.")
    parser.add_argument("path", help="folder to make; it must not exist yet, or be empty")
    parser.add_argument("--name", help="name of the project, by default the folder's")
    parser.add_argument("--no-git", action="store_true", help="do not make a git repository")
    add_task_flags(parser)
    arguments = in_one_line(parser).parse_args()
    with clean_exit():
        refuse_several("new_project.py")
        main(arguments.path, arguments.name, git=not arguments.no_git, plan=plan_from(arguments))
