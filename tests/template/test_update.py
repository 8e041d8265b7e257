"""new_project.py --update brings the framework of a project to the template's version and keeps what is the user's."""

import hashlib
import json
import shutil
import sys

import pytest
from forked import run_forked
from small_template import CORE, FIRST, PICTURE, SECOND, THIRD, changed, commit, files, git, snapshot, write

import new_project
import scaffold.template
import scaffold.update
from helpers import PROJECT, SHORT
from scaffold.tasks.plan import Plan
from scaffold.update import update
from scaffold.updating.history import commit_of
from utils.errors import UserError
from utils.files import read_json


def fresh(tmp_path):
    """The files of a project that is made today."""
    new_project.main(tmp_path / "fresh", name="my project", git=False)
    return files(tmp_path / "fresh")


ROOMS = ("model/", "trainer/", "config.json", "README.md")


def framework(found):
    return {place: content for place, content in found.items() if not place.startswith(ROOMS)}


def test_an_unchanged_project_gets_the_framework_of_a_new_one_and_keeps_all_else(
    template, project, tested, tmp_path, capsys
):
    commit(project, {"base/mine.py": "mine\n", "notes/a.txt": "a\n"})
    before = files(project)
    commit(template, SECOND)
    assert update(project) == 0 and tested == [project]
    after = files(project)
    mine = {"base/mine.py": b"mine\n", "notes/a.txt": b"a\n"}
    manifest = json.loads(after.pop("template.json"))
    new = fresh(tmp_path)
    assert manifest == json.loads(new.pop("template.json")) | {"rooms": manifest["rooms"]}
    assert framework(after) == framework(new) | mine
    assert b"theirs" in after["base/tools.py"] and b"jobs" not in after["docs/README.md"]
    assert all(after[place] == before[place] for place in before if place.startswith(ROOMS))
    assert not (project / "base" / "deep").exists() and not list(project.glob(".update*"))
    lines = capsys.readouterr().out.splitlines()
    for line in (
        "added     base/new.py",
        "replaced  base/core.py",
        "renamed   base/helper.py: is now base/tools.py",
        "removed   base/gone.py",
        "replaced  tests/test_project.py",
    ):
        assert f"  {line}" in lines
    assert "1 added, 5 replaced, 1 renamed, 2 removed" in lines

    commit(project, {})
    assert update(project) == 0 and tested == [project]
    assert capsys.readouterr().out.endswith("it is up to date\n") and git(project, "status", "--porcelain") == ""


def test_changes_of_both_are_merged_again_and_again(template, project, tested, capsys):
    commit(project, {"base/core.py": changed(CORE, 9)})
    for version in (SECOND, THIRD):
        commit(template, version)
        assert update(project) == 0
        assert (project / "base/core.py").read_text() == changed(version["base/core.py"], 9)
        theirs = hashlib.sha256(version["base/core.py"].encode()).hexdigest()
        assert read_json(project / "template.json")["files"]["base/core.py"] == theirs
        assert "  merged    base/core.py\n" in capsys.readouterr().out
        commit(project, {})
    assert tested == [project, project]
    commit(template, {"base/core.py": changed(THIRD["base/core.py"], 9)})  # the template has come to the same
    assert update(project) == 0 and git(project, "status", "--porcelain") == " M template.json\n"


def test_conflicts_stay_in_the_file_and_are_told_until_they_are_resolved(template, project, tested, capsys):
    commit(project, {"base/core.py": changed(CORE, 3), "train.py": changed(FIRST["train.py"], 3)})
    commit(template, SECOND)
    assert update(project) == 1 and not tested
    ours, theirs = "line_3 = 'mine'\n", "line_3 = 'theirs'\n"
    marked = f"<<<<<<< yours\n{ours}=======\n{theirs}>>>>>>> the template's\n"
    assert (project / "base/core.py").read_text() == CORE.replace("line_3 = 3\n", marked)
    assert (project / "train.py").read_text() == changed(FIRST["train.py"], 3)  # only the user has changed it
    assert not list(project.rglob("*.rej")) and not list(project.rglob("*.orig"))
    out = capsys.readouterr().out
    assert (
        "  train.py" not in out
        and "\n  CONFLICT  base/core.py\n" in out
        and "marked by <<<<<<< yours, in base/core.py\n" in out
    )

    commit(project, {})
    with pytest.raises(UserError, match=r"base/core\.py: has conflicts of an earlier update; resolve them first"):
        update(project)
    commit(project, {"base/core.py": SECOND["base/core.py"]})
    commit(template, THIRD)
    assert update(project) == 0 and (project / "base/core.py").read_text() == THIRD["base/core.py"]


