"""Git, as far as making a project and updating it need it."""

import os
import subprocess
import tempfile
from pathlib import Path

from utils.errors import UserError, shortened

NOT_INSTALLED = 1000  # no exit status that git can have


def make_repository(target: Path) -> str | None:
    """Make a git repository with a first commit. Returns, in one line, why that failed; None if it did not."""
    inside = run_git(target, "rev-parse", "--show-toplevel")
    if inside.returncode == NOT_INSTALLED:
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


def uncommitted(folder: Path) -> str | None:
    """Return, in words, why git could not bring back the folder as it is; None if it could. Changes nothing."""
    done = run_git(folder, "--no-optional-locks", "status", "--porcelain", "-z", "--no-renames", "--", ".")
    if done.returncode == NOT_INSTALLED:
        return "git is not installed"
    if "not a git repository" in done.stderr:
        return "is in no git repository, which could bring it back"
    if done.returncode:
        return shortened(f"git cannot read it: {' '.join(done.stderr.split())}")
    names = [line[3:] for line in done.stdout.split("\0") if line]
    return f"has uncommitted work, such as {shortened(names[0])}" if names else None


def merge(mine: bytes, base: bytes, theirs: bytes, names: tuple[str, str, str]) -> tuple[bytes, bool]:
    """Merge what two files have changed since their common base. Returns (text, whether it has conflicts).

    names: of the three, for the markers around a conflict.

    Raises UserError if git does not do it.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("mine", mine), ("base", base), ("theirs", theirs)):
            (Path(folder) / name).write_bytes(content)
        labels = [word for name in names for word in ("-L", name)]
        done = run_git(Path(folder), "merge-file", "-p", *labels, "mine", "base", "theirs", text=False)
    if done.returncode == NOT_INSTALLED:
        raise UserError("git is not installed, and changed files cannot be merged without it")
    if not 0 <= done.returncode <= 127:  # the number of conflicts, up to 127
        raise UserError(shortened(f"git merge-file: {done.stderr.decode(errors='replace').strip()}"))
    return done.stdout, done.returncode > 0


def run_git(folder: Path, *arguments: str, text: bool = True) -> subprocess.CompletedProcess:
    """Run git in the folder, ignoring a repository that the environment names.

    text: give stdout and stderr as str, else as bytes.
    """
    names_a_repository = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    environment = {key: value for key, value in os.environ.items() if key not in names_a_repository}
    encoding, errors = ("utf-8", "surrogateescape") if text else (None, None)
    command = ["git", *arguments]
    try:
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, encoding=encoding, errors=errors
        )
    except FileNotFoundError:
        nothing = "" if text else b""
        return subprocess.CompletedProcess(arguments, NOT_INSTALLED, nothing, nothing)
