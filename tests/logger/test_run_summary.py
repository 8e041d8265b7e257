"""What is read from the files of a run, whatever program wrote them and however it ended."""

import json
import math
import os
import subprocess
import sys

import pytest
from made_runs import make_old_run, make_run

from helpers import ran
from logger.run_summary import flattened, read_history, summarize

_HOLD = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"


def state_of(folder):
    run = summarize(folder, os.stat(folder).st_mtime).with_present_state()
    return run.state, run.epoch, run.batch, run.reason


def test_best_value_its_epoch_and_the_values_of_that_epoch(tmp_path):
    run = summarize(make_run(tmp_path, "a", accuracies=(0.5, 0.75, math.nan, 0.75)))
    assert (run.best, run.best_epoch, run.epoch, run.epochs) == (0.75, 2, 4, 3)
    assert run.values == {"loss": 0.5, "lr": 0.1, "val_loss": 0.25, "val_accuracy": 0.75}
    assert (run.name, run.run, run.seconds, run.started) == ("job", "a", 6.0, "2026-01-02T03:00:00+00:00")
    assert run.config["optimizer.args.lr"] == 0.1 and run.config["loss.type"] == "cross_entropy"


def test_the_time_of_the_epochs_is_that_of_the_table_of_paces_if_it_has_all(tmp_path):
    folder = make_run(tmp_path, "a")
    table = tmp_path / "log" / "job" / "a" / "pace.csv"
    table.write_text("epoch,seconds,batches\n1,2.5,4\n2,2.25,4\n")
    assert summarize(folder).seconds == 4.5  # as info.log says
    table.write_text("epoch,seconds,batches\n1,2.5,4\n2,2.25,4\n3,2.0,4\n")
    assert summarize(folder).seconds == 6.75


def test_a_run_that_monitors_nothing_has_the_values_of_its_last_epoch(tmp_path):
    run = summarize(make_run(tmp_path, "a", trainer__monitor="off"))
    assert (run.best, run.best_epoch, run.values["val_accuracy"]) == (None, None, 0.625)


def test_the_summary_of_a_real_run_agrees_with_its_trainer(tmp_path):
    _, trainer = ran(tmp_path, [0.5, 0.25, math.nan, 0.75])
    run = summarize(trainer.checkpoint_dir).with_present_state()
    assert (run.state, run.epoch, run.best, run.best_epoch) == ("finished", 4, trainer.mnt_best, trainer.best_epoch)
    assert run.seconds is not None and run.environment["host"] and run.config["optimizer.args.lr"] == 0.1


def test_a_run_ended_early_says_why(tmp_path):
    _, trainer = ran(tmp_path, [0.5, 0.75, 0.75, 0.75], early_stop=1)
    run = summarize(trainer.checkpoint_dir)
    assert (run.state, run.epoch, run.reason) == ("finished", 2, "training stops: no better val_loss for 1 epoch")


@pytest.mark.parametrize(
    "log, state",
    [
        ("", ("died", 3, 0, "")),
        ("2026-01-02 03:00:09,000 WARNING trainer: stopped by Ctrl-C in epoch 4; resume with: x\n", "stopped"),
        ("2026-01-02 03:00:09,000 WARNING trainer: stopped in epoch 4; no checkpoint was saved yet\n", "stopped"),
        ("2026-01-02 03:00:09,000 ERROR run: the loss is nan\n", "failed"),
        ("2026-01-02 03:00:09,000 ERROR run: Traceback:\n  File x\nValueError: odd\n", "failed"),
        ("2026-01-02 02:59:59,000 ERROR run: of the start before\n", "died"),
        ("2026-01-02 03:00:09,000 ERROR trackers: a tracker failed\n", "died"),
    ],
)
def test_how_a_run_ended_is_read_from_its_last_words(log, state, tmp_path):
    found = state_of(make_run(tmp_path, "a", ended=False, log=log))
    assert found == state or found[0] == state
    reasons = {"Ctrl-C": "by Ctrl-C", "the loss": "the loss is nan", "Traceback": "ValueError: odd"}
    assert found[3] == next((reason for word, reason in reasons.items() if word in log), "")


