"""sweep.py, as a user types it; what the trials do is made up by stub_train.py."""

import json
import os
import signal
import time

import pytest

from sweeping import report, trial_run
from sweeping.plan import Plan
from sweeps import STUB, load, make_job, start_sweep, states, sweep, told_by_sweep, undisturbed
from utils.files import read_json, write_json


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    """Drawing takes seconds; the test of the page alone waits for it."""
    if "page" not in request.node.name:
        monkeypatch.setattr(report, "draw_all", lambda study, folder, names: ({}, []))


@pytest.mark.slow
def test_trials_in_all_are_ordinary_runs_whose_best_epoch_counts(tmp_path):
    job = make_job(tmp_path)
    arguments = ["stub.x=0..1", "optimizer.args.lr=log:1e-4..1e-1", "--pruner", "Nop", "--trials"]
    told = told_by_sweep(job, *arguments, "4", "--jobs", "2")
    study = load(job)
    assert states(study) == ["COMPLETE"] * 4 and len({trial.params["stub.x"] for trial in study.trials}) == 4
    for trial in study.trials:
        epochs = undisturbed(trial.params["stub.x"], 3)
        assert trial.intermediate_values == dict(enumerate(epochs, start=1)) and trial.value == max(epochs)
        (run,) = (tmp_path / "saved" / "models").glob(f"job-sweep-{trial.number:03d}/*")
        assert trial.user_attrs["settings"] == trial.params and trial.user_attrs["run"].endswith(run.name)
    assert "4/4 trials done" in told and f"best    trial {study.best_trial.number}" in told
    (best,) = (tmp_path / "saved" / "models").glob(f"job-sweep-{study.best_trial.number:03d}/*")
    assert f"run     {best}\n" in told
    again = told_by_sweep(job, *arguments, "6")
    assert states(load(job)) == ["COMPLETE"] * 6 and load(job).trials[0].value == study.trials[0].value
    assert "6/6 trials done" in again


@pytest.mark.slow
def test_the_best_setting_becomes_a_config_and_the_command_to_train_it(tmp_path):
    job = make_job(tmp_path)
    told = told_by_sweep(job, "stub.x=0.1,0.2,0.3", "--trials", "3", "--sampler", "grid")
    folder = tmp_path / "saved" / "sweeps" / "job-sweep"
    best = read_json(folder / "best.json")
    expected = max((0.1, 0.2, 0.3), key=lambda x: max(undisturbed(x, 3)))
    assert best["stub"]["x"] == expected and best["name"] == "job-sweep-best"
    assert f"python {STUB} -c {folder / 'best.json'} --seeds 5" in told
    result = json.loads(sweep(job, "--report", "job-sweep", "--json").stdout)
    assert result["best"]["settings"] == {"stub.x": expected} and len(result["trials"]) == 3


@pytest.mark.slow
def test_a_page_shows_the_study_and_asks_nothing_of_any_network(tmp_path):
    job = make_job(tmp_path)
    sweep(job, "stub.x=0..1", "stub.mode=ok,fine", "--trials", "5")
    folder = tmp_path / "saved" / "sweeps" / "job-sweep"
    page = (folder / "sweep.html").read_text()
    pictures = ("history.png", "importances.png", "parallel.png", "slices.png")
    assert all((folder / name).stat().st_size > 1000 for name in pictures), page[-500:]
    assert (
        page.count("data:image/png;base64,") == 4
        and "http://" not in page
        and "https://" not in page
        and "best.json" in page
    )
    assert page.count("<tr>") == 6


def test_a_page_escapes_all_texts_and_lets_nothing_run(tmp_path):
    evil = "<script>\x1b"
    (tmp_path / "a.png").write_bytes(b"png")
    row = {"trial": 1, "state": "failed", "values": [], "epoch": None, "settings": {evil: evil}, "error": evil}
    page = report.page_of(evil, [row], [evil], {evil: tmp_path / "a.png"}, [evil], evil)
    assert "<script" not in page and "\x1b" not in page and page.count("&lt;script&gt;\\x1b") == 9
    assert "default-src 'none'" in page


