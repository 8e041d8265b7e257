import pytest
import torch

from base import BaseDataLoader
from base.data.sampler import BalancedSampler
from helpers import TinyData
from utils import UserError

RARE = [0] * 40 + [1] * 7 + [2] * 3


class BalancedLoader(BaseDataLoader):
    """The tiny job's loader, which draws its classes equally often."""

    def __init__(self, dataset, *args):
        super().__init__(dataset, *args, balance_classes=RARE)


def test_every_class_is_drawn_equally_often():
    sampler = BalancedSampler(range(50), RARE, seed=1)
    order = sampler.order(1)
    drawn = torch.tensor(RARE)[order].bincount()
    assert len(order) == len(sampler) == 50 and drawn.max() - drawn.min() <= 1
    assert order.bincount(minlength=50)[:40].max() == 1  # of many, none comes twice
    assert set(order.bincount(minlength=50)[47:].tolist()) <= {5, 6}  # of few, all come as often


def test_over_the_epochs_all_samples_of_a_large_class_are_drawn():
    sampler = BalancedSampler(range(50), RARE, seed=1)
    assert torch.cat([sampler.order(epoch) for epoch in range(12)]).unique().numel() == 50


def test_balanced_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch, draws_before=0):
        torch.rand(draws_before)
        return BalancedSampler(range(50), RARE, seed=seed).order(epoch).tolist()

    assert order(1, 2) == order(1, 2, 9)
    assert order(1, 2) != order(1, 3) and order(1, 2) != order(2, 2)


def test_validation_is_not_balanced():
    loader = BalancedLoader(TinyData(), 8, True, 20, 0)
    assert sorted([*loader.valid_sampler.indices.tolist(), *loader.sampler.indices.tolist()]) == list(range(50))
    assert len(list(loader.as_validation().sampler)) == len(set(loader.as_validation().sampler)) == 30


@pytest.mark.parametrize("shuffle", [True, False])
def test_classes_of_some_samples_or_without_shuffling_are_refused(shuffle):
    with pytest.raises(UserError, match="balance_classes: needs shuffle, and the class of every sample"):
        BaseDataLoader(TinyData(), 8, shuffle, 0, 0, balance_classes=RARE[shuffle:])
