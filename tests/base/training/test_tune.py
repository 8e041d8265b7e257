"""The range test of learning rates and the search for a batch size: right, and without a trace."""

import copy
import math

import pytest
import torch

from base import BaseDataLoader
from base.training.tune import draw_lr_curve, find_batch_size, find_lr, largest_that_fits, suggest_lr
from helpers import TinyData, same, tiny_config, tiny_model, tiny_trainer
from utils import UserError
from utils.config.schema import TrainerSettings
from utils.seed import rng_state, seed_everything

CPU = torch.device("cpu")


def parts(**trainer):
    seed_everything(5)
    model = tiny_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loader = BaseDataLoader(TinyData(), 8, True, 0.2, 0)
    return model, torch.nn.CrossEntropyLoss(), optimizer, loader, CPU, TrainerSettings(epochs=1, **trainer)


def test_the_rate_rises_from_low_to_high_and_ends_where_the_loss_explodes():
    curve = find_lr(*parts(), low=1e-5, high=0.1, steps=20)
    rates = [lr for lr, _ in curve]
    assert rates == pytest.approx([1e-5 * 1e4 ** (i / 19) for i in range(20)])
    exploding = find_lr(*parts(), low=1e-3, high=1e6, steps=60)
    losses = [loss for _, loss in exploding]
    assert len(exploding) < 60 and max(losses) <= 4 * min(losses) and all(map(math.isfinite, losses))


def test_it_leaves_no_trace(tmp_path):
    model, criterion, optimizer, loader, device, settings = parts()
    model.eval()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict())), rng_state(), loader.generator.get_state()
    find_lr(model, criterion, optimizer, loader, device, settings)
    after = (model.state_dict(), optimizer.state_dict()), rng_state(), loader.generator.get_state()
    assert same(before, after) and not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_after_it_is_training_without_it(tmp_path):
    plain, searched = (tiny_trainer(tiny_config(tmp_path / name)) for name in "ab")
    find_lr(
        searched.model, searched.criterion, searched.optimizer, searched.data_loader, CPU, searched.settings, steps=30
    )
    plain.train()
    searched.train()
    assert same(plain.model.state_dict(), searched.model.state_dict())
    assert same(plain.optimizer.state_dict(), searched.optimizer.state_dict())


def test_groups_keep_their_ratio():
    model, criterion, _, loader, device, settings = parts()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[3].parameters(), "lr": 0.02}]
    optimizer = torch.optim.SGD(groups)
    seen = []
    optimizer.register_step_pre_hook(lambda *step: seen.append([g["lr"] for g in optimizer.param_groups]))
    find_lr(model, criterion, optimizer, loader, device, settings, low=1e-4, high=1e-2, steps=10)
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


def test_a_loss_that_is_nan_from_the_beginning_is_told():
    model, _, optimizer, loader, device, settings = parts()
    with pytest.raises(UserError, match="--find-lr: the loss is not finite or explodes at once"):
        find_lr(model, lambda o, t: o.sum() * math.nan, optimizer, loader, device, settings)


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


def test_the_search_for_a_batch_size_needs_a_gpu():
    with pytest.raises(UserError, match="--find-batch-size: is for a CUDA GPU's memory, and this run is on cpu"):
        find_batch_size(*parts())
