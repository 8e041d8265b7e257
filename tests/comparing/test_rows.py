"""Rows and groups: what is averaged, and which keys of the config are shown."""

import statistics

import pytest
from made_runs import make_run

from comparing.rows import differing_keys, grouped, keys_shown, rows_of
from logger.run_index import read_runs


def rows_below(folder):
    return rows_of(read_runs(folder))


def test_runs_that_differ_in_seed_alone_are_one_row_with_mean_and_deviation(tmp_path):
    best = (0.5, 0.75, 0.875)
    for seed, value in enumerate(best):
        make_run(tmp_path, f"s{seed}", name=f"job-seed{seed}", seed=seed, accuracies=(0.25, value))
    make_run(tmp_path, "other", optimizer__args__lr=0.5)
    group, other = grouped(rows_below(tmp_path))
    assert group.cells["best"] == pytest.approx((statistics.fmean(best), statistics.stdev(best), 3))
    assert (group.cells["name"], group.cells["run"], group.cells["state"]) == ("job", "3 runs", "finished")
    assert group.cells["seed"] == "3 values" and group.cells["optimizer.args.lr"] == 0.1
    assert other.cells["best"] == 0.75 and other.runs[0].run == "other"
    assert differing_keys([group, other]) == ["seed", "optimizer.args.lr"]


def test_folds_are_a_group_and_repetitions_of_one_run_are_not(tmp_path):
    for fold in (1, 2):
        make_run(tmp_path, f"f{fold}", name=f"job-fold{fold}of2", data_loader__args__fold=f"{fold}/2")
    make_run(tmp_path, "again1")
    make_run(tmp_path, "again2")
    assert [len(row.runs) for row in grouped(rows_below(tmp_path))] == [2, 1, 1]


def test_a_run_that_died_and_was_started_again_counts_once(tmp_path):
    make_run(tmp_path, "a", seed=1, accuracies=(0.5,), ended=False)
    make_run(tmp_path, "b", seed=1, accuracies=(0.75,))
    make_run(tmp_path, "c", seed=2, accuracies=(0.25,))
    (group,) = grouped(rows_below(tmp_path))
    assert group.cells["best"][::2] == (0.5, 2) and len(group.runs) == 3
    assert group.cells["state"] == "2 finished" and [run.run for run in group.counted] == ["b", "c"]


def test_a_value_that_one_run_of_a_group_lacks_has_no_mean(tmp_path):
    make_run(tmp_path, "a", seed=1)
    make_run(tmp_path, "b", seed=2, accuracies=())
    (group,) = grouped(rows_below(tmp_path))
    assert group.cells["best"] is None and group.cells["val_loss"] is None


def test_runs_of_several_commits_in_a_group_are_told(tmp_path):
    for seed in (1, 2):
        make_run(tmp_path, f"s{seed}", seed=seed, commit=f"{seed}" * 40)
    assert "2 commits" in grouped(rows_below(tmp_path))[0].note


def test_only_keys_in_which_runs_differ_are_shown(tmp_path):
    make_run(tmp_path, "a", description="one", trainer__save_dir="x", trainer__epochs=5)
    make_run(tmp_path, "b", optimizer__args__lr=1, extra={})
    damaged = make_run(tmp_path, "c")
    (damaged / "config.json").write_text("{")
    assert differing_keys(rows_below(tmp_path)) == ["optimizer.args.lr"]


def test_of_different_jobs_those_keys_are_shown_that_tell_the_runs_of_one_job_apart(tmp_path):
    make_run(tmp_path, "a", optimizer__args__lr=1)
    make_run(tmp_path, "b", optimizer__args__lr=2)
    make_run(tmp_path, "c", name="other", own={f"key{i}": i for i in range(20)})
    shown, further = keys_shown(rows_below(tmp_path))
    assert shown == ["optimizer.args.lr"] and len(further) == 20


def test_a_key_of_the_config_that_is_also_logged_can_be_told_apart(tmp_path):
    make_run(tmp_path, "a", lr=7, time="x", state=3)
    (row,) = rows_below(tmp_path)
    assert (row.cells["lr"], row.cells["config.lr"], row.cells["config.time"]) == (0.1, 7, "x")
    assert row.cells["state"] == "finished" and row.cells["config.state"] == 3
