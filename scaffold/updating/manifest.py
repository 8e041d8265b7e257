"""Read the manifest of a project, template.json, which may be damaged or a stranger's."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from scaffold.template import MANIFEST, YOURS
from utils.errors import UserError, brief, shown
from utils.files import read_json_beside

_NEVER_OURS = {*(PurePosixPath(item).parts[0].lower() for item in YOURS), "saved"}
_LISTS = ("left_out", "of_task")  # entries that are lists of paths
_RESTORE = f"restore it: git checkout {MANIFEST}"


@dataclass
class Manifest:
    """What a project knows of its origin.

    version: of the template; None if that is unknown.
    files: {path: SHA-256} of the framework's files as the project got them.
    rooms: {folder of the user's: version that its files come from}, if that is another one.
    left_out: files and folders of the framework that a project which was moved in does without, or has of its own.
    of_task: files of the rooms that --task has written, which the template does not have.
    """

    version: str | None
    files: dict[str, str]
    rooms: dict[str, str]
    left_out: list[str]
    of_task: list[str]


def read_manifest(project: Path) -> Manifest:
    """Return the manifest of a project. Raises UserError."""
    path = project / MANIFEST
    if not project.is_dir():
        raise UserError(f"{shown(project)}: is no folder; give the folder of a project")
    try:
        content = read_json_beside(path)
    except FileNotFoundError:
        remedy = f"python new_project.py --adopt {shown(project)}"
        raise UserError(f"{shown(project)}: has no {MANIFEST}, which new projects get; try {remedy}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not JSON"
        raise UserError(f"{shown(path)}: cannot be read: {reason}; {_RESTORE}") from None
    if problem := _problem(content):
        raise UserError(f"{shown(path)}: {problem}; {_RESTORE}")
    lists = [content.get(name, []) for name in _LISTS]
    return Manifest(content["version"], content["files"], content.get("rooms", {}), *lists)


def is_the_users(place: str) -> bool:
    """Whether a path of a project is the user's whatever a manifest says."""
    return PurePosixPath(place).parts[0].lower() in _NEVER_OURS


def _problem(content: Any) -> str | None:
    """What is wrong with the content of a manifest; None if nothing is."""
    if not isinstance(content, dict) or not {"version", "files"} <= content.keys():
        return "a manifest has a version and files"
    if not isinstance(content["version"], str | None):
        return f"version: got {brief(content['version'])}; it should be a string or null"
    rooms = content.get("rooms", {})
    if not isinstance(rooms, dict) or not all(isinstance(version, str) for version in rooms.values()):
        return f"rooms: got {brief(rooms)}; it should be an object of folders and versions"
    for name in _LISTS:
        places = content.get(name, [])
        if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
            return f"{name}: got {brief(places)}; it should be a list of paths"
    if not isinstance(content["files"], dict) or not content["files"]:
        return f"files: got {brief(content['files'])}; it should be an object of paths and checksums"
    for place, checksum in content["files"].items():
        if not _is_inside(place):
            return f"files: names {brief(place)}, which no project has within its own folder"
        if not isinstance(checksum, str) or not re.fullmatch("[0-9a-f]{64}", checksum):
            return f"files: {shown(place)}: got {brief(checksum)}; it should be a SHA-256"
    return None


def _is_inside(place: str) -> bool:
    """Whether a path names a file within the project that can be the framework's, the same on all systems."""
    parts = place.split("/")
    plain = place.isprintable() and not set(place) & set('\\:*?"<>|')
    return plain and place != MANIFEST and not any(p.strip(". ") == "" or p.lower() == ".git" for p in parts)
