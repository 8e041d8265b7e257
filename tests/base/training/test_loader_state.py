"""What a checkpoint says of its data: classes in order, fitted numbers, and whether the samples are still the same."""

import numpy as np
import pytest
import torch

from base import BaseDataLoader, InMemoryDataset
from base.training.evaluate import split_loader
from helpers import changed, newest_state, tiny_config, tiny_trainer
from parse_config import ConfigParser
from trainer import Trainer
from utils import UserError
from utils.runs.checkpoint import load_checkpoint
from utils.runs.weights import load_state


class Scaled(BaseDataLoader):
    """Samples with mean 0 over the data, as a loader of a user's own would fit it: the mean is its state."""

    shift, count, names = 0.0, 40, ("left", "right")

    def __init__(self, dataset=None, *args, **kwargs):
        self.raw = torch.randn(self.count, 4, generator=torch.Generator().manual_seed(1)) + self.shift
        self.mean, self.classes = self.raw.mean(0), list(self.names)
        labels = torch.arange(self.count) % 2
        super().__init__(InMemoryDataset(self.raw - self.mean, labels), *args, **kwargs)

    def state_dict(self):
        return super().state_dict() | {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]
        self.dataset.arrays[0] = self.raw - self.mean
        super().load_state_dict(state)


class Shifted(Scaled):
    shift = 5.0


class Grown(Scaled):
    count = 44


class Swapped(Scaled):
    names = ("right", "left")


def stopped_at(tmp_path, **settings):
    """The last checkpoint of a run over two epochs."""
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=2, **settings), loader_class=Scaled)
    trainer.train()
    return trainer.checkpoint_dir / "checkpoint-epoch2.pth"


def test_a_checkpoint_holds_the_classes_and_what_was_fitted(tmp_path):
    state = load_checkpoint(stopped_at(tmp_path))["attributes"]["data_loader"]
    loader = Scaled(None, 8, True, 0.2, 0)
    assert state["samples"] == 40 and state["classes"] == ["left", "right"]
    assert state["fingerprint"] == loader.state_dict()["fingerprint"]
    assert torch.equal(state["mean"], loader.mean)


def test_a_resumed_run_uses_the_fitted_numbers_of_its_checkpoint(tmp_path, capsys):
    path = stopped_at(tmp_path)
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=3), resume=path, loader_class=Shifted)
    trainer.train()
    first = Scaled(None, 8, True, 0.2, 0)
    assert torch.equal(trainer.data_loader.mean, first.mean)
    assert torch.equal(newest_state(trainer)["attributes"]["data_loader"]["mean"], first.mean)
    data, _ = next(iter(trainer.valid_data_loader))
    assert data.mean() > 4  # the new data are not scaled to themselves
    assert "changed since: data_loader has other samples, or another order" in capsys.readouterr().out


def test_classes_in_another_order_are_refused_on_a_resume_and_leave_the_run_as_it_was(tmp_path):
    path = stopped_at(tmp_path)
    files = sorted(path.parent.iterdir())
    with pytest.raises(UserError, match=r"Swapped: its classes are \['right', 'left'\], but the model is trained on"):
        tiny_trainer(tiny_config(tmp_path, epochs=3), resume=path, loader_class=Swapped).train()
    assert sorted(path.parent.iterdir()) == files


@pytest.mark.parametrize("loader_class", [Scaled, Grown])
def test_an_epoch_under_way_starts_over_if_the_data_have_changed(tmp_path, capsys, loader_class):
    class Stopped(Trainer):
        def _count_batch(self, batch_idx):
            super()._count_batch(batch_idx)
            if self.step == 6:
                self.stop("a test")

    config = tiny_config(tmp_path, verbosity=2)
    trainer = tiny_trainer(config, loader_class=Scaled, trainer_class=Stopped)
    trainer.train()
    path = trainer.checkpoint_dir / "checkpoint-epoch2-batch2.pth"
    resumed = tiny_trainer(changed(config), resume=path, loader_class=loader_class)
    capsys.readouterr()
    resumed.train()
    text = capsys.readouterr().out
    assert ("epoch 2 starts over: the data or their order have changed, so training repeats 2 batches" in text) == (
        loader_class is Grown
    )
    assert ("changed since: data_loader has 44 samples, not 40" in text) == (loader_class is Grown)


def test_a_separate_validation_loader_follows_the_state_too(tmp_path):
    training, validation = Scaled(None, 8, True, 0.0, 0), Shifted(None, 8, True, 0.0, 0)
    separate = validation.as_validation(beside=training)
    assert torch.equal(validation.mean, training.mean)
    training.load_state_dict(training.state_dict() | {"mean": torch.full((4,), 100.0)})
    data, _ = next(iter(separate))
    assert data.mean() < -90


def arrays(tmp_path, classes=None):
    np.save(tmp_path / "x.npy", np.zeros((10, 4), np.float32))
    np.save(tmp_path / "y.npy", np.arange(10) % 3)
    args = {"data": f"{tmp_path}/x.npy", "target": f"{tmp_path}/y.npy", "batch_size": 4, "validation_split": 0.2}
    return ConfigParser({**tiny_config(tmp_path), "data_loader": {"type": "ArrayDataLoader", "args": args}})


def test_a_test_says_that_the_samples_have_changed(tmp_path, caplog):
    config, cpu = arrays(tmp_path), torch.device("cpu")
    state = config.init_obj("data_loader").state_dict()
    split_loader(config.config, "valid", None, cpu, state)
    assert "changed" not in caplog.text
    split_loader(config.config, "valid", None, cpu, state | {"samples": 9})
    assert "changed since the checkpoint: data_loader has 10 samples, not 9" in caplog.text


@pytest.mark.parametrize("state", [3, {"classes": 3}, {"classes": ["a"], "samples": "many\n"}])
def test_a_state_of_other_types_is_refused_in_one_line(state):
    loader = BaseDataLoader(InMemoryDataset(np.zeros((4, 1), np.float32)), 2, True, 0, 0)
    loader.classes = ["a"]
    with pytest.raises(UserError, match=r"^the checkpoint does not fit 'data_loader': .+$"):
        load_state("data_loader", loader, state)
