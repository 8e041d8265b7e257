"""Checkpoints that an earlier version of this project wrote, in tests/fixtures/checkpoints, load and resume.

They were saved in the middle of an epoch; each run comes to the numbers that it came to then without a stop.
"""

import contextlib
import math
import shutil

import pytest
import torch
from fixtures.checkpoints.make import HERE, MIDDLE, outcome, scaled_trainer, train
from worlds import in_world, results

from helpers import SHARDS, run_here
from utils.files import read_json
from utils.runs.checkpoint import CheckpointError, load_checkpoint

KEYS = {"arch", "epoch", "state_dict", "optimizer", "monitor_best", "config"}

KINDS = ["single", pytest.param("sharded", marks=SHARDS), "scaled"]


@pytest.fixture
def folder(tmp_path):
    shutil.copy(HERE / "rows.npz", tmp_path)
    return tmp_path


def copied(name, folder, job="small"):
    """The folder of a run that holds what the fixture holds."""
    run = folder / "saved" / "models" / job / "run"
    shutil.copytree(HERE / name, run)
    (run / ".lock").touch()  # what makes it a run's folder
    return run


def assert_close(found, expected, rel, place=""):
    """Compare nested dicts and lists; floats to the relative precision, everything else exactly."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for key, value in expected.items():
            assert_close(found[key], value, rel, f"{place}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for i, value in enumerate(expected):
            assert_close(found[i], value, rel, f"{place}/{i}")
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=rel, abs_tol=rel / 10), (place, found, expected)
    else:
        assert found == expected, place


def assert_came_to(name, found, rel=1e-4):
    expected = read_json(HERE / "expected.json")[name]
    assert_close(found, {key: value for key, value in expected.items() if key in found}, rel)
    assert expected["epoch"] == 3 and len(expected["metrics.csv"]) == 3


def test_a_run_of_an_earlier_version_resumes_to_the_numbers_that_it_came_to_then(folder):
    run = copied("single", folder)
    run_here("train.py", "-r", run / MIDDLE, cwd=folder)
    assert_came_to("single", outcome(run))


@SHARDS
@pytest.mark.slow
def test_so_does_a_sharded_one_in_as_many_processes(folder):
    run = copied("sharded", folder)
    results(in_world(2, train, folder, "-r", run / MIDDLE))
    assert_came_to("sharded", outcome(run), rel=1e-3)


@SHARDS
@pytest.mark.slow
def test_a_sharded_one_resumes_in_one_process_at_the_same_step(folder):
    run = copied("sharded", folder)
    results(in_world(1, train, folder, "-r", run / MIDDLE))
    found, expected = outcome(run), read_json(HERE / "expected.json")["sharded"]
    for row, before in zip(found["metrics.csv"], expected["metrics.csv"], strict=True):
        assert row["lr"] == pytest.approx(before["lr"])
        assert row["loss"] == pytest.approx(before["loss"], rel=0.1)  # dropout draws other numbers in one process
    for number, state in expected["optimizer"]["state"].items():
        assert found["optimizer"]["state"][number]["step"] == state["step"]


def test_so_does_one_with_a_loss_scale(folder):
    run = copied("scaled", folder, job="tiny")
    with contextlib.chdir(folder):
        trainer = scaled_trainer(resume=run / MIDDLE)
        assert trainer.config.continues
        trainer.train()
    assert_came_to("scaled", {**outcome(run), "scaler": trainer.optim_step.scaler.state_dict()})


@pytest.mark.parametrize("name", KINDS)
def test_it_is_free_of_code_and_has_the_old_keys(name):
    allowed = torch.serialization.get_safe_globals()  # by torch's own modules, some of which add names when imported
    torch.serialization.clear_safe_globals()
    try:
        raw = torch.load(HERE / name / MIDDLE, weights_only=True)
        state = load_checkpoint(HERE / name / MIDDLE)
        assert not torch.serialization.get_safe_globals()
    finally:
        torch.serialization.add_safe_globals(allowed)
    assert raw.keys() >= KEYS and state.keys() >= KEYS and state["epoch"] == 1
    assert all(isinstance(tensor, torch.Tensor) for tensor in state["state_dict"].values())


@pytest.mark.parametrize("name", KINDS)
def test_its_seal_is_still_checked(name, tmp_path):
    shutil.copytree(HERE / name, tmp_path / name)
    for path in [tmp_path / name / MIDDLE, *(tmp_path / name).glob("*.shards/*")]:
        content = path.read_bytes()
        for place in range(0, len(content), len(content) // 5):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises(CheckpointError):
                load_checkpoint(tmp_path / name / MIDDLE)
        path.write_bytes(content)
    assert load_checkpoint(tmp_path / name / MIDDLE)["epoch"] == 1


def test_it_is_measured_as_it_was_when_it_was_saved(folder):
    run = copied("single", folder)
    best = "top-val_accuracy-epoch1.pth"
    run_here("test.py", "-r", run / best, "--split", "valid", cwd=folder)
    measured = read_json(run / "test_results.json")[best]["valid"]
    logged = read_json(HERE / "expected.json")["single"]["metrics.csv"][0]
    for key in ("loss", "accuracy", "f1"):
        assert measured[key] == pytest.approx(logged[f"val_{key}"], rel=1e-5)