def test_changes_follow_a_renamed_file_and_a_removed_one_is_left_to_the_user(template, project, tested, capsys):
    own = {
        "base/helper.py": changed(FIRST["base/helper.py"], 9),
        "base/gone.py": "gone = 'mine'\n",
        "base/new.py": "my own\n",
        "test.py": None,
        "train.py": None,
        "docs/picture.png": PICTURE + b"mine",
    }
    commit(project, own)
    commit(template, SECOND | {"train.py": "train = 2\n"})
    assert update(project) == 0
    assert (project / "base/tools.py").read_text() == changed(SECOND["base/tools.py"], 9)
    assert not (project / "base/helper.py").exists() and not (project / "train.py").exists()
    for place in ("base/gone.py", "base/new.py"):
        assert (project / place).read_text() == own[place]
    assert (project / "docs/picture.png").read_bytes() == own["docs/picture.png"]
    out = capsys.readouterr().out
    for line in (
        "absent    train.py: changed in the template; you have removed it",
        "kept      base/gone.py: no longer in the template, now yours",
        "kept      base/new.py: yours, though the template now has a file of this name",
        "kept      docs/picture.png: not text; you have changed it, and so has the template",
        "merged    base/tools.py",
    ):
        assert f"\n  {line}\n" in out, out
    assert "  test.py" not in out  # removed by the user alone
    recorded = read_json(project / "template.json")["files"].keys()
    assert not recorded & {"base/gone.py", "base/new.py", "base/helper.py"} and recorded >= {
        "base/tools.py",
        "train.py",
    }

    commit(project, {})
    commit(template, {"base/gone.py": "gone = 3\n"})
    assert update(project) == 0 and (project / "base/gone.py").read_text() == "gone = 'mine'\n"


def test_rooms_are_merged_if_asked_for_from_the_version_that_they_come_from(template, project, tested, capsys):
    mine = changed(FIRST["trainer/trainer.py"], 9)
    commit(project, {"trainer/trainer.py": mine, "trainer/own.py": "own\n"})
    model = (project / "model/model.py").read_bytes()
    first = read_json(project / "template.json")["version"]
    commit(template, SECOND)
    assert update(project) == 0 and (project / "trainer/trainer.py").read_text() == mine
    assert read_json(project / "template.json")["rooms"] == {"model": first, "trainer": first}
    out = capsys.readouterr().out  # also of the one that has changes of the user's, for it calls the framework's loop
    assert all(
        f"though changed in the template: {place}\n" in out for place in ("model/model.py", "trainer/trainer.py")
    )
    commit(project, {})
    commit(template, THIRD)
    assert update(project, rooms=["trainer"]) == 0
    assert (project / "trainer/trainer.py").read_text() == changed(THIRD["trainer/trainer.py"], 9)
    assert (project / "trainer/own.py").read_text() == "own\n" and (project / "model/model.py").read_bytes() == model
    manifest = read_json(project / "template.json")
    assert manifest["rooms"] == {"model": first} and not any(place.startswith("trainer") for place in manifest["files"])


def test_files_that_a_task_has_written_are_not_merged_with_those_of_the_default_job(template, tmp_path, tested, capsys):
    project, rooms = tmp_path / "tables", {"model/model.py": "class TableNet: ...\n"}
    plan = Plan("command", ["rows"], {"model": "small"}, {"seed": 1}, rooms, "x", keeps_mnist=True)
    write(template, {"project/README.md": (PROJECT / "project" / "README.md").read_text()})
    new_project.main(project, plan=plan)
    commit(template, SECOND | {"model/loss.py": "loss = 2\n"})
    assert update(project) == 0
    assert "though changed in the template: model" not in capsys.readouterr().out
    commit(project, {})
    commit(template, THIRD | {"model/model.py": changed(FIRST["model/model.py"], 8, "'theirs'")})
    assert update(project, rooms=["model", "trainer"]) == 0
    assert (project / "model/model.py").read_text() == rooms["model/model.py"]
    assert (project / "model/loss.py").read_text() == "loss = 2\n"
    assert "  kept      model/model.py: made by --task" in capsys.readouterr().out
    assert read_json(project / "template.json")["of_task"] == ["model/model.py"]


