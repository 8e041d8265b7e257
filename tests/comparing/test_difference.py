"""--diff: a word for config, data, environment, code and results."""

import subprocess

import pytest
from made_runs import make_run

from comparing.difference import find_run, report_differences
from helpers import PROJECT
from utils import UserError

DIFF = "diff --git a/model/model.py b/model/model.py\n--- a/model/model.py\n+++ b/model/model.py\n+x\n-{}\n"


@pytest.fixture
def told(tmp_path, capsys):
    """Makes the lines that --diff prints for the runs a and b of the folder, {part: lines}."""

    def words():
        report_differences(["a", "b"], [str(tmp_path)])
        parts = capsys.readouterr().out.split("\n\n")[1:]
        return {part.partition(":")[0]: part.strip().splitlines() for part in parts}

    return words


def test_equal_runs_are_the_same_in_all(tmp_path, told):
    for name in "ab":
        make_run(tmp_path, name, trainer__save_dir=name)
    parts = ("config", "data", "environment", "code", "results")
    assert told() == {part: [f"{part}: the same"] for part in parts}


def test_what_differs_is_shown(tmp_path, told):
    make_run(tmp_path, "a")
    make_run(tmp_path, "b", optimizer__args__lr=0.5, accuracies=(0.5,), ended=False)
    words = told()
    assert words["config"] == ["config: differs", "    optimizer.args.lr: 0.1 -> 0.5"]
    assert '    state: "finished" -> "died"' in words["results"] and words["code"] == ["code: the same"]
    assert "    best.max val_accuracy: 0.75 -> 0.5" in words["results"]


def test_data_that_have_changed_under_the_same_name_differ(tmp_path, told):
    make_run(tmp_path, "a")
    make_run(tmp_path, "b", fingerprint="cd")
    words = told()
    assert words["config"] == ["config: the same"]
    assert words["data"] == ["data: differs", '    fingerprint: "ab" -> "cd"']


def test_uncommitted_changes_are_compared_if_they_were_saved(tmp_path, told):
    make_run(tmp_path, "a", diff="uncommitted.diff")
    make_run(tmp_path, "b", diff="uncommitted-2.diff")
    assert told()["code"] == ["code: unknown; not all of it is saved for A and B"]
    logs = tmp_path / "log" / "job"
    (logs / "a" / "uncommitted.diff").write_text(DIFF.format("y"))
    (logs / "b" / "uncommitted.diff").write_text(DIFF.format("of an earlier start"))
    (logs / "b" / "uncommitted-2.diff").write_text(DIFF.format("y"))
    assert told()["code"] == ["code: the same"]
    (logs / "b" / "uncommitted-2.diff").write_text(DIFF.format("z"))
    word, line = told()["code"]
    assert word == "code: differs" and line.strip().startswith('uncommitted changes.model/model.py: "+1 -1, ')


@pytest.mark.parametrize("name", ["../a/uncommitted.diff", "/{}/log/job/a/uncommitted.diff", "..", ""])
def test_the_file_of_changes_is_in_the_folder_of_the_run(tmp_path, told, name):
    make_run(tmp_path, "a", diff="uncommitted.diff")
    make_run(tmp_path, "b", diff=name.format(tmp_path))
    (tmp_path / "log" / "job" / "a" / "uncommitted.diff").write_text(DIFF.format("y"))
    assert told()["code"][0].endswith("differs") and "not saved" in told()["code"][1]


def test_commits_between_two_runs_are_listed(tmp_path, told):
    done = subprocess.run(["git", "log", "--format=%H", "-2"], cwd=PROJECT, capture_output=True, text=True)
    if len(commits := done.stdout.split()) < 2:
        pytest.skip("there is no repository with two commits")
    make_run(tmp_path, "a", commit=commits[1])
    make_run(tmp_path, "b", commit=commits[0])
    words = told()["code"]
    assert words[0] == "code: differs" and any(f"+ {commits[0][:7]}" in line for line in words)


def test_a_commit_from_a_stranger_is_no_option_of_git(tmp_path, told):
    make_run(tmp_path, "a", commit=f"--output={tmp_path}/made")
    make_run(tmp_path, "b")
    assert told()["code"][0] == "code: differs" and not (tmp_path / "made").exists()


def test_runs_without_records_are_unknown_and_not_the_same(tmp_path, told):
    for name in "ab":
        folder = make_run(tmp_path, name)
        (folder / "environment.json").unlink()
    words = told()
    assert words["environment"] == ["environment: unknown; not all of it is saved for A and B"]
    assert words["code"][0].startswith("code: unknown")


def test_a_run_is_found_by_folder_log_checkpoint_and_name(tmp_path):
    folder = make_run(tmp_path, "a")
    make_run(tmp_path, "a", name="other")
    make_run(tmp_path, "b")
    places = (folder, folder / "checkpoint-epoch3.pth", tmp_path / "log" / "job" / "a", "job/a")
    assert {find_run(str(place), [str(tmp_path)]).folder for place in places} == {str(folder)}
    for text, why in (("a", "may be"), ("c", "no such run"), (str(tmp_path), "holds 3 runs"), ("job/c", "no such run")):
        with pytest.raises(UserError, match=why):
            find_run(text, [str(tmp_path)])
