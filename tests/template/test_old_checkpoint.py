"""A checkpoint that the old template wrote: LeNet on MNIST, two epochs, its ConfigParser pickled inside."""

import shutil
from pathlib import Path

import pytest
import torch

from helpers import PROJECT, run_here
from utils.files import read_json
from utils.runs.checkpoint import load_checkpoint

OLD = Path(__file__).with_name("old_checkpoint")


@pytest.fixture
def checkpoint(tmp_path):
    return Path(shutil.copy(OLD / "model_best.pth", tmp_path))


@pytest.mark.old_defect(2)
def test_its_config_is_read_without_running_its_code(checkpoint):
    with pytest.raises(Exception, match="ConfigParser"):
        torch.load(checkpoint, weights_only=True)
    state = load_checkpoint(checkpoint)
    assert state["config"] == read_json(OLD / "config.json") and state["epoch"] == 2


def test_it_gives_the_accuracy_that_the_old_template_reported(checkpoint, tmp_path):
    run_here("test.py", "-r", checkpoint, "--split", "valid", "--set", "data_loader.args.num_workers=0")
    results = read_json(tmp_path / "test_results.json")["model_best.pth"]["valid"]
    assert results["accuracy"] == 0.975  # reported as 0.9749, the mean over batches instead of samples
    assert results["loss"] == pytest.approx(load_checkpoint(checkpoint)["monitor_best"], rel=1e-3)


def test_training_goes_on_from_it_in_a_new_run(checkpoint, tmp_path):
    more = ("--set", f"trainer.save_dir={tmp_path}", "--set", "trainer.epochs=3", "--set", "trainer.len_epoch=5")
    done = run_here("train.py", "-r", checkpoint, "-c", "config.json", *more)
    assert 'lr_scheduler.type: "StepLR" -> "ExponentialLR"' in done.stdout
    name = read_json(PROJECT / "config.json")["name"]
    (child,) = (tmp_path / "models" / name).iterdir()
    assert load_checkpoint(child / "checkpoint-epoch3.pth")["epoch"] == 3


def test_it_resumes_with_its_own_config_and_the_state_of_its_optimizer(checkpoint, tmp_path):
    settings = {"save_dir": tmp_path, "epochs": 3, "len_epoch": 2, "tensorboard": "false"}
    more = [word for key, value in settings.items() for word in ("--set", f"trainer.{key}={value}")]
    run_here("train.py", "-r", checkpoint, "--set", "data_loader.args.num_workers=0", *more)
    (child,) = (tmp_path / "models" / "Mnist_LeNet").iterdir()
    before, after = load_checkpoint(checkpoint), load_checkpoint(child / "checkpoint-epoch3.pth")
    assert after["config"]["lr_scheduler"] == before["config"]["lr_scheduler"] and after["arch"] == "MnistModel"
    for number, state in before["optimizer"]["state"].items():
        assert after["optimizer"]["state"][number]["step"] == state["step"] + 2
    assert after["optimizer"]["param_groups"][0]["lr"] == 0.001
    for name, weight in before["state_dict"].items():
        assert (after["state_dict"][name] - weight).abs().max() <= 0.0021  # two updates of Adam, of 0.001 each