@pytest.mark.slow
def test_a_file_says_it_all_with_conditions_and_seeds_and_several_objectives(tmp_path):
    job = make_job(tmp_path, epochs=2)
    write_json(
        {
            "study": "named",
            "space": {
                "optimizer": [{"type": "SGD", "args": {"lr": 0.1}}, {"type": "Adam", "args": {"lr": 0.1}}],
                "optimizer.args.momentum": {"values": [0.5, 0.9], "when": {"optimizer.type": "SGD"}},
                "stub.x": "0..1:0.5",
            },
            "objectives": ["max val_accuracy", "min parameters"],
            "seeds": 2,
            "sampler": "grid",
        },
        tmp_path / "sweep.json",
    )
    told = told_by_sweep(job, "-s", tmp_path / "sweep.json", "--jobs", "3")
    study = load(job, "named")
    assert states(study) == ["COMPLETE"] * 9 and "9/9 trials done" in told and "on the Pareto front" in told
    with_momentum = [trial for trial in study.trials if "optimizer.args.momentum" in trial.params]
    assert len(with_momentum) == 6
    for trial in study.trials:
        x = trial.params["stub.x"]
        both = [max(undisturbed(x, 2, seed)) for seed in (123, 124)]
        assert trial.values == [pytest.approx(sum(both) / 2, rel=1e-12), 1234.0]
    names = {path.name for path in (tmp_path / "saved" / "models").iterdir()}
    assert names == {f"named-{n:03d}-seed{seed}" for n in range(9) for seed in (123, 124)}


@pytest.mark.slow
def test_a_trial_that_was_killed_continues_from_its_checkpoint_with_the_same_values(tmp_path):
    job = make_job(tmp_path, epochs=5)
    sweep(job, "stub.x=0..1", "--set", 'stub.mode="killed once"', "--trials", "2")
    for trial in load(job).trials:
        assert list(trial.intermediate_values.values()) == undisturbed(trial.params["stub.x"], 5)
        (run,) = (tmp_path / "saved" / "models").glob(f"job-sweep-{trial.number:03d}/*")
        assert (run / "killed").exists()


@pytest.mark.slow
def test_a_trial_that_is_killed_without_end_has_failed(tmp_path):
    job = make_job(tmp_path)
    sweep(job, "stub.x=0..1", "--set", "stub.mode=crash", "--trials", "1")
    (trial,) = load(job).trials
    assert trial.state.name == "FAIL" and "killed 5 times by SIGKILL" in trial.user_attrs["error"]


@pytest.mark.slow
def test_a_failed_trial_is_shown_with_its_last_line_and_the_others_continue(tmp_path):
    job = make_job(tmp_path)
    told = told_by_sweep(job, "stub.x=0.1,0.2", "stub.mode=ok,error", "--sampler", "grid")
    assert states(load(job)) == ["COMPLETE", "FAIL", "COMPLETE", "FAIL"]
    assert "trial 1 failed: loss: nan in batch" in told and "2 failed" in told


@pytest.mark.slow
def test_three_failures_in_a_row_with_one_message_stop_the_sweep_and_say_why(tmp_path):
    job = make_job(tmp_path)
    ended = sweep(job, "stub.x=0..1", "--set", "stub.mode=error", "--trials", "9", status=2)
    assert states(load(job)) == ["FAIL"] * 3
    line = ended.stderr.splitlines()[-1]
    assert line.startswith("error: 3 trials in a row failed alike, so the sweep stops: loss: nan in batch")


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("unlogged", "objectives: nothing called 'val_accuracy' is logged; logged are other"),
        ("full", "No space left on device; the file before it is untouched; make room"),
    ],
)
@pytest.mark.slow
def test_what_concerns_all_trials_stops_the_sweep_and_loses_none(tmp_path, mode, message):
    job = make_job(tmp_path)
    ended = sweep(job, "stub.x=0..1", "--set", f"stub.mode={mode}", "--trials", "3", status=2)
    assert message in ended.stderr and states(load(job)) == ["WAITING"]


