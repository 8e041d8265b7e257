"""The framework's files in a project that is moved in, beside what stays the project's own."""

import functools
import hashlib
import json
import re
import tempfile
from pathlib import Path, PurePosixPath

from scaffold.adopting.reading import ROOMS, Source
from scaffold.adopting.tree import Tree
from scaffold.template import FRAMEWORK, MANIFEST, contents, copy_framework, manifest_of

# The scripts that an older project has of its own, and what only works with the framework's.
_THEIRS = {"train.py", "test.py", "series.py", "Makefile"}
# Commands with the rooms that they need: installed together, or not at all.
_COMMANDS = [
    ("compare.py", "comparing"),
    ("serve.py", "serving"),
    ("sweep.py", "sweeping"),
    ("export.py",),
    ("predict.py",),
]
_MERGED = "requirements.txt"
_LOG_CONFIG = "6c721f2c28"  # digest of the old template's logger_config.json
_OWN = "since the project has its own"


class Installed:
    """What was installed.

    files: paths. left: {path: why it was left out}. requirements: lines on merging. aside: {path: where the project's
    own file of that path is now}.
    """

    def __init__(self) -> None:
        self.files: list[str] = []
        self.left: dict[str, str] = {}
        self.requirements: list[str] = []
        self.aside: dict[str, str] = {}


@functools.cache
def files_of_framework() -> dict[str, bytes]:
    """Return the template's files that a project gets, {path in the project: content}."""
    with tempfile.TemporaryDirectory() as folder:
        copy_framework(Path(folder))
        return contents(Path(folder), FRAMEWORK)


def to_be_moved(sources: dict[str, Source], framework: dict[str, Source], room: str) -> dict[str, str]:
    """Return {old module: new module} of the project's files in base/, logger/ and utils/ that are in the way.

    Such a file has the name of one of the framework's modules without being the template's.
    """
    ours = {PurePosixPath(place).with_suffix("").as_posix() for place in files_of_framework()}
    ours |= {parent.as_posix() for place in ours for parent in PurePosixPath(place).parents}
    moved = {}
    for place, source in sources.items():
        path = PurePosixPath(place).with_suffix("")
        if place not in framework and path.parts[0] in ROOMS and path.as_posix() in ours:
            moved[source.module] = f"{room}.{'_'.join(path.parts)}"
    return moved


def install(tree: Tree, framework: dict[str, Source], moved: set[str], room: str) -> Installed:
    """Replace the template's files in the copy by the framework's, and write its manifest.

    moved: paths of the project's code that is moved by others. room: the folder for other files that are in the way.
    """
    installed, offered = Installed(), files_of_framework()
    for place in framework:
        tree.remove(place)
    left_out = {item: _OWN if tree.exists(item) else "for the template's own train.py" for item in _THEIRS}
    for command in _COMMANDS:
        if taken := [item for item in command if tree.exists(item)]:
            left_out |= dict.fromkeys(command, f"since the project has its own {taken[0]}")
    for place, content in offered.items():
        top = place.partition("/")[0]
        if top in left_out:
            installed.left[top] = left_out[top]
        elif place == _MERGED and tree.exists(place):
            installed.requirements = _merge_requirements(tree, content.decode())
        elif top not in (*ROOMS, "parse_config.py") and tree.exists(place):
            installed.left[place] = _OWN
        else:
            if place not in moved and _is_the_projects(tree.folder / place, content):
                installed.aside[place] = _put_aside(tree, place, room)
            tree.write(place, content)
            installed.files.append(place)
    tree.write(MANIFEST, _manifest(tree, installed))
    return installed


def _is_the_projects(path, content):
    """Whether there is a file that is neither the framework's, of that content, nor the template's."""
    if not path.is_file() or (found := path.read_bytes()) == content:
        return False
    if path.suffix != ".json":
        return True
    try:
        plain = json.dumps(json.loads(found), sort_keys=True)
    except ValueError:
        return True
    return hashlib.sha256(plain.encode()).hexdigest()[:10] != _LOG_CONFIG


def _put_aside(tree, place, room):
    """Copy a file of the project that is in the way to a folder in the room, and return where."""
    new = f"{room}/old/{place}"
    tree.write(new, (tree.folder / place).read_bytes())
    return new


def _manifest(tree, installed):
    """The text of template.json for what was installed; "left_out" lists what the project has or does without."""
    files = {place: (tree.folder / place).read_bytes() for place in installed.files}
    return manifest_of(files, left_out=sorted({*installed.left, *({_MERGED} - files.keys())}))


def _merge_requirements(tree, text):
    """Give the packages that the framework needs the framework's versions, and keep the others."""
    needed = {_package(line): line for line in text.splitlines() if _package(line)}
    lines, told = [], []
    for line in (tree.read(_MERGED) or "").splitlines():
        package = _package(line)
        if package in needed:
            if line.strip() != needed[package]:
                told.append(f"{line.strip()} -> {needed[package]}")
            lines.append(needed.pop(package))
        else:
            lines.append(line)
            if package and "==" in line:
                told.append(f"{line.strip()} is kept; a version of that age may not install on today's Python")
    lines += needed.values()
    told += [f"{line} is added" for line in needed.values()]
    tree.write(_MERGED, "\n".join(lines) + "\n")
    return told


def _package(line):
    """The normalized name of the package that a line of requirements.txt asks for; "" for another line."""
    found = re.match(r"\s*([A-Za-z0-9][\w.-]*)", line)
    return re.sub(r"[-_.]+", "-", found[1]).lower() if found and "://" not in line else ""
