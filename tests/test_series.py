"""--fold, --folds and --seeds, as a user types them, on a small table."""

import argparse
import inspect
import json
import os
import runpy
import signal
import statistics
import sys
import threading
import time

import pytest
from forked import run_forked, start_forked

import series
from helpers import PROJECT, run_here, same
from parse_config import PARTS, ConfigParser
from series import best_row, has_begun, series_table, summarize
from utils import UserError
from utils.config import train_flags
from utils.config.components import Part
from utils.config.source import Definition
from utils.config.train_flags import variants_of
from utils.files import read_json, write_json
from utils.runs.checkpoint import load_checkpoint


def make_job(folder):
    """Path of a config: a line through 40 points of a table."""
    rows = "\n".join(f"{i},{'ab'[i % 2]},{2 * i + i % 3}" for i in range(40))
    (folder / "table.csv").write_text("x,kind,y\n" + rows)
    args = {"path": str(folder / "table.csv"), "target": "y", "task": "regression", "numeric": ["x"]}
    config = {
        "name": "line",
        "arch": {"type": "torch.nn.Linear", "args": {"in_features": 1, "out_features": 1}},
        "data_loader": {
            "type": "tables.TableDataLoader",
            "args": {**args, "batch_size": 8, "validation_split": 0.1, "standardize_target": True},
        },
        "optimizer": {"type": "SGD", "args": {"lr": 0.1}},
        "loss": "torch.nn.MSELoss",
        "trainer": {
            "epochs": 2,
            "save_dir": str(folder / "saved"),
            "monitor": "min val_loss",
            "tensorboard": False,
            "verbosity": 1,
        },
    }
    write_json(config, folder / "job.json")
    return folder / "job.json"


@pytest.fixture
def job(tmp_path):
    return make_job(tmp_path)


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """(path of the job, what --folds 2 printed)."""
    job = make_job(tmp_path_factory.mktemp("folds"))
    return job, run_forked("train.py", "-c", job, "--folds", "2", "--json").stdout


def runs(job, name="*"):
    return sorted((job.parent / "saved" / "models").glob(f"{name}/*"))


@pytest.mark.slow
def test_folds_are_ordinary_runs_and_a_table(folds):
    job, told = folds
    folders = runs(job)[:2]
    assert [folder.parent.name for folder in folders] == ["line-fold1of2", "line-fold2of2"]
    bests = [load_checkpoint(folder / "model_best.pth") for folder in folders]
    args = [best["config"]["data_loader"]["args"] for best in bests]
    assert [(given["fold"], given["validation_split"]) for given in args] == [("1/2", 0), ("2/2", 0)]
    values = [best["monitor_best"] for best in bests]
    path, last = told.split("written to ")[1].splitlines()
    result = read_json(path)
    assert json.loads(last) == {**result, "file": path}
    assert [line for line in told.splitlines() if line.startswith("{")] == [last]  # the runs print none
    assert [(entry["val_loss"], entry["folder"]) for entry in result["runs"]] == list(
        zip(values, map(str, folders), strict=True)
    )
    assert result["mean"] == {"val_loss": statistics.fmean(values)}
    assert result["std"] == {"val_loss": statistics.stdev(values)}
    lines = [line.split() for line in told[told.rindex("epoch  val_loss") :].splitlines()]
    assert ["fold", "2/2", "2", f"{values[1]:.5g}"] in lines and [
        "±",
        "std",
        f"{statistics.stdev(values):.5g}",
    ] in lines


@pytest.mark.slow
def test_one_fold_alone_is_the_run_of_the_series(folds):
    job, _ = folds
    run_here("train.py", "-c", job, "--fold", "2/2")
    one, other = (load_checkpoint(folder / "model_best.pth") for folder in runs(job, "line-fold2of2"))
    assert same(one["state_dict"], other["state_dict"]) and one["log"] == other["log"]


@pytest.mark.slow
def test_test_prepares_data_as_the_training_did(folds):
    job, _ = folds
    folder = runs(job)[0]
    path = job.parent / "table.csv"
    run_here("test.py", "-r", folder / "model_best.pth", "--set", f"data_loader.args.test_path={path}")
    run_here("test.py", "-r", folder / "model_best.pth", "--split", "train")
    results = read_json(folder / "test_results.json")["model_best.pth"]
    valid = load_checkpoint(folder / "model_best.pth")["monitor_best"]
    assert [results[part]["samples"] for part in ("train", "test")] == [20, 40]
    assert results["test"]["loss"] == pytest.approx((results["train"]["loss"] + valid) / 2, rel=1e-6)