@pytest.mark.slow
def test_a_trial_that_logs_only_nan_has_failed_in_one_line(tmp_path):
    job = make_job(tmp_path)
    told = told_by_sweep(job, "stub.x=0..1", "--set", "stub.mode=nan", "--trials", "2")
    assert states(load(job)) == ["FAIL"] * 2 and "trial 0 failed: no epoch has a finite val_accuracy" in told


@pytest.mark.slow
def test_a_pruned_trial_saves_and_stops(tmp_path):
    job = make_job(tmp_path, epochs=40, epoch_seconds=0.05)
    pruner = {"type": "ThresholdPruner", "args": {"lower": -0.2, "n_warmup_steps": 2}}
    write_json({"pruner": pruner, "space": {"stub.x": [0.1, 9.0]}, "sampler": "grid"}, tmp_path / "s.json")
    told = told_by_sweep(job, "-s", tmp_path / "s.json")
    assert states(load(job)) == ["PRUNED", "PRUNED"] and "2 pruned" in told
    (run,) = (tmp_path / "saved" / "models").glob("job-sweep-000/*")
    assert 0 < len(list(run.glob("*.pth"))) < 40 and "ended" not in read_json(run / "environment.json")[0]


@pytest.mark.slow
def test_a_changed_space_is_told_and_extend_continues(tmp_path):
    job = make_job(tmp_path)
    sweep(job, "stub.x=0.1,0.2", "--trials", "2")
    ended = sweep(job, "stub.x=0.1,0.3", "--trials", "4", status=2)
    assert (
        ended.stderr.count("\n") == 1 and "space.stub.x: [0.1, 0.2] -> [0.1, 0.3]; --extend continues" in ended.stderr
    )
    sweep(job, "stub.x=0.1,0.3", "--trials", "4", "--extend")
    study = load(job)
    assert states(study) == ["COMPLETE"] * 4
    assert {trial.user_attrs["settings"]["stub.x"] for trial in study.trials[2:]} <= {0.1, 0.3}
    ended = sweep(job, "stub.x=0.1,0.3", "--trials", "4", "--seeds", "2", status=2)
    assert "seeds: 1 -> 2; begin another with --study" in ended.stderr


@pytest.mark.slow
def test_a_grid_that_was_extended_trains_what_is_new(tmp_path):
    job = make_job(tmp_path)
    sweep(job, "stub.x=0.1,0.2", "--sampler", "grid")
    sweep(job, "stub.x=0.3,0.2,0.1,0.4", "--sampler", "grid", "--extend")
    assert [trial.user_attrs["settings"]["stub.x"] for trial in load(job).trials] == [0.1, 0.2, 0.3, 0.4]


@pytest.mark.slow
def test_json_is_all_that_is_on_stdout_and_a_folder_of_the_name_is_not_the_study(tmp_path, monkeypatch):
    job = make_job(tmp_path, epochs=1)
    ended = sweep(job, "stub.x=0.1,0.2", "--sampler", "grid", "--study", "docs", "--json")  # ./docs exists
    assert json.loads(ended.stdout)["report"] == str(tmp_path / "saved" / "sweeps" / "docs" / "sweep.html")
    assert "2/2 trials done" in ended.stderr


