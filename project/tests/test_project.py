"""Each config of the project passes the check, and its job trains, saves and resumes to the same bits.

The tests read the configs, so they stay as they are when you change the model, the data or the loss. They train a few
batches on the CPU, in a temporary folder.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from parse_config import ConfigParser
from utils.runs.checkpoint import load_checkpoint

PROJECT = Path(__file__).resolve().parents[1]
ENDINGS = (".json", ".toml", ".yaml", ".yml")
CONFIGS = [
    path.relative_to(PROJECT)
    for path in sorted([*PROJECT.glob("config*.*"), *PROJECT.glob("configs/**/*.*")])
    if path.suffix in ENDINGS and path.name != "config.schema.json"
]
every_config = pytest.mark.parametrize("path", CONFIGS, ids=str)

# Settings that train two epochs of two batches, on the CPU, whatever the config says. A Trainer with its own loops
# that refuses one of these keys may do without it.
SHORT = {
    "trainer.epochs": 2,
    "trainer.len_epoch": 2,
    "trainer.limit_train_batches": "null",
    "trainer.limit_valid_batches": 2,
    "trainer.overfit_batches": "null",
    "trainer.save_period": 1,
    "trainer.keep_last": "null",
    "trainer.early_stop": 0,
    "trainer.precision": "fp32",
    "trainer.compile": "false",
    "trainer.tensorboard": "false",
    "n_gpu": 0,
    "parallel": "null",
    "trackers": "[]",
}


def run(*arguments):
    """Run `python *arguments` in the project's folder; it must succeed."""
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@every_config
def test_config_passes_the_check(path):
    run("train.py", "-c", path, "--check")


@every_config
def test_output_of_the_model_fits_the_loss(path):
    config = ConfigParser.from_file(PROJECT / path)
    model, loader, criterion = config.init_obj("arch"), config.init_obj("data_loader"), config.init_loss()
    data, target = next(iter(loader))
    loss = criterion(model(data), target)
    assert loss.ndim == 0 and torch.isfinite(loss), f"the loss is {loss}"
    loss.backward()
    assert any(parameter.grad is not None for parameter in model.parameters()), "the loss does not depend on the model"


@every_config
def test_a_resumed_run_comes_to_the_same_bits(path, tmp_path):
    settings = {**SHORT, "trainer.save_dir": tmp_path}
    run(
        "train.py", "-c", path, "-d", "cpu", *(word for key in settings for word in ("--set", f"{key}={settings[key]}"))
    )
    (folder,) = tmp_path.glob("models/*/*")
    last = folder / "checkpoint-epoch2.pth"
    straight = load_checkpoint(last)["state_dict"]
    last.unlink()

    run("train.py", "-r", folder / "checkpoint-epoch1.pth", "-d", "cpu")
    resumed = load_checkpoint(last)["state_dict"]
    assert straight.keys() == resumed.keys()
    assert [name for name in straight if not torch.equal(straight[name], resumed[name])] == []