def test_the_newest_checkpoint_says_how_far_a_run_came(tmp_path):
    folder = make_run(tmp_path, "a", ended=False)
    for name in ("checkpoint-epoch4-batch17.pth", "checkpoint-epoch4-batch9.pth", "overtaken-checkpoint-epoch9.pth"):
        (folder / name).touch()
    assert state_of(folder) == ("died", 3, 17, "")


def test_a_run_whose_lock_is_held_runs_and_one_of_another_host_may_run(tmp_path):
    folder = make_run(tmp_path, "a", ended=False, log="2026-01-02 03:00:09,000 ERROR run: before\n")
    command = [sys.executable, "-c", _HOLD, folder / ".lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stdout.readline()
        assert state_of(folder)[0] == "running"
        process.stdin.close()
    assert state_of(folder)[0] == "failed"
    elsewhere = make_run(tmp_path, "b", ended=False)
    start = json.loads((elsewhere / "environment.json").read_text())
    (elsewhere / "environment.json").write_text(json.dumps([start[0] | {"host": "another"}]))
    assert state_of(elsewhere)[0] == "running?"
    os.utime(elsewhere, (0, 0))
    assert state_of(elsewhere)[0] == "died?"


def test_runs_of_the_old_template_are_read_from_their_info_log(tmp_path):
    run = summarize(make_old_run(tmp_path)).with_present_state()
    assert (run.state, run.epoch, run.best, run.best_epoch, run.seconds) == ("finished", 2, 0.5, 2, 15.0)
    folder = make_old_run(tmp_path, "0102_040506", planned=9)
    assert state_of(folder)[:2] == ("running?", 2)  # it has no lock and no record, so nobody knows
    assert [row["val_loss"] for row in read_history(folder)] == [1.0, 0.5]


def test_a_run_without_metrics_csv_still_has_its_epochs(tmp_path):
    folder = make_run(tmp_path, "a")
    (tmp_path / "log" / "job" / "a" / "metrics.csv").unlink()
    run = summarize(folder)
    assert (run.state, run.epoch, run.best, run.values) == ("finished", 3, None, {})


@pytest.mark.parametrize(
    "file, content",
    [
        ("config.json", b"{"),
        ("config.json", b"[" * 100_000),
        ("config.json", None),
        ("environment.json", b"{}"),
        ("test_results.json", b"\xff"),
        ("metrics.csv", b"epoch,loss\n1\n"),
        ("metrics.csv", b"loss\n1\n"),
    ],
)
def test_a_damaged_file_is_named_and_the_others_are_read(file, content, tmp_path):
    folder = make_run(tmp_path, "a")
    place = (tmp_path / "log" / "job" / "a" if file == "metrics.csv" else folder) / file
    place.write_bytes(content) if content is not None else place.unlink()
    run = summarize(folder).with_present_state()
    assert run.state == "damaged" and file in run.reason and "\n" not in run.reason
    assert run.best == (None if "config" in file or "metrics" in file else 0.75)


def test_the_test_result_is_that_of_the_best_model_else_of_the_newest_checkpoint(tmp_path):
    folder = make_run(tmp_path, "a")
    results = {
        "checkpoint-epoch10.pth": {"test": {"epoch": 10, "samples": 9, "loss": 1.5, "table": [[1]]}},
        "checkpoint-epoch9.pth": {"test": {"loss": 2}},
        "model_best.pth": {"valid": {"loss": 9.0}},
    }
    (folder / "test_results.json").write_text(json.dumps(results))
    run = summarize(folder)
    assert (run.test, run.test_checkpoint, run.test_epoch) == ({"loss": 1.5}, "checkpoint-epoch10.pth", 10)
    (folder / "test_results.json").write_text(json.dumps(results | {"model_best.pth": {"test": {"loss": 3}}}))
    run = summarize(folder)
    assert (run.test, run.test_checkpoint, run.test_epoch) == ({"loss": 3.0}, "model_best.pth", None)


def test_configs_are_flattened_to_what_set_takes():
    config = {"$schema": "x", "loss": "nll", "metrics": ["a"], "callbacks": ["A", {"type": "B", "args": {"k": 1}}]}
    flat = {"loss.type": "nll", "metrics": ["a"], "callbacks.0.type": "A", "callbacks.1.type": "B"}
    assert flattened(config) == flat | {"callbacks.1.args.k": 1}