@pytest.mark.slow
def test_the_budget_ends_the_sweep_and_keeps_what_is_under_way(tmp_path):
    job = make_job(tmp_path, epochs=1000, epoch_seconds=0.02)
    told = told_by_sweep(job, "stub.x=0..1", "--budget", "0:00:02")
    assert "the budget of 0:00:02 is used up" in told and states(load(job)) == ["WAITING"]
    began = time.monotonic()
    sweep(job, "stub.x=0..1", "--budget", "0:00:02")
    assert states(load(job)) == ["WAITING"] and time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimizer.args.lrr=0.1,0.2"], "space.optimizer.args.lrr: no such argument; did you mean 'lr'?"),
        (["optimizer.args.lr=0.1,text"], "space.optimizer.args.lr: got 'text'; it should be"),
        (["data_loader.args.batch_size=8..64"], "space.data_loader.args.batch_size: got 8.0; it should be int"),
        (["trainer.epochs=int:0..5"], "space.trainer.epochs: got 0; it should be greater than or equal to 1"),
        (["optimizer.args.lr=0.1"], "space.optimizer.args.lr: got [0.1]; give at least two values"),
        (["optimizer.args.lr=log:0..1"], "a logarithmic range begins above 0"),
        (["optimizer.args.lr=1..0"], "the first number should be the smaller one"),
        (["optimizer.args.lr"], "optimizer.args.lr: give a key of the config and its values"),
        ([], "space: holds no key to vary"),
        (["stub.x=0..1", "--objective", "max val_acuracy"], "objectives.0: nothing called 'val_acuracy' is logged"),
        (
            ["stub.x=0..1", "--sampler", "TPESample"],
            "optuna has no 'TPESampleSampler'; did you mean 'TPESampler'?",
        ),
        (
            ["stub.x=0..1", "--pruner", "Medial"],
            "optuna has no 'MedialPruner'; did you mean 'MedianPruner'?",
        ),
        (["stub.x=0..1", "--sampler", "grid"], "space.stub.x: a grid needs choices or a range with steps"),
        (["stub.x=0..1", "--budget", "2h"], "budget: got '2h'; it should be hours, minutes and seconds: '02:00:00'"),
        (["stub.x=0..1", "--study", "a/b"], "study: got 'a/b'; a name becomes a folder's"),
        (["stub.x=0..1", "--jobs", "0"], "--jobs: got 0; it should be at least 1"),
        (["stub.x=0..1", "--storage", "no://where"], "--storage no://where: "),
    ],
)
def test_mistakes_are_told_in_one_line_before_anything_starts(tmp_path, arguments, message):
    ended = sweep(make_job(tmp_path), *arguments, *(["--trials", "2"] if "--budget" not in arguments else []), status=2)
    assert message in ended.stderr and not (tmp_path / "saved" / "models").exists()
    assert "Traceback" not in ended.stderr and not ended.stdout


def test_a_study_that_does_not_exist_is_named(tmp_path):
    job = make_job(tmp_path)
    assert "--report nothing: there is no" in sweep(job, "--report", "nothing", status=2).stderr


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_the_same_command_continues(tmp_path):
    job = make_job(tmp_path, epochs=30, epoch_seconds=0.1)
    process = start_sweep(job, "stub.x=0..1", "--trials", "3", "--jobs", "2", preexec_fn=_heed_ctrl_c)
    while len(list(tmp_path.glob("saved/models/*/*/*.pth"))) < 4:
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert (
        process.returncode == 130
        and "stopping 2 trials, each of which saves first; repeat the command to continue" in told
    )
    assert states(load(job)) == ["WAITING", "WAITING"]
    sweep(job, "stub.x=0..1", "--trials", "3", "--jobs", "3", "--set", "stub.epoch_seconds=0.1")
    study = load(job)
    assert states(study) == ["COMPLETE"] * 3
    for trial in study.trials:
        assert list(trial.intermediate_values.values()) == undisturbed(trial.params["stub.x"], 30)
        assert len(list((tmp_path / "saved" / "models").glob(f"job-sweep-{trial.number:03d}/*"))) == 1


def _heed_ctrl_c():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal


@pytest.mark.slow
def test_a_sweep_that_was_killed_finds_its_trials_still_training_and_counts_each_once(tmp_path):
    job = make_job(tmp_path, epochs=30, epoch_seconds=0.1)
    arguments = ["stub.x=0..1", "--trials", "3", "--jobs", "2"]
    for _ in range(3):
        process = start_sweep(job, *arguments)
        seen = len(list(tmp_path.glob("saved/models/*/*/*.pth")))
        while len(list(tmp_path.glob("saved/models/*/*/*.pth"))) < seen + 6:
            time.sleep(0.05)
            assert process.poll() is None
        process.kill()
        process.communicate()
    sweep(job, *arguments)
    study = load(job)
    assert states(study) == ["COMPLETE"] * 3
    for trial in study.trials:
        assert list(trial.intermediate_values.values()) == undisturbed(trial.params["stub.x"], 30)
        assert len(list((tmp_path / "saved" / "models").glob(f"job-sweep-{trial.number:03d}/*"))) == 1


