"""compare.py as it is typed."""

import csv
import json
import signal
import subprocess
import sys

import pytest
from made_runs import make_old_run, make_run

from helpers import PROJECT, run_here


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "saved"
    make_run(folder, "a")
    make_run(folder, "b", optimizer__args__lr=0.01, accuracies=(0.5, 0.9), ended=False)
    make_run(folder, "s1", name="job-seed1", seed=1, arch__args__width=4)
    make_run(folder, "s2", name="job-seed2", seed=2, arch__args__width=4)
    make_old_run(folder)
    return folder


def test_all_runs_below_saved_are_shown_without_an_argument(saved):
    lines = run_here("compare.py", cwd=saved.parent).stdout.splitlines()
    assert lines[0] == "5 runs of 2 jobs in 4 rows, by name" and max(map(len, lines)) <= 80
    assert run_here("compare.py", saved).stdout.splitlines() == lines


def test_filters_order_and_columns_work_together(saved):
    flags = ("--where", "name=job*", "--where", "val_accuracy>0.1", "--sort", "val_accuracy", "--top", "2", "--csv")
    rows = list(csv.DictReader(run_here("compare.py", saved, *flags, "--columns", "val_loss").stdout.splitlines()))
    assert [row["run"] for row in rows] == ["b", "2 runs"] and list(rows[0]) == ["run", "val_loss", "val_loss_std"]
    told = run_here("compare.py", saved, "--json", "--runs", "--where", "seed>1").stdout
    assert [row["run"] for row in json.loads(told)["rows"]] == ["s2"]
    assert json.loads(run_here("compare.py", saved, "--json", "--where", "seed>9").stdout)["rows"] == []
    assert run_here("compare.py", saved, "--where", "seed>9").stdout == "no run meets the conditions\n"


def test_pictures_and_pages_are_written(saved, tmp_path):
    told = run_here("compare.py", saved, "--html", tmp_path / "x.html").stdout
    assert told == f"{tmp_path / 'x.html'}\n" and "job" in (tmp_path / "x.html").read_text()
    run_here("compare.py", saved, "--plot", tmp_path / "x.png", "--metric", "val_loss")
    assert (tmp_path / "x.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "flags, told",
    [
        (["none"], "no such folder"),
        (["empty"], "no runs there"),
        (["--where", "lrr<1"], "--where lrr: no run has such a value; did you mean 'lr'?"),
        (["--where", "lr"], "--where lr: give a name"),
        (["--sort", "val_los"], "--sort val_los: no run has such a value; did you mean 'val_loss'?"),
        (["--columns", "val_los"], "--columns val_los: no run has such a value; did you mean 'val_loss'?"),
        (["--plot", "x.png", "--metric", "x"], "--metric x: no run logs it"),
        (["--plot", "none/x.png", "--metric", "loss"], "there is no such folder"),
        (["--html", "none/x.html"], "there is no such folder"),
        (["--metric", "loss"], "needs --plot"),
        (["--top", "0"], "--top: '0' is not a number of rows"),
        (["--watch", "nan"], "--watch: 'nan' is not a number of seconds"),
        (["--watch", "x"], "--watch: "),
        (["--watch", "--diff", "a", "b"], "--watch: "),
        (["--csv", "--json"], "not allowed with"),
        (["--diff", "a", "x"], "no such run"),
        (["--same", "a", "b"], "no such run"),
    ],
)
def test_mistakes_are_one_line_and_status_2(flags, told, saved):
    (saved.parent / "empty").mkdir(exist_ok=True)
    done = run_here("compare.py", *flags, cwd=saved.parent, status=2)
    assert done.stderr.startswith("error: ") and told in done.stderr and done.stderr.count("\n") == 1
    assert not done.stdout and not list(saved.parent.glob("*.png"))


def test_two_runs_are_compared_by_name(saved):
    told = run_here("compare.py", "--diff", "a", "b", cwd=saved.parent).stdout
    assert "optimizer.args.lr: 0.1 -> 0.01" in told and "code: the same" in told


def test_nothing_heavy_is_imported_for_a_table(saved):
    command = [sys.executable, "-X", "importtime", "compare.py", saved]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "argparse" in imported and done.returncode == 0
    assert not imported & {"torch", "numpy", "pandas", "matplotlib", "torchvision", "tensorboard", "pydantic"}


def test_a_watched_table_is_shown_again_with_new_runs(tmp_path):
    make_run(tmp_path, "a")
    command = [sys.executable, "compare.py", tmp_path, "--watch", "0.1"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "1 run of job, by best val_accuracy, largest first\n"
            make_run(tmp_path, "b")
            assert any(line.startswith("2 runs of job, ") for line in process.stdout)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait() == 130
