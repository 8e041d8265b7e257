"""The range test of learning rates and the search for a batch size: right, and without a trace."""

import copy
import math

import pytest
import torch

from base.training.tune import draw_lr_curve, find_batch_size, find_lr, largest_that_fits, suggest_lr
from helpers import same, tiny_config, tiny_trainer
from trainer import Trainer
from utils import UserError
from utils.seed import rng_state


@pytest.fixture
def trainer(tmp_path):
    return tiny_trainer(tiny_config(tmp_path))


def test_the_rate_rises_from_low_to_high_and_ends_where_the_loss_explodes(trainer):
    curve = find_lr(trainer, low=1e-5, high=0.1, steps=20)
    rates = [lr for lr, _ in curve]
    assert rates == pytest.approx([1e-5 * 1e4 ** (i / 19) for i in range(20)])
    exploding = find_lr(trainer, low=1e-3, high=1e6, steps=60)
    losses = [loss for _, loss in exploding]
    assert len(exploding) < 60 and max(losses) <= 4 * min(losses) and all(map(math.isfinite, losses))


def everything(trainer):
    states = trainer.model.state_dict(), trainer.optimizer.state_dict()
    return copy.deepcopy(states), rng_state(), trainer.data_loader.generator.get_state()


def test_it_leaves_no_trace(trainer):
    trainer.model.eval()
    before = everything(trainer)
    find_lr(trainer)
    assert same(before, everything(trainer)) and not trainer.model.training
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_training_after_it_is_training_without_it(tmp_path):
    plain, searched = (tiny_trainer(tiny_config(tmp_path / name)) for name in "ab")
    find_lr(searched, steps=30)
    plain.train()
    searched.train()
    assert same(plain.model.state_dict(), searched.model.state_dict())
    assert same(plain.optimizer.state_dict(), searched.optimizer.state_dict())


def test_it_takes_the_steps_of_a_trainer_with_a_loss_of_its_own(tmp_path):
    class Doubled(Trainer):
        def compute_loss(self, data, target):
            loss, output = super().compute_loss(data, target)
            return {"loss": 2 * loss, "half": loss}, output

    plain, doubled = (
        tiny_trainer(tiny_config(tmp_path / name), trainer_class=kind)
        for name, kind in (("a", Trainer), ("b", Doubled))
    )
    losses, twice = ([loss for _, loss in find_lr(one, 1e-9, 1e-8, steps=5)] for one in (plain, doubled))
    assert twice == pytest.approx([2 * loss for loss in losses], rel=1e-4)


def test_groups_keep_their_ratio(trainer):
    model = trainer.model
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[3].parameters(), "lr": 0.02}]
    trainer.optimizer = optimizer = torch.optim.SGD(groups)
    seen = []
    optimizer.register_step_pre_hook(lambda *step: seen.append([g["lr"] for g in optimizer.param_groups]))
    find_lr(trainer, low=1e-4, high=1e-2, steps=10)
    assert len(seen) == 10 and all(other == pytest.approx(0.2 * first) for first, other in seen)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.02]


def test_the_suggestion_is_where_the_loss_falls_most_steeply():
    losses = [3.0, 3.0, 2.9, 2.0, 1.0, 0.9, 0.8, 2.0, 9.0]
    curve = [(10.0**i, loss) for i, loss in enumerate(losses)]
    assert suggest_lr(curve) == 10.0**3


def test_the_restless_beginning_of_the_curve_suggests_nothing():
    losses = [9.0, 5.0, 3.5, 3.1, *[3.0] * 20, 2.9, 2.0, 1.0, 0.9, 0.8, 0.8, 0.8, 0.8, 2.0, 9.0, *[9.0] * 6]
    assert suggest_lr([(float(i), loss) for i, loss in enumerate(losses)]) == 25.0
    assert suggest_lr([(float(i), float(i)) for i in range(5)]) == 1.0  # one that only rises


def test_a_loss_that_is_nan_from_the_beginning_is_told(trainer):
    trainer.criterion = lambda output, target: output.sum() * math.nan
    with pytest.raises(UserError, match="--find-lr: the loss is not finite or explodes within"):
        find_lr(trainer)


def test_the_curve_is_drawn_and_a_path_that_cannot_be_is_told(tmp_path):
    curve = [(10.0**i, 1.0) for i in range(5)]
    draw_lr_curve(curve, 10.0, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="cannot save the picture: there is no such folder"):
        draw_lr_curve(curve, 10.0, tmp_path / "no" / "a.png")


@pytest.mark.parametrize(("largest", "limit"), [(1, 50), (37, 1000), (64, 1000), (1000, 300), (100, 100), (777, 5000)])
def test_the_largest_that_fits_is_found_to_within_a_sixteenth(largest, limit):
    tried = []

    def fits(number):
        tried.append(number)
        return number <= largest

    found = largest_that_fits(fits, limit)
    assert found <= min(largest, limit) and found >= min(largest, limit) * 15 / 16 - 1
    assert len(tried) < 30 and max(tried) <= limit


def test_nothing_fits():
    assert largest_that_fits(lambda number: False, 100) == 0


def test_the_search_for_a_batch_size_needs_a_gpu(trainer):
    with pytest.raises(UserError, match="--find-batch-size: needs a GPU, and this run is on the cpu"):
        find_batch_size(trainer)
