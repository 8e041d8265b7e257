"""safetensors files: written from a checkpoint, read wherever weights are named."""

import sys

import pytest
import torch
from forked import run_forked

from helpers import SHORT, run_here, same
from utils import UserError
from utils.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from utils.runs.safetensors_io import write_safetensors

safetensors = pytest.importorskip("safetensors.torch")


def test_weights_and_config_come_back(tmp_path):
    model = torch.nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    tied = torch.nn.Linear(2, 2).weight
    state = {**model.state_dict(), "tied.a": tied, "tied.b": tied, "half": torch.ones(2, dtype=torch.bfloat16)}
    path = tmp_path / "weights.safetensors"
    write_safetensors({"state_dict": state, "config": {"name": "x"}, "epoch": 3}, path)
    assert same(load_checkpoint(path), {"state_dict": state, "config": {"name": "x"}})
    assert same(safetensors.load_file(path), state)


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x10\0\0\0\0\0\0\0" + b"{" * 16])
def test_damaged_files_are_refused(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights.safetensors: damaged or not a safetensors file"):
        load_checkpoint(path)


def test_files_and_folders_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="x is not a tensor"):
        write_safetensors({"state_dict": {"x": 1}}, tmp_path / "a.safetensors")
    safetensors.save_file({"a": torch.ones(1)}, tmp_path / "b.safetensors", metadata={"config": "[]"})
    with pytest.raises(CheckpointError, match="its 'config' is of type list"):
        load_checkpoint(tmp_path / "b.safetensors")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UserError, match="needs the package safetensors; install it: pip install safetensors"):
        load_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.slow
def test_the_command_exports_and_test_and_train_read_the_file(tmp_path):
    options = (*SHORT, "--set", f"trainer.save_dir={tmp_path}")
    run_here("train.py", "-c", "config.json", *options)
    (folder,) = tmp_path.glob("models/*/*")
    weights = folder / "weights.safetensors"  # in the run's folder, where -r would go on with the run
    assert str(weights) in run_forked("-m", "utils.runs.export", folder, weights).stdout
    of_file, of_checkpoint = (
        run_here("test.py", "-r", path, "--split", "valid").stdout.splitlines()[1:]
        for path in (weights, folder / "checkpoint-epoch1.pth")
    )
    assert of_file == of_checkpoint and len(of_file) == 5
    told = run_here("train.py", "-r", weights, *options).stdout
    assert "epoch 1/1" in told and len(list(tmp_path.glob("models/*/*"))) == 2
    refused = run_forked("-m", "utils.runs.export", folder, tmp_path / "w.pt", status=2)
    assert "end the file's name in .pth or .safetensors" in refused.stderr
    assert (
        "no such folder"
        in run_forked("-m", "utils.runs.export", folder, tmp_path / "no/w.safetensors", status=2).stderr
    )


def test_a_plain_state_dict_is_read_as_weights(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth")
    assert load_checkpoint(tmp_path / "a.pth") == {"state_dict": {"a": torch.ones(1)}}
    save_checkpoint({"a": torch.ones(1), "b": 2}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="holds no 'state_dict'"):
        load_checkpoint(tmp_path / "b.pth")