def test_what_a_project_that_was_moved_in_does_without_is_not_brought_in(template, project, tested):
    manifest = read_json(project / "template.json") | {"left_out": ["docs", "train.py", "base/new.py"]}
    own = {
        "train.py": "my own\n",
        "tests/test_project.py": "my own\n",
        "docs/README.md": None,
        "docs/picture.png": None,
    }
    manifest["files"] = {place: value for place, value in manifest["files"].items() if place not in own}
    commit(project, own | {"template.json": json.dumps(manifest)})
    commit(template, SECOND | {"train.py": "train = 2\n", "docs/new.md": "new\n"})
    with pytest.raises(UserError, match="was moved in by --adopt; its rooms do not come from the template"):
        update(project, rooms=["trainer"])
    assert update(project) == 0
    assert (project / "base/core.py").read_text() == SECOND["base/core.py"]
    assert not list((project / "docs").iterdir()) and not (project / "base/new.py").exists()
    assert all((project / place).read_text() == "my own\n" for place in ("train.py", "tests/test_project.py"))
    after = read_json(project / "template.json")
    assert after.keys() == {"version", "left_out", "files"} and after["left_out"] == manifest["left_out"]
    assert after["files"].keys() == {"base/core.py", "base/tools.py", "test.py"}


def test_a_file_that_was_removed_or_left_out_does_not_come_back_under_another_name(template, project, tested, capsys):
    commit(project, {"base/helper.py": None})
    left_out = read_json(project / "template.json") | {"left_out": ["base/core.py"]}
    commit(project, {"base/core.py": None, "template.json": json.dumps(left_out)})
    commit(template, SECOND | {"base/core.py": None, "base/kernel.py": CORE})
    assert update(project) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  absent    base/tools.py: was base/helper.py, which you have removed" in lines
    assert "  absent    base/kernel.py: was base/core.py, which you do without" in lines
    commit(project, {})
    commit(template, {"base/tools.py": "tools = 3\n", "base/kernel.py": "kernel = 3\n"})
    assert update(project) == 0
    assert not (project / "base/tools.py").exists() and not (project / "base/kernel.py").exists()


def test_a_project_without_our_makefile_and_requirements_is_told_what_to_install(
    template, project, monkeypatch, capsys
):
    monkeypatch.setattr(scaffold.update, "_has_pytest", lambda python: False)
    commit(template, {"requirements.txt": "torch>=2\nnumpy>=1\ntqdm>=4\n"})
    manifest = read_json(project / "template.json")
    manifest |= {"left_out": ["requirements.txt"], "version": git(template, "rev-parse", "HEAD").strip()}
    commit(project, {"requirements.txt": "Torch==2.1\nnumpy\ntqdm\nmine\n", "template.json": json.dumps(manifest)})
    commit(template, SECOND | {"requirements.txt": "torch>=3\nnumpy>=1\ntqdm>=4\npydantic>=2  # new\n"})
    assert update(project) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "add to requirements.txt, which is yours: pydantic>=2, torch>=3" in lines
    assert lines[-1].endswith("not installed; run pip install -r requirements.txt pytest && python -m pytest")


def test_a_dry_run_says_the_same_and_changes_nothing(template, project, tested, capsys):
    write(project, {"base/core.py": changed(CORE, 9)})
    commit(template, SECOND)
    before = snapshot(project)
    index = (project / ".git/index").read_bytes()
    capsys.readouterr()
    assert update(project, dry_run=True) == 0
    told = capsys.readouterr().out
    risk = "has uncommitted work, such as base/core.py"
    assert told.endswith(f"nothing has been changed; the project {risk}\n")
    assert snapshot(project) == before and (project / ".git/index").read_bytes() == index and not tested
    assert update(project, force=True) == 0
    assert capsys.readouterr().out == told.replace(f"nothing has been changed; the project {risk}\n", "")


@pytest.mark.parametrize("lost", ["version", "history", "file"])
def test_without_its_version_a_file_is_merged_from_the_history_or_each_difference_is_marked(
    template, project, tested, lost, capsys
):
    manifest = read_json(project / "template.json")
    got = CORE
    if lost == "version":
        manifest["version"] = None
    elif lost == "file":  # the template had changes that were never committed
        got = changed(CORE, 12)
        manifest["version"] += "-dirty"
        manifest["files"]["base/core.py"] = hashlib.sha256(got.encode()).hexdigest()
    commit(project, {"base/core.py": changed(got, 9), "template.json": json.dumps(manifest)})
    commit(template, SECOND)
    if lost == "history":
        shutil.rmtree(template / ".git")
    status = update(project)
    text, out = (project / "base/core.py").read_text(), capsys.readouterr().out
    assert not (project / "base/gone.py").exists()
    assert ("the template's git history cannot be read" in out) == (lost == "history")
    if lost == "version":
        assert status == 0 and text == changed(SECOND["base/core.py"], 9)
    else:
        assert status == 1 and text.count("<<<<<<< yours\n") >= 2
        assert "line_9 = 9\n" in text and "line_9 = 'mine'\n" in text and "line_3 = 'theirs'\n" in text
        assert "CONFLICT  base/core.py: each difference; the template's history lacks the file as you got it" in out


