"""Start a project of your own from this template: python new_project.py ../my_project."""

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from utils.distributed.launch import refuse_several
from utils.errors import UserError, clean_exit, in_one_line, shortened

TEMPLATE = Path(__file__).resolve().parent

# The framework of a new project; template.json lists its files with their checksums.
FRAMEWORK = [
    "Makefile",
    "base",
    "compare.py",
    "comparing",
    "config.schema.json",
    "constraints.txt",
    "docs",
    "export.py",
    "logger",
    "parse_config.py",
    "predict.py",
    "requirements.txt",
    "series.py",
    "serve.py",
    "serving",
    "sweep.py",
    "sweeping",
    "test.py",
    "train.py",
    "utils",
]
# What the user of a new project edits, with the default job in it.
YOURS = [".gitignore", "LICENSE", "config.json", "data/mnist", "data_loader", "model", "notebooks", "trainer"]
# A folder whose files are copied last: the project's own README, tests and settings.
OWN_FILES = "project"
# of the template's own job and figures, and what draws them
_PICTURES = (
    "readme_pictures.py",
    "curves.png",
    "report.png",
    "predict.png",
    "compare.png",
    "sweep.png",
    "overhead.png",
)
_LEFTOVERS = ("__pycache__", "*.py[cod]", ".*cache", ".hypothesis", ".ipynb_checkpoints")
LEFT_BEHIND = shutil.ignore_patterns(*_LEFTOVERS, "jobs.md", *_PICTURES)
_NOT_INSTALLED = 127  # the exit status of a shell for a command that does not exist


def main(target: str | Path, name: str | None = None, git: bool = True) -> None:
    """Make a project in the target folder, named after it unless `name` is given.

    Raises UserError, and then leaves nothing behind.
    """
    target = Path(target).resolve()
    name = target.name if name is None else name
    require_usable(target, name)
    existed = target.exists()
    made = next((parent for parent in reversed(target.parents) if not parent.exists()), target)
    try:
        copy_template(target, name)
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


def copy_template(target: Path, name: str) -> None:
    """Copy the framework, the user's folders and the project's own files, and write the name into them."""
    target.mkdir(parents=True, exist_ok=True)
    for item in [*FRAMEWORK, *YOURS]:
        source = TEMPLATE / item
        if source.is_dir():
            shutil.copytree(source, target / item, ignore=LEFT_BEHIND)
        else:
            shutil.copy2(source, target / item)
    shutil.copytree(TEMPLATE / OWN_FILES, target, ignore=LEFT_BEHIND, dirs_exist_ok=True)

    config, readme, index = target / "config.json", target / "README.md", target / "docs" / "README.md"
    named = re.sub(r'"name": "[^"]*"', lambda _: f'"name": {json.dumps(name)}', config.read_text(), count=1)
    named = re.sub(r'\n *"description": "(\\.|[^"\\])*",?', "", named, count=1)  # it describes the template's job
    config.write_text(named)
    readme.write_text(readme.read_text().replace("{name}", name))
    pages = index.read_text().splitlines(keepends=True)
    index.write_text("".join(line for line in pages if "(jobs.md)" not in line))


def write_manifest(target: Path) -> None:
    """Write template.json: the version of the template, and the SHA-256 of each file of the framework."""
    files = [path for item in FRAMEWORK for path in [target / item, *(target / item).rglob("*")] if path.is_file()]
    sums = {path.relative_to(target).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    content = {"version": template_version(), "files": dict(sorted(sums.items()))}
    (target / "template.json").write_text(json.dumps(content, indent=4) + "\n")


def template_version() -> str | None:
    """Return the template's git tag or commit, with "-dirty" if files differ from it; None outside a checkout."""
    top = run_git(TEMPLATE, "rev-parse", "--show-toplevel")
    if top.returncode or Path(top.stdout.strip()) != TEMPLATE:
        return None
    return run_git(TEMPLATE, "describe", "--tags", "--always", "--dirty").stdout.strip() or None


def make_repository(target: Path) -> str | None:
    """Make a git repository with a first commit. Returns, in one line, why that failed; None if it did not."""
    inside = run_git(target, "rev-parse", "--show-toplevel")
    if inside.returncode == _NOT_INSTALLED:
        return "git is not installed"
    if inside.returncode == 0:
        return f"the folder lies in the repository {inside.stdout.strip()}"
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "Start from the template"]):
        done = run_git(target, *command)
        if done.returncode:
            if "user.email" in done.stderr or "ident" in done.stderr.lower():
                return "git does not know you; set user.name and user.email, then git commit -m 'First commit'"
            return shortened(f"git {command[0]} failed: {' '.join((done.stderr or done.stdout).split())}")
    return None


def run_git(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run git in the folder, ignoring a repository that the environment names."""
    names_a_repository = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    environment = {key: value for key, value in os.environ.items() if key not in names_a_repository}
    try:
        return subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    except FileNotFoundError:
        return subprocess.CompletedProcess(arguments, _NOT_INSTALLED, "", "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Start a project of your own from this template.")
    parser.add_argument("path", help="folder to make; it must not exist yet, or be empty")
    parser.add_argument("--name", help="name of the project, by default the folder's")
    parser.add_argument("--no-git", action="store_true", help="do not make a git repository")
    arguments = in_one_line(parser).parse_args()
    with clean_exit():
        refuse_several("new_project.py")
        main(arguments.path, arguments.name, git=not arguments.no_git)
