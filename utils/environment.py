"""Describe the circumstances of a run, for its folder."""

import platform
import subprocess
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path

from utils.distributed.launch import launch_id

_LIBRARIES = ("torch", "torchvision", "numpy", "pandas", "tensorboard", "tqdm", "pydantic")


def describe_environment():
    """Time, command line, host, library versions, and the git commit and whether its tree was dirty (None: no git).

    And the number of threads that torch computes with, None if it is not imported.
    """
    torch = sys.modules.get("torch")
    commit = _git("rev-parse", "HEAD")
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": [Path(sys.executable).name, *sys.argv],
        "host": platform.node(),
        "launch": launch_id(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "threads": torch and torch.get_num_threads(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "git_commit": commit or None,
        "git_dirty": bool(_git("status", "--porcelain")) if commit else None,
    }


def _version(library):
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments):
    """Output of a git command in the project's folder, "" where there is no git or no repository."""
    folder = Path(__file__).resolve().parent.parent
    try:
        answer = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