def test_other_line_endings_are_no_change_and_are_kept(template, project, tested):
    windows = {
        place: content.replace(b"\n", b"\r\n") for place, content in files(project).items() if b"\0" not in content
    }
    windows["train.py"] = changed(FIRST["train.py"], 9).replace("\n", "\r\n")
    commit(project, windows)
    commit(template, SECOND | {"train.py": changed(FIRST["train.py"], 3, "'theirs'")})
    assert update(project) == 0
    assert (project / "base/core.py").read_bytes() == SECOND["base/core.py"].replace("\n", "\r\n").encode()
    both = changed(changed(FIRST["train.py"], 3, "'theirs'"), 9)
    assert (project / "train.py").read_bytes() == both.replace("\n", "\r\n").encode()
    assert not (project / "base/gone.py").exists()


@pytest.mark.slow
def test_its_own_tests_run_in_its_own_environment_and_failures_are_told(template, project, capfd, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # which take seconds to import
    (project / ".venv/bin").mkdir(parents=True)
    python = project / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    commit(template, SECOND)
    assert update(project) == 0
    out = capfd.readouterr().out
    assert f"the project's tests, with {python}:\n" in out and "1 passed" in out
    commit(project, {"tests/test_mine.py": "def test_it():\n    assert 0\n"})
    commit(template, THIRD)
    shutil.rmtree(project / ".venv")
    assert update(project) == 1
    out = capfd.readouterr().out
    assert f"the project's tests, with {sys.executable}:\n" in out and "1 failed, 1 passed" in out
    assert "updated, but the tests fail" in out and "too old for the framework; --force --rooms model trainer" in out


def test_folders_may_be_links_within_the_project_and_a_project_a_part_of_a_repository(template, tmp_path, tested):
    whole = tmp_path / "whole"
    whole.mkdir()
    git(whole, "init", "-q")
    project = whole / "part"
    new_project.main(project)
    (project / "library").mkdir()
    shutil.move(project / "base", project / "library/base")
    (project / "base").symlink_to("library/base")
    commit(whole, {"part/base/core.py": changed(CORE, 9)})
    commit(template, SECOND)
    write(whole, {"beside.txt": "not committed, and not in the project\n"})
    assert update(project) == 0
    assert (project / "library/base/core.py").read_text() == changed(SECOND["base/core.py"], 9)
    assert (project / "base").is_symlink() and not (project / "library/base/gone.py").exists()


# The first version with a manifest, and two later ones; a clone without history, or with a part, may lack them.
EARLIER = ["e7c0414", "a1f0e8e", "92af108"]


@pytest.mark.slow
def test_projects_of_earlier_versions_of_this_repository_become_those_of_today(tmp_path, monkeypatch, tested):
    for name in ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL"):
        monkeypatch.setenv(f"GIT_{name}", "me@example.org")
    items = [*scaffold.template.FRAMEWORK, *scaffold.template.FRAMEWORK_OWN]
    new_project.main(tmp_path / "fresh", git=False)
    new = scaffold.template.contents(tmp_path / "fresh", items)
    for earlier in filter(commit_of, EARLIER):
        clone, project = tmp_path / f"clone_{earlier}", tmp_path / earlier
        git(tmp_path, "clone", "-q", "--shared", "--no-checkout", PROJECT, clone)
        git(clone, "checkout", "-q", earlier)
        run_forked(clone / "new_project.py", project)
        own = {
            "docs/config.md": (project / "docs/config.md").read_text() + "\nmine\n",
            "compare.py": None,
            "model/model.py": (project / "model/model.py").read_text() + "\n# mine\n",
            "base/mine.py": "mine = 1\n",
            "utils/folds.py": "mine = 2\n",  # which the first version has, and today's does not
        }
        commit(project, own)
        update(project, rooms=["trainer"])
        now = scaffold.template.contents(project, items)
        assert "compare.py" not in now and b"\nmine\n" in now.pop("docs/config.md")
        for place in ("base/mine.py", "utils/folds.py"):
            assert now.pop(place) == own[place].encode()
        assert now == {place: content for place, content in new.items() if place not in own}
        assert (project / "model/model.py").read_text() == own["model/model.py"]
        assert (project / "trainer/trainer.py").read_bytes() == (PROJECT / "trainer/trainer.py").read_bytes()
        if earlier == EARLIER[0]:  # most has changed since
            run_forked("train.py", "-c", "config.json", *SHORT, cwd=project)
