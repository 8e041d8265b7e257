"""A project in the style of the old template, kept as one would write it, moves in by replacing its framework."""

import ast
import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import run_forked

from comparing.same import comparable_state
from helpers import PROJECT, same
from utils.files import read_json
from utils.runs.checkpoint import load_checkpoint

OLD = Path(__file__).with_name("old_project")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The old project with our framework and a table of points, trained for 4 epochs."""
    folder = tmp_path_factory.mktemp("old") / "project"
    shutil.copytree(OLD, folder)
    for name in ("base", "logger", "utils"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "parse_config.py", folder)
    random = np.random.RandomState(3)
    points = random.randn(300, 2)
    lines = [f"{x},{y},{int(x > 0) + int(x + y > 1)}" for x, y in points]
    (folder / "points.csv").write_text("\n".join(["x,y,label", *lines]))
    trained = run_forked("train.py", "-c", "config.json", "--lr", "0.05", "--hidden", "8", cwd=folder)
    return folder, trained, next((folder / "saved/models/Csv_Points").iterdir())


def validation_points(folder):
    table = np.loadtxt(folder / "points.csv", delimiter=",", skiprows=1)
    order = np.random.RandomState(0).permutation(300)[:45]
    return torch.tensor(table[order, :2], dtype=torch.float32), torch.tensor(table[order, 2].astype(int))


def outputs(checkpoint, points):
    weights = load_checkpoint(checkpoint)["state_dict"]
    hidden = torch.relu(points @ weights["fc1.weight"].T + weights["fc1.bias"])
    return torch.log_softmax(hidden @ weights["fc2.weight"].T + weights["fc2.bias"], dim=1)


def rows(run_folder):
    log = run_folder.parents[2] / "log" / run_folder.parent.name / run_folder.name
    with open(log / "metrics.csv") as file:
        return list(csv.DictReader(file))


def test_it_trains_with_its_own_sections_keys_and_flags(project):
    folder, trained, run_folder = project
    assert "own keys: arch1, train_loader, trainer.warmup, trainer.percent" in trained.stdout
    assert "small model: 27" in trained.stdout and "Train Epoch: 1 [0/255] Loss: " in trained.stdout
    config = read_json(run_folder / "config.json")
    assert config["optimizer"]["args"]["lr"] == 0.05 and config["arch"]["args"]["hidden"] == 8
    assert sorted(path.name for path in run_folder.glob("*.pth"))[:4] == [
        f"checkpoint-epoch{n}.pth" for n in (1, 2, 3, 4)
    ]
    info = (folder / "saved/log/Csv_Points" / run_folder.name / "info.log").read_text()
    assert "PointModel(" in info and "small model: 27" in info  # logged before the run had a folder


def test_it_reports_the_numbers_of_the_old_arithmetic(project):
    folder, _, run_folder = project
    points, labels = validation_points(folder)
    for row in rows(run_folder):
        output = outputs(run_folder / f"checkpoint-epoch{row['epoch']}.pth", points)
        batches = [(output[i : i + 32], labels[i : i + 32]) for i in (0, 32)]  # the mean of batch means
        loss = np.mean([torch.nn.functional.nll_loss(*batch).item() for batch in batches])
        accuracy = np.mean([(batch.argmax(1) == target).double().mean() for batch, target in batches])
        assert float(row["val_loss"]) == pytest.approx(loss, rel=1e-5)
        assert float(row["val_accuracy"]) == pytest.approx(accuracy, rel=1e-12)
        assert float(row["val_error_rate"]) == pytest.approx(1 - accuracy, rel=1e-9)


def test_it_resumes_to_the_same_bits(project, tmp_path):
    _, _, run_folder = project
    other = tmp_path / "project"
    shutil.copytree(project[0], other, ignore=shutil.ignore_patterns("saved"))
    run_forked("train.py", "-c", "config.json", "--lr", "0.05", "--hidden", "8", "--set", "trainer.epochs=2", cwd=other)
    resumed = next((other / "saved/models/Csv_Points").iterdir())
    checkpoint = resumed / "checkpoint-epoch2.pth"
    run_forked("train.py", "-r", checkpoint, "--set", "trainer.epochs=4", cwd=other)
    left, right = (comparable_state(folder / "checkpoint-epoch4.pth") for folder in (run_folder, resumed))
    for key in ("state_dict", "optimizer", "attributes", "monitor_best"):
        assert same(left[key], right[key]), key
    assert rows(run_folder) == rows(resumed)


def test_its_own_test_script_reads_our_checkpoints_and_makes_no_run_folder(project):
    folder, _, run_folder = project
    before = sorted((folder / "saved").rglob("*"))
    tested = run_forked("test.py", "-r", run_folder / "model_best.pth", cwd=folder)
    values = ast.literal_eval(tested.stdout.strip().splitlines()[-1])
    table = np.loadtxt(folder / "points.csv", delimiter=",", skiprows=1)
    output = outputs(run_folder / "model_best.pth", torch.tensor(table[:, :2], dtype=torch.float32))
    labels = torch.tensor(table[:, 2].astype(int))
    assert values["loss"] == pytest.approx(torch.nn.functional.nll_loss(output, labels).item(), rel=1e-5)
    assert values["accuracy"] == pytest.approx((output.argmax(1) == labels).double().mean().item(), rel=1e-6)
    assert sorted((folder / "saved").rglob("*")) == before


def test_a_mistake_in_its_config_is_one_line_and_exit_2(project):
    wrong = run_forked("train.py", "-c", "config.json", "--set", "trainer.epocs=2", cwd=project[0], status=2)
    assert wrong.stderr == "error: trainer.epocs: no such key; did you mean 'epochs'?\n"


def test_so_is_one_that_shows_when_its_script_builds(project):
    wrong = run_forked("train.py", "-c", "config.json", "--set", "arch.args.hiden=3", cwd=project[0], status=2)
    assert wrong.stderr == "error: arch.args.hiden: no such argument; did you mean 'hidden'?\n"


def test_an_error_that_is_no_mistake_of_the_users_keeps_its_traceback(project):
    lines = (
        "import argparse, parse_config",
        "parse_config.ConfigParser.from_args(argparse.Namespace(config='config.json', resume=None))",
        "1 / 0",
    )
    assert "Traceback" in run_forked("-c", "\n".join(lines), cwd=project[0], status=1).stderr
