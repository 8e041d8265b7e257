"""A model, or samples, that draw random numbers: in use they are those that validation and test.py have drawn."""

import numpy as np
import pytest
import torch

import data_loader.data_loaders
import model.model
from base import BaseDataLoader, BaseModel, TrainedModel
from helpers import run_here
from parse_config import ConfigParser
from train import build


class Draws(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, data):
        return self.layer(data) + torch.randn(len(data), 1)


class Jittered(torch.utils.data.Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.randn(4), torch.tensor([float(index)])


class JitteredLoader(BaseDataLoader):
    def __init__(self, batch_size: int):
        super().__init__(Jittered(), batch_size, True, 0.5, 0)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """(folder of a run, its val_loss)."""
    monkeypatch.setattr(model.model, "Draws", Draws, raising=False)
    monkeypatch.setattr(data_loader.data_loaders, "JitteredLoader", JitteredLoader, raising=False)
    config = {
        "name": "draws",
        "seed": 7,
        "arch": {"type": "Draws"},
        "data_loader": {"type": "JitteredLoader", "args": {"batch_size": 8}},
        "optimizer": {"type": "SGD", "args": {"lr": 0.001}},
        "loss": "torch.nn.MSELoss",
        "metrics": [],
        "trainer": {"epochs": 1, "save_dir": str(tmp_path), "verbosity": 0, "tensorboard": False},
    }
    trainer = build(ConfigParser(config))
    trainer.train()
    return trainer.checkpoint_dir, trainer.saved_log["val_loss"]


def test_a_loader_in_use_gives_the_loss_of_validation(trained):
    run, val_loss = trained
    for seed in (1, 2):  # those of another process, or of a notebook
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        loaded = TrainedModel.load(run, device="cpu")
        outputs, targets = loaded.predict_loader(loaded.loader("valid"))
        assert ((outputs - targets).astype(np.float64) ** 2).mean() == pytest.approx(val_loss, rel=1e-6)
        torch.manual_seed(seed)
        loaded.loader("valid")
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_the_command_writes_the_outputs_that_were_validated(trained, tmp_path, suffix):
    run, _ = trained
    loaded = TrainedModel.load(run, device="cpu")
    wanted, _ = loaded.predict_loader(loaded.loader("valid"))

    def written(*flags):
        out = tmp_path / f"o.{suffix}"
        run_here("predict.py", "-r", run, "--split", "valid", "--batch-size", "8", "--save-outputs", out, *flags)
        content = np.load(out)
        return content if suffix == "npy" else content["outputs"]

    torch.manual_seed(3)
    assert np.array_equal(written(), wanted)
    assert not np.array_equal(written("--seed", "1"), wanted)