def test_seeds_are_the_configs_and_those_after_it():
    asked = argparse.Namespace(resume=None, _seeds=2)
    one, other = variants_of(asked, {"name": "job", "seed": 7})
    assert (one.label, one.name, one.assignments) == ("seed 7", "job-seed7", (("seed", 7),))
    assert other.flags == ("--set", "seed=8", "--set", "name=job-seed8")
    assert [variant.label for variant in variants_of(asked, {})] == ["seed 123", "seed 124"]


def test_folds_take_the_place_of_a_split_that_the_loader_sets_by_default(monkeypatch):
    split = inspect.Parameter("validation_split", inspect.Parameter.KEYWORD_ONLY, default="0.1")
    monkeypatch.setattr(train_flags, "find_in_source", lambda name, part: Definition("class", (split,)))
    variants = variants_of(argparse.Namespace(resume=None, _folds=2), {"data_loader": {"type": "Mine"}})
    assert [variant.assignments for variant in variants] == [
        (("data_loader.args.fold", f"{fold}/2"), ("data_loader.args.validation_split", 0)) for fold in (1, 2)
    ]


def test_a_fold_takes_the_place_of_a_split_and_names_its_run_once():
    asked = argparse.Namespace(resume=None, _fold="3/5")
    split = {"data_loader": {"args": {"validation_split": 0.1}}}
    (variant,) = variants_of(asked, {"name": "job", **split})
    settings = (("data_loader.args.fold", "3/5"), ("data_loader.args.validation_split", 0))
    assert (variant.name, variant.assignments) == ("job-fold3of5", settings)
    (again,) = variants_of(asked, {"name": variant.name, "data_loader": {"type": "MnistDataLoader"}})
    assert again.name == variant.name and again.assignments == settings[:1]


@pytest.mark.slow
def test_ctrl_c_ends_the_whole_and_the_same_command_goes_on(job):
    arguments = [
        "train.py",
        "-c",
        str(job),
        "--folds",
        "2",
        "--set",
        "trainer.epochs=60",
        "--set",
        "trainer.keep_last=1",
    ]
    with open(job.parent / "told", "w+") as told, open(job.parent / "complaint", "w+") as complaint:
        process = start_forked(*arguments, cwd=PROJECT, output=told, errors=complaint)
        while not list(job.parent.glob("saved/models/line-fold1of2/*/*.pth")):
            time.sleep(0.02)
            assert process.is_alive()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        process.join(100)
        told, complaint = (file.seek(0) or file.read() for file in (told, complaint))
    assert process.exitcode == 130
    assert "fold 1/2 ended with status 130; resume with: python" in complaint and "--folds 2 -r auto" in complaint
    assert "fold 2/2" not in told and not runs(job, "line-fold2of2")
    (stopped,) = runs(job)

    again = run_forked(*arguments, "-r", "auto")
    assert runs(job)[0] == stopped and len(runs(job)) == 2 and "± std" in again.stdout
    assert all((folder / "checkpoint-epoch60.pth").exists() for folder in runs(job))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_signals_to_the_series_reach_its_run(number):
    """SIGTERM, SIGUSR1 and SIGHUP, which a batch system may send to the first process alone."""
    timer = threading.Timer(1.0, os.kill, (os.getpid(), number))
    timer.start()
    assert series._run([sys.executable, "-c", "import time; time.sleep(100)"]) == 128 + number
    timer.join()


