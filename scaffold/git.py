"""Git, as far as making a project needs it."""

import os
import subprocess
from pathlib import Path

from utils.errors import shortened

_NOT_INSTALLED = 127  # the exit status of a shell for a command that does not exist


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
        return subprocess.run(
            ["git", *arguments], cwd=folder, env=environment, capture_output=True, encoding="utf-8", errors="replace"
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(arguments, _NOT_INSTALLED, "", "")
