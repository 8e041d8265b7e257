"""environment.json records each start, and uncommitted.diff what of the project's files is in no commit."""

import os
import subprocess
from pathlib import Path

import pytest

from base import BaseDataLoader
from utils.files import read_json
from utils.runs import environment
from utils.runs.environment import RunRecord, changes_file, last_start, uncommitted_changes


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


def test_a_file_that_cannot_be_read_stops_nothing(project, monkeypatch):
    for name in ("a.py", "b.py"):
        (project / name).write_text(f"{name}\n")

    def refuses(path, *arguments, **more):
        if Path(path).name == "a.py":
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, *arguments, **more)

    monkeypatch.setattr(environment, "open", refuses, raising=False)
    monkeypatch.setattr(Path, "read_bytes", lambda path: refuses(path, "rb").read())
    assert b"+b.py" in uncommitted_changes() and b"+a.py" not in uncommitted_changes()


def test_of_many_new_files_the_first_are_looked_at_and_binary_ones_at_their_beginning(project, monkeypatch):
    monkeypatch.setattr(environment, "_MOST_FILES", 3)
    for i in range(2):
        (project / f"{i}.bin").write_bytes(b"\0" + bytes(900_000))
    for i in range(2, 5):
        (project / f"{i}.py").write_text(f"number {i}\n")
    read = []

    def counts(path, *arguments, **more):
        file = open(path, *arguments, **more)  # noqa: SIM115
        read_all = file.read
        file.read = lambda size=-1: read.append(len(found := read_all(size))) or found
        return file

    monkeypatch.setattr(environment, "open", counts, raising=False)
    changes = uncommitted_changes()
    assert b"+number 2" in changes and b"number 3" not in changes and sum(read) < 20_000


def test_a_pipe_in_the_place_of_the_record_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "environment.json")
    assert last_start(tmp_path) == {}


@pytest.mark.parametrize("name", [None, 3, "", "..", "a/b", "/etc/hosts"])
def test_the_name_of_the_changes_is_that_of_a_file(name):
    assert changes_file({"git_diff": name}) is None and changes_file({"git_diff": "a.diff"}) == "a.diff"


def test_without_a_repository_there_is_nothing_to_save(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_PROJECT", tmp_path / "none")
    start = begin(tmp_path / "run", tmp_path / "log")
    assert start["git_commit"] is None and start["git_dirty"] is None and "git_diff" not in start
    assert not list((tmp_path / "log").iterdir())


def test_the_data_of_a_training_are_recorded_and_kept_by_a_start_that_trains_nothing(tmp_path):
    loaders = [BaseDataLoader(list(range(number)), 2, False, 0.0, 0) for number in (6, 8)]
    RunRecord(tmp_path).begin(None)
    for loader in loaders:
        record = RunRecord(tmp_path)
        record.begin(None)
        record.train(loader)
        RunRecord(tmp_path).begin(None)
        data = last_start(tmp_path)["data"]
        assert data == {key: loader.state_dict()[key] for key in ("samples", "fingerprint", "part")}
    record.train([1, 2])  # a loader of another library, of whose data nothing is known
    assert last_start(tmp_path)["data"]["samples"] == 8
