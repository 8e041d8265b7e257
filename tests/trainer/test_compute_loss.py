"""compute_loss, the seam of the Trainer: what it returns is minimized, averaged exactly, and survives a restart."""

import pytest
import torch

from helpers import accuracy, metrics_rows, newest_state, same, tiny_config, tiny_trainer
from trainer import Trainer
from utils import UserError


class Parts(Trainer):
    """Has a second loss, and notes what it was called in."""

    dtypes, stop_at = (), None

    def compute_loss(self, data, target):
        output = self.model(data)
        loss, penalty = self.criterion(output, target), output.float().square().mean()
        self.dtypes = {*self.dtypes, output.dtype}
        if self.step == self.stop_at:
            self.stop("enough")
        return {"loss": loss + 0.1 * penalty, "penalty": penalty}, output


class Mixup(Trainer):
    def compute_loss(self, data, target):
        share = torch.distributions.Beta(0.2, 0.2).sample().item()
        other = torch.randperm(len(data))
        output = self.model(share * data + (1 - share) * data[other])
        self.seen = output.dtype
        return share * self.criterion(output, target) + (1 - share) * self.criterion(output, target[other]), output


def test_mixup_computes_in_the_precision_of_the_config(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=1, precision="bf16"), trainer_class=Mixup)
    trainer.train()
    assert trainer.seen == torch.bfloat16


def test_a_loss_of_its_own_that_is_the_usual_one_trains_to_the_same_bits(tmp_path):
    class Same(Trainer):
        def compute_loss(self, data, target):
            output = self.model(data)
            return {"loss": self.criterion(output, target), "again": self.criterion(output, target)}, output

    plain, own = (
        tiny_trainer(tiny_config(tmp_path / name, epochs=2, accumulate=2), trainer_class=kind)
        for name, kind in (("a", Trainer), ("b", Same))
    )
    plain.train()
    own.train()
    assert same(plain.model.state_dict(), own.model.state_dict())
    for row in metrics_rows(own):
        assert row["again"] == row["loss"]  # the same average, over batches of unequal size
    assert [row["loss"] for row in metrics_rows(plain)] == [row["loss"] for row in metrics_rows(own)]


class Always(torch.nn.Module):
    """A metric over the epoch."""

    __name__ = "always"

    def update(self, output, target):
        pass

    def compute(self):
        return 1.0

    def reset(self):
        pass


@pytest.mark.parametrize("name", ["accuracy", "always", "lr", "epoch", "grad_norm", "val_loss"])
def test_a_part_of_a_loss_with_a_name_in_use_is_refused_at_the_first_batch(tmp_path, name):
    class Taking(Parts):
        def compute_loss(self, data, target):
            loss, output = super().compute_loss(data, target)
            return {"loss": loss["loss"], name: loss["penalty"]}, output

    trainer = tiny_trainer(tiny_config(tmp_path), trainer_class=Taking, metrics=(accuracy, Always()))
    with pytest.raises(UserError, match=f"^loss: '{name}' .*; give this part of the loss another one"):
        trainer.train()
    assert trainer.step == 0


def test_parts_of_a_loss_are_logged_and_survive_a_stop_within_the_epoch(tmp_path):
    straight = tiny_trainer(tiny_config(tmp_path / "a", epochs=2), trainer_class=Parts)
    straight.train()
    stopped = tiny_trainer(tiny_config(tmp_path / "b", epochs=2), trainer_class=Parts)
    stopped.stop_at = 7
    stopped.train()
    assert stopped.batches_done
    resumed = tiny_trainer(
        tiny_config(tmp_path / "b", epochs=2, log_step=3), resume=stopped.saver.newest, trainer_class=Parts
    )
    resumed.train()
    assert "penalty" in metrics_rows(straight)[-1]
    assert metrics_rows(resumed)[-1] == metrics_rows(straight)[-1]
    assert same(newest_state(straight)["state_dict"], newest_state(resumed)["state_dict"])


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda loss: {"loss": loss, "accuracy": loss}, r"loss: 'accuracy' is the name of a metric already"),
        (lambda loss: {"total": loss}, r"loss: got a .*; it should be one number per batch"),
        (lambda loss: loss.expand(3), r"loss: got a .*; it should be one number per batch"),
    ],
)
def test_what_is_no_loss_is_refused_in_one_line(tmp_path, returned, told):
    class Wrong(Trainer):
        def compute_loss(self, data, target):
            loss, output = super().compute_loss(data, target)
            return returned(loss), output

    with pytest.raises(UserError, match=told):
        tiny_trainer(tiny_config(tmp_path), trainer_class=Wrong).train()
