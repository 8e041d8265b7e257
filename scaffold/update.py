"""Bring the framework of a project up to date: python new_project.py --update ../my_project.

A file that is as the project got it is replaced. One that the user has changed is merged: its changes since the
project's version of the template, and those of the template. The manifest then holds the checksums of the template's
files, of merged ones too, so that the next update knows them as changed.
"""

import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from scaffold import template
from scaffold.git import run_git, uncommitted
from scaffold.updating import history
from scaffold.updating.changes import change_files
from scaffold.updating.line_endings import is_equal, with_lines_of
from scaffold.updating.manifest import read_manifest
from scaffold.updating.plan import MARKER, make_plan
from scaffold.updating.requirements import REQUIREMENTS, missing_requirements
from utils.errors import UserError, shown

ROOMS = ["data_loader", "model", "trainer"]
_ORDER = ["added", "replaced", "renamed", "removed", "merged", "absent", "kept", "CONFLICT"]
_NO_TESTS = 5  # an exit status of pytest


def update(project: str | Path, rooms: Iterable[str] = (), dry_run: bool = False, force: bool = False) -> int:
    """Bring the framework of a project up to date, and run its tests. Returns the exit status.

    rooms: those of the user's folders, of ROOMS, whose files are merged with the template's, too.
    dry_run: only say what would be done.
    force: update also a project that is not committed, or newer than the template.

    Returns 1 if there are conflicts or the tests fail. Raises UserError, and then has changed nothing.
    """
    project, rooms = Path(project).resolve(), list(rooms)
    manifest = read_manifest(project)
    if rooms and manifest.left_out:
        raise UserError(f"--rooms: {shown(project)} was moved in by --adopt; its rooms do not come from the template")
    if not force:
        _refuse_newer(project, manifest.version)
    plan = make_plan(project, manifest, rooms)
    risk = uncommitted(project) or _not_kept(project, plan.merged)
    if risk and not (force or dry_run):
        raise UserError(f"{shown(project)}: {risk}; commit it first, or add --force")
    commit = history.commit_of(manifest.version)
    old_rooms = {} if manifest.left_out else _old_rooms(manifest, rooms)
    if not dry_run:
        _carry_out(project, plan, rooms=old_rooms, left_out=manifest.left_out, of_task=manifest.of_task)

    _tell(project, manifest.version, plan.lines)
    _tell_of_rooms(project, old_rooms, manifest.of_task)
    tests = _how_to_test(project, manifest)
    if REQUIREMENTS in manifest.left_out and (missing := missing_requirements(project, commit)):
        print(f"add to {REQUIREMENTS}, which is yours: {', '.join(missing)}")
    if dry_run:
        print("nothing has been changed" + (f"; the project {risk}" if risk else ""))
        return 0
    if plan.conflicts:
        print(f"resolve the conflicts, marked by {MARKER.decode()}, in {shown(', '.join(plan.conflicts))}")
        print(f"then: {tests}; git diff shows all changes, and git stash -u takes them back")
        return 1
    if not plan.writes and not plan.removals:
        print("it is up to date")
        return 0
    if not plan.writes.keys().isdisjoint({REQUIREMENTS, "constraints.txt"}):
        print(f"the framework's requirements have changed: {tests} installs them")
    return _run_tests(project, old_rooms, tests)


def _refuse_newer(project, version):
    """Raise UserError if the project comes from a version that the template's history does not hold."""
    if version is None or not history.has_history():
        return
    commit = history.commit_of(version)
    remedy = f"{'git fetch --unshallow' if history.is_shallow() else 'git pull'} in {template.TEMPLATE}, or add --force"
    if commit is None:
        raise UserError(f"{shown(project)}: comes from {shown(version)}, unknown to this template; {remedy}")
    if history.is_newer(commit):
        raise UserError(f"{shown(project)}: comes from {shown(version)}, newer than this template; {remedy}")


