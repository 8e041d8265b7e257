"""What a new project gets: which files of the template, and the manifest that names them."""

import hashlib
import json
import re
import shutil
from pathlib import Path

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
_PAGES = ("jobs.md", "results.md", "results.py")  # on the examples
LEFT_BEHIND = shutil.ignore_patterns(*_LEFTOVERS, *_PAGES, *_PICTURES)


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
    index.write_text("".join(line for line in pages if not any(f"({page})" in line for page in _PAGES)))


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
