"""What an update does to the files of a project: replace, merge, add, rename, remove, or leave alone."""

import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from scaffold import template
from scaffold.git import merge
from scaffold.updating import history
from scaffold.updating.line_endings import has_checksum, is_equal, is_text, with_lines_of, with_unix_lines
from scaffold.updating.manifest import Manifest, is_the_users
from utils.errors import UserError, shown

MARKER = b"<<<<<<< yours"  # how a conflict begins


@dataclass
class Plan:
    """What an update does.

    writes: {path: content} of files to write.
    removals: files to remove.
    lines: for the user, (what happens, file and reason).
    merged: files that have changes of the user's and of the template's.
    conflicts: those of them with markers around changes that do not go together.
    recorded: {path: content} of the template's files that the manifest will name.
    """

    writes: dict[str, bytes] = field(default_factory=dict)
    removals: list[str] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    recorded: dict[str, bytes] = field(default_factory=dict)


def make_plan(project: Path, manifest: Manifest, rooms: list[str]) -> Plan:
    """Compare a project with the template. rooms: folders of the user's that are updated, too.

    Raises UserError if the project cannot be updated.
    """
    with tempfile.TemporaryDirectory() as folder:
        template.copy_framework(Path(folder))
        template.copy_items(rooms, Path(folder))
        plan = Plan(recorded=template.contents(Path(folder), [*template.FRAMEWORK, *template.FRAMEWORK_OWN]))
        ours = plan.recorded | template.contents(Path(folder), rooms)
    commit = history.commit_of(manifest.version)
    renames = history.renames_since(commit) if commit else {}
    sums = _sums_at(commit, template.FRAMEWORK_OWN) | manifest.files
    without: set[str] = set()  # files of left_out
    if manifest.left_out:
        left_out = {*manifest.left_out, *template.FRAMEWORK_OWN}
        without = {place for place in {*ours, *sums, *renames} if {place, place.partition("/")[0]} & left_out}
        for place in without:
            for known in (ours, sums, plan.recorded):
                known.pop(place, None)
    for room in rooms:
        version = manifest.rooms.get(room, manifest.version)
        if not (came_with := history.commit_of(version)):
            raise UserError(f"--rooms {room}: cannot be merged, for the template's history lacks {shown(version)}")
        sums |= _sums_at(came_with, history.files_at(came_with, room))
    for place in manifest.of_task:
        if ours.pop(place, None) is not None:
            plan.lines.append(("kept", f"{place}: made by --task, so the template has no newer one"))
        sums.pop(place, None)
    mine = {place: _read(project, place) for place in {*sums, *ours}}

    for place, checksum in sorted(sums.items()):
        content, renamed = mine[place], renames.get(place, "")
        if content is None:
            if place in ours and not has_checksum(ours[place], checksum):
                plan.lines.append(("absent", f"{place}: changed in the template; you have removed it"))
        elif place in ours:
            result = _updated(plan, place, place, content, checksum, ours[place], commit)
            if result != content:
                plan.writes[place] = result
        elif renamed in ours.keys() - sums.keys() and _is_free(project, renamed):
            plan.lines.append(("renamed", f"{place}: is now {renamed}"))
            plan.writes[renamed] = _updated(plan, place, renamed, content, checksum, ours[renamed], commit)
            plan.removals.append(place)
        elif has_checksum(content, checksum) and not is_the_users(place):
            plan.lines.append(("removed", place))
            plan.removals.append(place)
        else:
            plan.lines.append(("kept", f"{place}: no longer in the template, now yours"))

    formers = {new: old for old, new in renames.items()}
    for place in sorted(ours.keys() - sums.keys() - plan.writes.keys()):
        content, former = mine[place], formers.get(place, "")
        removed = former in sums and mine[former] is None
        if content is None and (removed or former in without):
            plan.lines.append(
                ("absent", f"{place}: was {former}, which you {'have removed' if removed else 'do without'}")
            )
        elif _is_free(project, place):
            plan.lines.append(("added", place))
            plan.writes[place] = ours[place]
        elif content is None or not is_equal(content, ours[place]):
            plan.lines.append(("kept", f"{place}: yours, though the template now has a file of this name"))
            plan.recorded.pop(place, None)
    return plan


def _updated(plan, place, now, content, checksum, theirs, commit):
    """Return the new content of a user's file.

    now: its path in this version of the template. checksum: of the file as the project got it. theirs: the template's.
    """
    unchanged = has_checksum(content, checksum)
    if not unchanged and any(line.startswith(MARKER) for line in content.splitlines()):
        raise UserError(f"{shown(place)}: has conflicts of an earlier update; resolve them first")
    if is_equal(content, theirs) or has_checksum(theirs, checksum):
        return content
    if unchanged:
        plan.lines.append(("replaced", now))
        return with_lines_of(content, theirs)
    if not (is_text(content) and is_text(theirs)):
        plan.lines.append(("kept", f"{now}: not text; you have changed it, and so has the template"))
        return content
    base = history.content_with(checksum, place, commit)
    parts = (with_unix_lines(part) for part in (content, base or b"", theirs))
    merged, conflicts = merge(*parts, names=("yours", "as you got it", "the template's"))
    plan.merged.append(place)
    if conflicts:
        plan.conflicts.append(now)
    lost = "" if base is not None else ": each difference; the template's history lacks the file as you got it"
    plan.lines.append(("CONFLICT" if conflicts else "merged", now + lost))
    return with_lines_of(content, merged)


def _sums_at(commit, places):
    """{path: SHA-256} of the files that projects got from a commit, for files that no manifest names."""
    contents = {place: history.content_at(commit, template.source_of(place)) for place in places if commit}
    return {place: hashlib.sha256(found).hexdigest() for place, found in contents.items() if found is not None}


def _read(project, place):
    """The content of a file of the project; None if there is none. Raises UserError at links out of the project."""
    path = project / place
    if not Path(os.path.realpath(path.parent)).is_relative_to(project):
        raise UserError(f"{shown(path)}: leads out of the project, through a link; replace that by a folder")
    try:
        if path.is_symlink():
            raise UserError(f"{shown(path)}: is a link; replace it by a file")
        return path.read_bytes() if path.is_file() else None
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read: {error.strerror}") from None


def _is_free(project, place):
    """Whether a file of the project can be made at a path."""
    path = project / place
    return not path.exists() and not any(parent.is_file() for parent in path.parents)
