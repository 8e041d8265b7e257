"""Jobs of physics: models that take gradients of their input, and double precision, also as torch's default."""

import pytest
import torch

from base import BaseDataLoader
from base.training.first_batch import look_at_data
from helpers import tiny_config, tiny_trainer
from utils import UserError


class Energy(torch.nn.Module):
    """The energy (N,) of positions (N, 3), and the forces (N, 3), which are minus its gradient."""

    def __init__(self, enabled=True):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
        self.enabled = enabled

    def forward(self, positions):
        with torch.set_grad_enabled(self.enabled or torch.is_grad_enabled()):
            positions = positions.requires_grad_()
            energy = self.layers(positions).squeeze(1)
            (slope,) = torch.autograd.grad(energy.sum(), positions, create_graph=self.training)
        return {"energy": energy, "forces": -slope}


def error(output, target):
    return sum(torch.nn.functional.mse_loss(output[name], target[name]) for name in ("energy", "forces"))


def force_error(output, target):
    return (output["forces"] - target["forces"]).abs().mean()


def job(folder, model, **changes):
    """A trainer of 19 positions in a quadratic well, 4 of them for validation, in batches of 8."""
    positions = torch.randn(19, 3, generator=torch.Generator().manual_seed(0))
    target = [{"energy": row.square().sum(), "forces": -2 * row} for row in positions]
    dataset = list(zip(positions, target, strict=True))
    loader = BaseDataLoader(dataset, 8, True, 4, 0)
    parts = {"model": model, "criterion": error, "metrics": [force_error], "loader_class": lambda *_: loader}
    return tiny_trainer(tiny_config(folder, **changes), **parts), dataset


@pytest.fixture
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
def test_double_precision_may_be_the_default(tmp_path, double_by_default, on_nonfinite):
    trainer, dataset = job(tmp_path, Energy(), on_nonfinite=on_nonfinite, clip_norm=10.0)
    trainer.train()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float64}
    rows = trainer.valid_data_loader.sampler.indices.tolist()
    positions, target = torch.utils.data.default_collate([dataset[row] for row in rows])
    output = trainer.model.eval()(positions)
    assert trainer.saved_log["val_loss"] == pytest.approx(error(output, target).item(), rel=1e-14)
    assert trainer.saved_log["val_force_error"] == pytest.approx(force_error(output, target).item(), rel=1e-14)


def test_a_model_that_takes_a_gradient_in_validation_is_told_how(tmp_path):
    trainer, _ = job(tmp_path, Energy(enabled=False))
    wanted = r"takes a gradient, .* does not require grad.*; .* `with torch.enable_grad\(\)"
    with pytest.raises(UserError, match=wanted) as told:
        trainer.train()
    assert "\n" not in str(told.value)


def test_the_look_at_the_last_batch_lets_the_model_take_a_gradient(tmp_path, capsys):
    trainer, _ = job(tmp_path, Energy())
    trainer.config.keeps_nothing = True
    trainer.model.enabled = False  # as in a compute_loss, which runs in training alone
    trainer.do_validation = False
    look_at_data(trainer)
    assert "the first batch fits" in capsys.readouterr().out