@pytest.mark.slow
def test_a_run_that_ended_while_no_sweep_was_there_is_read_and_not_trained_again(tmp_path):
    job = make_job(tmp_path)
    sweep(job, "stub.x=0.1,0.2", "--trials", "1")
    (trial,) = load(job).trials
    launch = trial_run.Launch(job, tmp_path / "saved", tmp_path, ("false",))
    ended = trial_run.TrialRun("job-sweep-000", trial.params, PLAN, launch, [None]).poll()
    assert ended.values == trial.values and ended.attributes["run"] == trial.user_attrs["run"]


PLAN = Plan.model_validate({"space": {"stub.x": "0.1,0.2"}, "objectives": ["max val_accuracy"], "trials": 1})


def test_a_run_of_another_study_is_not_taken_as_a_result(tmp_path):
    job = make_job(tmp_path)
    launch = trial_run.Launch(job, tmp_path / "saved", tmp_path, ("true",))
    path = tmp_path / "saved" / "models" / "job-sweep-000" / "run" / "config.json"
    path.parent.mkdir(parents=True)
    write_json([{"ended": "now"}], path.with_name("environment.json"))
    config = read_json(job) | {"name": "job-sweep-000", "seed": 5}
    write_json(config | {"stub": config["stub"] | {"x": 0.2}}, path)
    for settings in ({"stub.x": 0.1}, {"optimizer.args.lr": 0.1, "stub.x": 0.2}):
        with pytest.raises(trial_run.StopsSweep, match="run: a run of another study has this name; move it away"):
            trial_run.TrialRun("job-sweep-000", settings, PLAN, launch, [None])
        trial_run.TrialRun("job-sweep-000", settings, PLAN, launch, [None], ["here", 1])  # it was this trial's
    trial_run.TrialRun("job-sweep-000", {"stub.x": 0.2}, PLAN, launch, [None])


def test_the_trainable_parameters_of_a_run_are_counted(tmp_path):
    assert trial_run.trainable_parameters(tmp_path) is None
    (tmp_path / "info.log").write_text("trainer: Net: 7 parameters\ntrainer: Net: 1,234 parameters\n")
    assert trial_run.trainable_parameters(tmp_path) == 1234
    (tmp_path / "model.txt").write_text("Net: 11,210 parameters, 10,000 of them frozen\nlayer  type\n")
    assert trial_run.trainable_parameters(tmp_path) == 1210


@pytest.mark.parametrize(
    ("message", "waits"),
    [
        ("run: another process trains this run; wait for its end, or start a new one", True),
        ("run: another process has trained this run since -r auto looked; give the same command again", True),
        ("CUDA error: another process holds the GPU", False),
    ],
)
def test_only_a_run_that_another_process_trains_is_waited_for(tmp_path, message, waits):
    launch = trial_run.Launch(make_job(tmp_path), tmp_path / "saved", tmp_path, ("false",))
    trial = trial_run.TrialRun("a", {}, PLAN, launch, [None])
    trial._process.wait()
    (tmp_path / "a.log").write_text(f"$ command\nerror: {message}\n")
    ended = trial.poll()
    assert ended is None if waits else ended.error == message


def test_the_last_line_is_the_last_error_of_the_last_start(tmp_path):
    log = tmp_path / "log"
    assert trial_run.last_line(log) == ""
    log.write_text("$ one\nerror: old\n$ two\nTraceback\n  File\nValueError: new\n\n")
    assert trial_run.last_line(log) == "ValueError: new"
    log.write_text("$ two\nerror: loss: nan\nwarning: later\n")
    assert trial_run.last_line(log) == "loss: nan"


@pytest.mark.slow
def test_jobs_take_turns_at_the_devices_and_share_the_threads(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    job = make_job(tmp_path)
    sweep(job, "stub.x=0..1", "--trials", "2", "--jobs", "2", "-d", "3,5")
    logs = sorted((tmp_path / "saved" / "sweeps" / "job-sweep").glob("*-00?.log"))
    assert {word for path in logs for word in ("-d 3", "-d 5") if word in path.read_text()} == {"-d 3", "-d 5"}
