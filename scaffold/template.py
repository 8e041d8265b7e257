"""What a new project gets: which files of the template, and the manifest that names them."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from scaffold.git import run_git

TEMPLATE = Path(__file__).resolve().parent.parent

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
YOURS = [
    ".devcontainer",
    ".dockerignore",
    ".editorconfig",
    ".gitignore",
    ".pre-commit-config.yaml",
    "Dockerfile",
    "LICENSE",
    "config.json",
    "data/mnist",
    "data_loader",
    "model",
    "notebooks",
    "trainer",
]
# A folder whose files are copied last: the project's own README, tests and settings.
OWN_FILES = "project"
# Those of them that are the framework's, too: they fit any job.
FRAMEWORK_OWN = ["tests/test_project.py"]
MANIFEST = "template.json"
# Files that stay in the template: pictures of its own job, and what draws them
_PICTURES = (
    "readme_pictures.py",
    "curves.png",
    "report.png",
    "test.png",
    "predict.png",
    "export.png",
    "compare.png",
    "sweep.png",
    "overhead.png",
)
# Pages that stay in the template: on its own jobs, and on making and updating projects
_PAGES = ("jobs.md", "new_projects.md", "results.md", "results.py", "updating.md")
_LEFTOVERS = ("__pycache__", "*.py[cod]", ".*cache", ".hypothesis", ".ipynb_checkpoints")


def left_behind(folder: str, names: list[str]) -> set[str]:
    """Return which names of a folder are not copied; pages and pictures are left out of docs/ alone."""
    of_docs = (*_PAGES, *_PICTURES) if Path(folder).name == "docs" else ()
    return shutil.ignore_patterns(*_LEFTOVERS, *of_docs)(folder, names)


def copy_template(target: Path, name: str) -> None:
    """Copy the framework, the user's folders and the project's own files, and write the name into them."""
    copy_framework(target)
    copy_items(YOURS, target)
    shutil.copytree(TEMPLATE / OWN_FILES, target, ignore=left_behind, dirs_exist_ok=True)

    config, readme = target / "config.json", target / "README.md"
    named = config.read_text(encoding="utf-8")
    named = re.sub(r'"name": "[^"]*"', lambda _: f'"name": {json.dumps(name)}', named, count=1)
    named = re.sub(r'\n *"description": "(\\.|[^"\\])*",?', "", named, count=1)  # it describes the template's job
    config.write_text(named, encoding="utf-8")
    readme.write_text(readme.read_text(encoding="utf-8").replace("{name}", name), encoding="utf-8")


def copy_framework(target: Path) -> None:
    """Copy the framework as a project has it."""
    copy_items(FRAMEWORK, target)
    for place in FRAMEWORK_OWN:
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(TEMPLATE / source_of(place), target / place)
    index = target / "docs" / "README.md"
    index.write_bytes(as_copied("docs/README.md", index.read_bytes()))


def copy_items(items: list[str], target: Path) -> None:
    """Copy files and folders of the template, without what stays in it."""
    target.mkdir(parents=True, exist_ok=True)
    for item in items:
        source = TEMPLATE / item
        if source.is_dir():
            shutil.copytree(source, target / item, ignore=left_behind)
        else:
            shutil.copy2(source, target / item)


def as_copied(place: str, content: bytes) -> bytes:
    """Return the content that a file of the template has in a project: the index of the pages names those copied."""
    if place != "docs/README.md":
        return content
    left_behind = [f"({page})".encode() for page in _PAGES]
    lines = content.splitlines(keepends=True)
    return b"".join(line for line in lines if not any(page in line for page in left_behind))


def source_of(place: str) -> str:
    """Return the path in the template of a project's file of the framework."""
    return f"{OWN_FILES}/{place}" if place in FRAMEWORK_OWN else place


def contents(folder: Path, items: list[str]) -> dict[str, bytes]:
    """Return {path: content} of the items in a folder that are files, and of all files in those that are folders."""
    paths = [path for item in items for path in [folder / item, *(folder / item).rglob("*")] if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths)}


def write_manifest(target: Path, **further: Any) -> None:
    """Write template.json for a project whose framework has just been copied. further: entries, as of manifest_of."""
    files = contents(target, [*FRAMEWORK, *FRAMEWORK_OWN])
    (target / MANIFEST).write_text(manifest_of(files, **further), encoding="utf-8")


def manifest_of(files: dict[str, bytes], **further: Any) -> str:
    """Return the text of template.json: the version of the template, and the SHA-256 of each file of the framework.

    further: entries, of which those that are empty are left out.
    """
    sums = {place: hashlib.sha256(files[place]).hexdigest() for place in sorted(files)}
    entries = {name: value for name, value in further.items() if value}
    return json.dumps({"version": template_version(), **entries, "files": sums}, indent=4) + "\n"


def template_version() -> str | None:
    """Return the template's git tag or commit, with "-dirty" if files differ from it; None outside a checkout."""
    top = run_git(TEMPLATE, "rev-parse", "--show-toplevel")
    if top.returncode or Path(top.stdout.strip()) != TEMPLATE:
        return None
    return run_git(TEMPLATE, "describe", "--tags", "--always", "--dirty").stdout.strip() or None