def test_a_series_goes_on_with_its_own_runs_alone(tmp_path):
    def make(name, run):
        folder = tmp_path / "models" / name / run
        folder.mkdir(parents=True)
        (folder / "checkpoint-epoch1.pth").touch()
        return folder

    make("line-fold2of3", "20260101_120000")
    first = make("line-fold1of3", "20260101_130000")
    assert not has_begun(tmp_path, "line-fold2of3", first) and not has_begun(tmp_path, "line-fold3of3", first)
    make("line-fold2of3", "20260101_130000-2")
    assert has_begun(tmp_path, "line-fold1of3", first) and has_begun(tmp_path, "line-fold2of3", first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "1"], "--folds: got 1; it should be at least 2"),
        (["--seeds", "0"], "--seeds: got 0; it should be at least 2"),
        (["--fold", "6/5"], "--fold: got '6/5'; give one of at least two"),
        (["--fold", "0/5"], "--fold: got '0/5'"),
        (["--fold", "a/b"], "--fold: got 'a/b'"),
        (["--folds", "2", "--seeds", "2"], "--folds, --seeds: give one of them at a time"),
        (["--folds", "2", "--fast-dev-run"], "--folds: does not go with --fast-dev-run"),
        (["--folds", "2", "-r", "latest"], "-r: with --folds it can only be 'auto'"),
        (["--folds", "2", "--set", "optimizer.args.lrr=1"], "optimizer.args.lrr: no such argument"),
        (["--seeds", "2", "--set", "seed=x"], "seed: got 'x'"),
        (["--fold", "1/41"], "data_loader.args.fold: 41 folds of 40 samples would leave some empty"),
        (
            ["--fold", "1/21", "--set", "data_loader.args.stratify=kind"],
            "data_loader.args.fold: class a has 20 samples",
        ),
        (["--set", "data_loader.args.groups=patient"], "data_loader.args.groups: "),
        (["--set", "data_loader.args.stratify=kinds"], "has no column 'kinds'; did you mean 'kind'"),
        (["--set", "data_loader.args.target=z"], "data_loader.args.target: "),
        (["--set", "data_loader.args.balance_classes=true"], "data_loader.args.balance_classes: a regression target"),
        (["--set", "data_loader.args.fold=1/2"], "data_loader.args.fold: validation_split sets samples aside too"),
        (["--set", "data_loader.args.numeric=x"], "data_loader.args.numeric: got 'x'; it should be list[str] | None"),
    ],
)
def test_mistakes_are_told_in_one_line_before_the_first_training(job, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["train.py", "-c", str(job), *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PROJECT / "train.py"), run_name="__main__")
    (complaint,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert ended.value.code == 2 and message in complaint and not runs(job)


def test_a_loader_without_folds_is_told_what_it_needs(job):
    config = {**read_json(job), "data_loader": {"type": "TinyData", "args": {"fold": "1/2"}}}
    with pytest.raises(
        UserError,
        match=r"data_loader\.args\.fold: TinyData has no folds; a BaseDataLoader has, if it takes an argument 'fold'",
    ):
        ConfigParser(config, parts={**PARTS, "data_loader": Part("helpers")})


def test_the_best_row_is_the_first_best_or_the_last():
    rows = [{"epoch": 1, "v": 3.0}, {"epoch": 2, "v": float("nan")}, {"epoch": 3, "v": 1.0}, {"epoch": 4, "v": 1.0}]
    assert best_row(rows, "min v")["epoch"] == 3 and best_row(rows, "max v")["epoch"] == 1
    assert best_row(rows, "off")["epoch"] == 4 and best_row(rows, "min w") is None and best_row([], "off") is None


def test_a_table_of_many_values_fits_a_terminal():
    values = {f"val_some_metric_{i}": 0.123456 for i in range(8)}
    result = {"runs": [{"run": "fold 1/2", "epoch": 3, **values}] * 2, "mean": values, "std": values}
    text = series_table(result)
    assert max(map(len, text.splitlines())) <= 80 and all(text.count(key) == 1 for key in values)
    assert text.count("fold 1/2") > 2 and "0.12346" in text


def test_runs_without_validation_are_summed_up_by_what_they_log(tmp_path):
    folders = [tmp_path / "models" / "job" / name for name in ("one", "two")]
    for value, folder in enumerate(folders):
        folder.mkdir(parents=True)
        logs = tmp_path / "log" / "job" / folder.name
        logs.mkdir(parents=True)
        (logs / "metrics.csv").write_text(f"epoch,loss,note\n1,9,x\n2,{value},x\n")
    result = summarize(["a", "b"], folders, "off")
    assert result["mean"] == {"loss": 0.5} and result["runs"][1]["epoch"] == 2
    with pytest.raises(UserError, match=r"metrics\.csv: has no epoch with a finite val_loss"):
        summarize(["a", "b"], folders, "min val_loss")
