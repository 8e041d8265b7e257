"""The GAN's own step: gradients that are not finite stop it, are skipped, or rolled back, as in the Trainer."""

import math

import pytest
import torch

from base import BaseDataLoader
from base.training.optimizers import Optimizers
from examples.gan.model import real_loss
from examples.gan.trainer import GanTrainer
from helpers import TinyData, reads_of_tensors, same, tiny_config, tiny_trainer
from utils import UserError
from utils.seed import seed_everything

BAD = 17


class TinyGan(torch.nn.Module):
    latent_size = 2

    def __init__(self):
        super().__init__()
        self.generator = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4))
        self.discriminator = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))

    def forward(self, data):
        return self.discriminator(data).squeeze(1)

    def generate(self, latent):
        return self.generator(latent)


class FaultyData(TinyData):
    def __getitem__(self, index):
        data, target = super().__getitem__(index)
        return (data * math.nan if index == BAD else data), target


def gan(folder, data=FaultyData, every=None, **changes):
    seed_everything(3)
    model = TinyGan()
    parts = {name: getattr(model, name).parameters() for name in ("generator", "discriminator")}
    optimizers = Optimizers({name: torch.optim.SGD(part, 0.1) for name, part in parts.items()}, every)
    return tiny_trainer(
        tiny_config(folder, **{"epochs": 1, "verbosity": 1, **changes}),
        trainer_class=GanTrainer,
        model=model,
        optimizer=optimizers,
        schedule=None,
        metrics=(),
        criterion=real_loss,
        loader_class=lambda _, *args: BaseDataLoader(data(), *args),
    )


def bad_batch(trainer):
    return next(i for i in range(trainer.len_epoch) if BAD in trainer.data_loader.batch_indices(1, i))


@pytest.mark.parametrize(
    ("every", "what"),
    [
        (None, "the loss is nan"),  # the generator's, by a discriminator that has learned from the batch
        ({"generator": 2}, "the loss is nan"),
        ({"discriminator": 2}, "the gradient is not finite"),
    ],
)
def test_a_bad_gradient_stops_the_run_and_names_its_batch(tmp_path, every, what):
    trainer = gan(tmp_path, every=every)
    with pytest.raises(UserError, match=f"epoch 1, batch {bad_batch(trainer) + 1} of 5: {what}; samples"):
        trainer.train()
    assert not list(trainer.checkpoint_dir.glob("*.pth"))


def test_a_bad_gradient_of_the_generator_alone_is_found_too(tmp_path):
    trainer = gan(tmp_path, data=TinyData)
    hook = trainer.model.generator[0].weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(UserError, match="epoch 1, batch 1 of 5: the gradient is not finite"):
        trainer.train()
    hook.remove()


def test_skip_leaves_out_the_one_network_and_keeps_its_statistics(tmp_path, capsys):
    trainer = gan(tmp_path, on_nonfinite="skip")
    bad = bad_batch(trainer)
    updates = {"discriminator": [], "generator": []}
    for name, made in updates.items():
        step = trainer.optimizer[name].step
        trainer.optimizer[name].step = lambda made=made, step=step: made.append(trainer.batches_done) or step()
    trainer.train()
    assert updates["generator"] == list(range(5)) and updates["discriminator"] == [i for i in range(5) if i != bad]
    assert all(tensor.isfinite().all() for tensor in trainer.model.state_dict().values())
    told = capsys.readouterr().out
    assert told.count("optimizer step is skipped") == 1 and f"batch {bad + 1} of 5: the gradient is not finite" in told
    assert math.isfinite(trainer.saved_log["d_loss"])


def test_rollback_leaves_the_batch_out(tmp_path):
    trainer = gan(tmp_path / "a", on_nonfinite="rollback")
    trainer.train()
    reference = gan(tmp_path / "b", data=TinyData)
    reference.skipped_batches = {(1, bad_batch(reference))}
    reference.train()
    assert trainer.skipped_batches == reference.skipped_batches and same(
        trainer.model.state_dict(), reference.model.state_dict()
    )


def test_ignore_looks_at_nothing(tmp_path):
    gan(tmp_path, on_nonfinite="ignore").train()


def test_its_steps_wait_for_no_device_between_log_points(tmp_path, monkeypatch):
    reads = reads_of_tensors(monkeypatch)
    counts = []
    for batches in (2, 5):
        trainer = gan(tmp_path, data=TinyData, limit_train_batches=batches, log_step=100)
        reads.clear()
        trainer._train_epoch(1)
        counts.append(len(reads))
    assert counts[0] == counts[1] > 0
