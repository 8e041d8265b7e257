"""Projects that cannot be updated are refused in one line, and an update that fails half-way changes nothing."""

import hashlib
import json
import os
import shutil

import pytest
from small_template import CORE, FIRST, SECOND, THIRD, changed, commit, files, git, snapshot, write

from helpers import run_here
from scaffold.update import update
from scaffold.updating.changes import change_files
from utils.errors import UserError
from utils.files import read_json


def unlisted(project, template):
    (project / "template.json").unlink()


def without_git(project, template):
    shutil.rmtree(project / ".git")


def ignored(project, template):
    git(project, "rm", "-q", "--cached", "base/core.py")
    commit(project, {".gitignore": "core.py\n"})
    write(project, {"base/core.py": changed(CORE, 9)})


def modified(project, template):
    write(project, {"model/model.py": "changed\n"})


def untracked(project, template):
    write(project, {"model/mine.py": "mine\n"})


def newer(project, template):
    commit(template, THIRD)
    version(git(template, "rev-parse", "HEAD").strip())(project, template)
    git(template, "reset", "-q", "--hard", "HEAD~1")


def version(value):
    def replaced(project, template):
        commit(project, {"template.json": json.dumps(read_json(project / "template.json") | {"version": value})})

    return replaced


def damaged(content):
    return lambda project, template: commit(project, {"template.json": content})


def names(place, checksum="d" * 64):
    return damaged(json.dumps({"version": None, "files": {place: checksum}}))


def moved_out(name):
    def linked(project, template):
        outside = project.parent / "outside"
        shutil.move(project / name, outside)
        (project / name).symlink_to(outside)
        commit(project, {})

    return linked


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (unlisted, "has no template.json, which new projects get; try python new_project.py --adopt "),
        (without_git, "is in no git repository, which could bring it back; commit it first, or add --force"),
        (ignored, "has uncommitted work: base/core.py, which git ignores; commit it first, or add --force"),
        (modified, "has uncommitted work, such as model/model.py; commit it first, or add --force"),
        (untracked, "has uncommitted work, such as model/mine.py; commit it first, or add --force"),
        (newer, "newer than this template; git pull in "),
        (version("abcdef0"), "comes from abcdef0, unknown to this template; git pull in "),
        (version("--help"), "comes from --help, unknown to this template; git pull in "),
        (moved_out("base"), "leads out of the project, through a link; replace that by a folder"),
        (moved_out("train.py"), "train.py: is a link; replace it by a file"),
        (damaged(""), "cannot be read: it is not JSON; restore it: git checkout template.json"),
        (damaged("[" * 100_000), "cannot be read: it is not JSON"),
        (damaged(b"\xff\xfe"), "cannot be read: it is not JSON"),
        (damaged("[]"), "a manifest has a version and files"),
        (damaged('{"version": 1, "files": {}}'), "version: got 1; it should be a string or null"),
        (damaged('{"version": null, "files": {}}'), "files: got {}; it should be an object of paths and checksums"),
        (damaged('{"version": null, "files": [], "rooms": 1}'), "rooms: got 1; it should be an object"),
        (names("base/core.py", "0"), "files: base/core.py: got '0'; it should be a SHA-256"),
        (names("../outside.py"), "names '../outside.py', which no project has within its own folder"),
        (names("base/../../outside.py"), "which no project has within its own folder"),
        (names("/etc/passwd"), "which no project has within its own folder"),
        (names("base\\core.py"), "which no project has within its own folder"),
        (names("C:/core.py"), "which no project has within its own folder"),
        (names(".git/config"), "which no project has within its own folder"),
        (names("template.json"), "which no project has within its own folder"),
        (names("a\nb"), "names 'a\\nb', which no project has within its own folder"),
        (names("a" * 300), "File name too long"),
    ],
)
def test_what_cannot_be_updated_is_refused_in_one_line_and_left_as_it_was(template, project, tested, spoil, message):
    commit(template, SECOND)
    spoil(project, template)
    before = snapshot(project.parent)
    with pytest.raises(UserError) as refused:
        update(project)
    assert message in str(refused.value) and len(str(refused.value).splitlines()) == 1
    assert snapshot(project.parent) == before and not tested


