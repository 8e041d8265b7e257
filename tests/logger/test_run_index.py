"""The index of runs: never wrong, never needed."""

import json
import os
import random

import pytest
from made_runs import make_old_run, make_run

from logger import run_index
from logger.run_index import INDEX, read_runs
from utils import UserError


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    monkeypatch.setattr(run_index, "_SETTLED_SECONDS", -1.0)  # take up what was written just now


@pytest.fixture
def counted(monkeypatch):
    """Names of the runs whose files were read."""
    names = []
    real = run_index.summarize
    monkeypatch.setattr(run_index, "summarize", lambda *given: names.append(given[0].name) or real(*given))
    return names


def test_runs_that_have_not_changed_are_not_read_again(tmp_path, counted):
    for name in ("a", "b", "c"):
        make_run(tmp_path, name)
    first = read_runs(tmp_path)
    assert counted == ["a", "b", "c"] and read_runs(tmp_path) == first and counted == ["a", "b", "c"]
    make_run(tmp_path, "d")
    assert [run.run for run in read_runs(tmp_path)] == ["a", "b", "c", "d"] and counted[3:] == ["d"]


def test_whatever_changes_in_a_run_the_summaries_are_those_without_an_index(tmp_path):
    choose = random.Random(1)
    folders = [make_run(tmp_path, f"run{i}", ended=i % 2 == 0) for i in range(4)]
    for step in range(60):
        folder = choose.choice(folders)
        logs = tmp_path / "log" / "job" / folder.name
        file = choose.choice([*folder.iterdir(), *logs.iterdir()])
        change = choose.randrange(5)
        if change == 0 and file.stat().st_size:
            content = bytearray(file.read_bytes())
            place = choose.randrange(len(content))
            content[place] = choose.choice(b"0123456789{}")  # of the same size, in place, with the time of before
            status = file.stat()
            file.write_bytes(content)
            while file.stat().st_ctime_ns == status.st_ctime_ns:  # the clock of the file system is coarse
                os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        elif change == 1:
            (folder / f"checkpoint-epoch{step}.pth").touch()
        elif change == 2:
            with (logs / "info.log").open("a") as log:
                log.write(f"2026-01-02 03:00:09,{step:03} ERROR run: error {step}\n")
        elif change == 3:
            (folder / "test_results.json").write_text(f'{{"model_best.pth": {{"test": {{"loss": {step}}}}}}}')
        else:
            file.unlink()
        known = read_runs(tmp_path)
        (tmp_path / INDEX).unlink(missing_ok=True)
        assert known == read_runs(tmp_path), (step, change, file)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', "\x00", "[" * 100_000])
def test_a_damaged_index_is_written_again(content, tmp_path, counted):
    make_run(tmp_path, "a")
    first = read_runs(tmp_path)
    whole = (tmp_path / INDEX).read_text()
    (tmp_path / INDEX).write_text(content)
    assert read_runs(tmp_path) == first and counted == ["a", "a"] and (tmp_path / INDEX).read_text() == whole


def test_entries_of_another_form_are_not_used(tmp_path, counted):
    make_run(tmp_path, "a")
    first = read_runs(tmp_path)
    index = json.loads((tmp_path / INDEX).read_text())
    for key in ("state", "values", "best", "config"):
        broken = json.loads(json.dumps(index))
        broken["runs"]["job/a"][1][key] = {"x": "y"} if key == "values" else [1]
        (tmp_path / INDEX).write_text(json.dumps(broken))
        assert read_runs(tmp_path) == first, key
    assert len(counted) == 5


@pytest.mark.parametrize("name", ["logger/run_summary.py", "logger/csv_log.py", "utils/runs/checkpoint.py"])
def test_the_version_is_of_all_code_that_reads_a_run(name, tmp_path, monkeypatch):
    for source in run_index._SOURCES:
        (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / source).touch()
    monkeypatch.setattr(run_index, "_PROJECT", tmp_path)
    before = run_index._version()
    (tmp_path / name).write_text("changed")
    assert run_index._version() != before


def test_a_new_version_of_the_program_reads_the_runs_again(tmp_path, counted, monkeypatch):
    make_run(tmp_path, "a")
    read_runs(tmp_path)
    monkeypatch.setattr(run_index, "_version", lambda: 2)
    read_runs(tmp_path)
    assert counted == ["a", "a"]


def test_a_run_that_has_just_changed_is_not_taken_up(tmp_path, counted, monkeypatch):
    monkeypatch.setattr(run_index, "_SETTLED_SECONDS", 2.0)
    make_run(tmp_path, "a")
    read_runs(tmp_path)
    assert not (tmp_path / INDEX).exists() and counted == ["a"]


def test_a_folder_that_cannot_be_written_needs_no_index(tmp_path, monkeypatch):
    def refuse(*_):
        raise UserError("read only")

    monkeypatch.setattr(run_index, "write_whole", refuse)
    make_run(tmp_path, "a")
    assert [run.state for run in read_runs(tmp_path)] == ["finished"]


def test_runs_are_found_from_every_folder_around_them(tmp_path):
    folder = make_run(tmp_path / "saved", "a")
    make_run(tmp_path / "saved", "b", name="other")
    make_old_run(tmp_path / "elsewhere" / "deep" / "saved")
    (tmp_path / "saved" / "models" / "job" / "empty").mkdir()
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path)
    found = {run.run for run in read_runs(tmp_path)}
    assert found == {"a", "b", "0102_030405"}
    for place in (folder, tmp_path / "saved" / "log" / "job" / "a", folder.parent, tmp_path / "saved" / "log" / "job"):
        assert [run.run for run in read_runs(place)] == ["a"], place
    for place in (tmp_path / "saved", tmp_path / "saved" / "models", tmp_path / "saved" / "log"):
        assert [run.run for run in read_runs(place)] == ["a", "b"], place
    assert len(read_runs(folder, tmp_path / "saved", folder.parent)) == 2  # each once
    with pytest.raises(UserError, match="no such folder"):
        read_runs(tmp_path / "none")
