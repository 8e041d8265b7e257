"""environment.json records each start, and uncommitted.diff what of the project's files is in no commit."""

import subprocess

import pytest

from utils.files import read_json
from utils.runs import environment
from utils.runs.environment import RunRecord, uncommitted_changes


def git(folder, *arguments):
    names = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository with a file that is committed, in the place of the project."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "model.py").write_text("width = 1\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    monkeypatch.setattr(environment, "_PROJECT", folder)
    return folder


def begin(save_dir, log_dir, overridden=()):
    for folder in (save_dir, log_dir):
        folder.mkdir(exist_ok=True)
    RunRecord(save_dir).begin(None, overridden, log_dir)
    return read_json(save_dir / "environment.json")[-1]


def test_the_saved_changes_turn_the_commit_into_what_was_run(project, tmp_path):
    assert "git_diff" not in begin(tmp_path / "run", tmp_path / "log", ["trainer.epochs: 2 -> 3"])
    (project / "model.py").write_text("width = 2\n")
    (project / "new.py").write_text("depth = 3\nno end")
    (project / "empty.py").touch()
    (project / "weights.bin").write_bytes(b"\0\1")
    start = begin(tmp_path / "run", tmp_path / "log", ["trainer.epochs: 2 -> 3"])
    assert start["git_diff"] == "uncommitted-2.diff" and start["overridden"] == ["trainer.epochs: 2 -> 3"]
    git(tmp_path, "clone", "-q", project, "clone")
    git(tmp_path / "clone", "apply", tmp_path / "log" / "uncommitted-2.diff")
    for name in ("model.py", "new.py", "empty.py"):
        assert (tmp_path / "clone" / name).read_bytes() == (project / name).read_bytes()
    assert not (tmp_path / "clone" / "weights.bin").exists()


def test_a_second_start_with_the_same_changes_names_the_same_file(project, tmp_path):
    (project / "model.py").write_text("width = 2\n")
    names = [begin(tmp_path / "run", tmp_path / "log")["git_diff"] for _ in range(2)]
    (project / "model.py").write_text("width = 3\n")
    names.append(begin(tmp_path / "run", tmp_path / "log")["git_diff"])
    assert names == ["uncommitted.diff", "uncommitted.diff", "uncommitted-3.diff"]
    assert "+width = 2" in (tmp_path / "log" / "uncommitted.diff").read_text()


def test_changes_are_cut_at_a_megabyte(project):
    (project / "model.py").write_text("x = 1\n" * 300_000)
    changes = uncommitted_changes()
    assert 990_000 < len(changes) <= 1_000_000 and changes.endswith(
        b"+x = 1\n(cut here, since there are more than a megabyte of changes)\n"
    )
    (project / "model.py").write_text("width = 1\n")
    for i in range(3):
        (project / f"{i}.txt").write_text("y\n" * 300_000)
    assert len(uncommitted_changes()) <= 1_000_000


def test_without_a_repository_there_is_nothing_to_save(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_PROJECT", tmp_path / "none")
    start = begin(tmp_path / "run", tmp_path / "log")
    assert start["git_commit"] is None and start["git_dirty"] is None and "git_diff" not in start
    assert not list((tmp_path / "log").iterdir())