def _not_kept(project, places):
    """Which of the files that will be merged git does not keep, in words; None if it keeps all."""
    kept = set(run_git(project, "ls-files", "-z", "--", ".").stdout.split("\0"))
    for place in places:
        if Path(os.path.realpath(project / place)).relative_to(project).as_posix() not in kept:
            return f"has uncommitted work: {shown(place)}, which git ignores"
    return None


def _carry_out(project, plan, **entries):
    """Change the project's files as planned, and its manifest. entries: further ones of the manifest."""
    before, after = (project / template.MANIFEST).read_bytes(), template.manifest_of(plan.recorded, **entries).encode()
    if plan.writes or plan.removals or not is_equal(before, after):
        change_files(project, {**plan.writes, template.MANIFEST: with_lines_of(before, after)}, plan.removals)


def _old_rooms(manifest, rooms):
    """{folder of the user's: version that it comes from}, of those in which the template has changed files since.

    rooms: those that are merged now.
    """
    old = {}
    for room in ROOMS:
        version = manifest.rooms.get(room, manifest.version)
        commit = None if room in rooms else history.commit_of(version)
        if commit and set(history.changed_since(commit, [room])) - {*manifest.of_task}:
            old[room] = version
    return old


def _tell(project, version, lines):
    """Say what happens to each file, what needs attention last."""
    origin, now = version or "an unknown version", template.template_version() or "this one"
    print(shown(f"{project.name}: from {origin} to {now}"))
    for what, text in sorted(lines, key=lambda line: _ORDER.index(line[0])):
        print(f"  {what:<9} {shown(text)}")
    if not history.has_history():
        print("the template's git history cannot be read, so renamed files are removed and added, not followed")
    counts = Counter(what for what, _ in lines)
    print(", ".join(f"{counts[what]} {what}" for what in _ORDER if counts[what]) or "no file of the framework differs")


def _tell_of_rooms(project, old_rooms, of_task):
    """Name files of the user's that are left as the project got them, though the template has changed them.

    of_task: those that the template does not have.
    """
    show = f"git -C {shlex.quote(str(template.TEMPLATE))} diff"
    for room, version in old_rooms.items():
        commit = history.commit_of(version) or version
        changed = [place for place in history.changed_since(commit, [room]) if place not in of_task]
        if files := [place for place in changed if _as_got(project, place, commit)]:
            print(f"yours, left alone, though changed in the template: {', '.join(files)}")
            print(f"  to see how: {show} {commit:.10} -- {room}; to merge: add --rooms {room}")


def _as_got(project, place, commit):
    """Whether a file of the user's is as the project got it, or at least calls the framework's loop."""
    path, content = project / place, history.content_at(commit, place)
    if content is None or not path.is_file():
        return False
    return place.startswith("trainer/") or is_equal(path.read_bytes(), content)


def _how_to_test(project, manifest):
    """The command that installs what the project requires, and runs its tests."""
    has_makefile = (project / "Makefile").is_file() and "Makefile" not in manifest.left_out
    return "make test" if has_makefile else f"pip install -r {REQUIREMENTS} && python -m pytest"


def _run_tests(project, old_rooms, tests):
    """Run the project's tests in its environment, else in this one. Returns the exit status.

    tests: the command that installs what they need.
    """
    own = [project / ".venv" / place for place in ("bin/python", "Scripts/python.exe")]
    python = next(filter(_has_pytest, [*(str(path) for path in own if path.is_file()), sys.executable]), None)
    if python is None:
        print(f"the tests have not been run: pytest is not installed; run {tests.replace('&&', 'pytest &&')}")
        return 0
    print(f"the project's tests, with {python}:", flush=True)
    if subprocess.run([python, "-m", "pytest"], cwd=project).returncode in (0, _NO_TESTS):
        print("updated; look at it with git diff, then commit")
        return 0
    print("updated, but the tests fail; git diff shows all changes, and git stash -u takes them back")
    if old_rooms:
        print(f"rooms of yours may be too old for the framework; --force --rooms {' '.join(old_rooms)} merges them")
    return 1


def _has_pytest(python):
    try:
        return subprocess.run([python, "-c", "import pytest"], capture_output=True).returncode == 0
    except OSError:  # an environment that was moved or made for another machine
        return False