def test_force_updates_what_is_uncommitted_unknown_or_newer(template, project, tested):
    version("abcdef0")(project, template)
    write(project, {"train.py": changed(FIRST["train.py"], 9)})
    commit(template, SECOND)
    assert update(project, force=True) == 0
    assert (project / "train.py").read_text() == changed(FIRST["train.py"], 9)
    assert (project / "base/core.py").read_text() == SECOND["base/core.py"]


def test_a_manifest_cannot_make_the_users_files_the_frameworks(template, project, tested):
    manifest = read_json(project / "template.json")
    for place in ("model/model.py", "config.json", "notes.txt"):
        content = (project / place).read_bytes() if place != "notes.txt" else b"notes"
        manifest["files"][place] = hashlib.sha256(content).hexdigest()
    commit(project, {"notes.txt": "notes, longer", "template.json": json.dumps(manifest)})
    before = files(project)
    commit(template, SECOND)
    assert update(project) == 0
    assert all(files(project)[place] == before[place] for place in ("model/model.py", "config.json", "notes.txt"))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_half_way_changes_nothing(tmp_path, monkeypatch, error):
    write(tmp_path, {"a.py": "a", "b/c.py": "c", "d/e/f.py": "f", "d/e/__pycache__/f.pyc": "", "g/h.py": "h"})
    (tmp_path / "a.py").chmod(0o755)
    before, replace = snapshot(tmp_path), os.replace
    writes = {"a.py": b"new", "b/new/n.py": b"n", "template.json": b"{}"}
    for good in range(9):
        moves = iter([replace] * good)

        def fail(*places, moves=moves):
            move = next(moves, None)
            if move:
                return move(*places)
            monkeypatch.setattr(os, "replace", replace)
            raise error

        monkeypatch.setattr(os, "replace", fail)
        try:
            change_files(tmp_path, writes, ["d/e/f.py", "b/c.py"])
        except (UserError, KeyboardInterrupt) as refused:
            lines = "No space left on device; nothing has been changed" if isinstance(refused, UserError) else ""
            assert str(refused).endswith(lines)
        else:
            break
        assert snapshot(tmp_path) == before
    assert good == 6  # three old files are moved away, three new ones come
    assert files(tmp_path) == {"a.py": b"new", "b/new/n.py": b"n", "template.json": b"{}", "g/h.py": b"h"}
    assert not (tmp_path / "d").exists() and (tmp_path / "a.py").stat().st_mode & 0o777 == 0o755


def test_an_update_that_fails_says_nothing_else_and_changes_nothing(template, project, tested, monkeypatch, capsys):
    commit(template, SECOND)
    before = snapshot(project)
    capsys.readouterr()

    def fail(*places):
        raise OSError(13, "Permission denied", str(project / "base/core.py"))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"base/core\.py: Permission denied; nothing has been changed"):
        update(project)
    assert snapshot(project) == before and not tested and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--update"], "the following arguments are required: path"),
        (["--update", "--adopt", "a"], "--adopt: not allowed with argument --update"),
        (["a", "--dry-run"], "--dry-run: is for --adopt and --update"),
        (["a", "--force"], "--force: is for --update"),
        (["--update", "a", "--name", "b"], "--name: is for a new project"),
        (["--update", "nowhere"], "nowhere: is no folder; give the folder of a project"),
        (["--update", "nowhere", "--rooms", "base"], "--rooms: invalid choice: 'base'"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(arguments, message, tmp_path):
    done = run_here("new_project.py", *arguments, cwd=tmp_path, status=2)
    assert message in done.stderr and len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())
