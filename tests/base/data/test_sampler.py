import pytest
import torch

from base import BaseDataLoader
from base.data.sampler import BalancedSampler, LengthSampler, WeightedSampler
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
    with pytest.raises(UserError, match="balance_classes: needs shuffle, and a value for each of the 50 samples"):
        BaseDataLoader(TinyData(), 8, shuffle, 0, 0, balance_classes=RARE[shuffle:])


LENGTHS = torch.randint(1, 100, (1003,), generator=torch.Generator().manual_seed(0))


def test_batches_of_similar_length_hold_every_sample_once_and_little_padding():
    sampler = LengthSampler(range(1003), LENGTHS, 10, seed=1)
    order = sampler.order(3)
    assert order.sort().values.tolist() == list(range(1003))
    padded = sum(int(LENGTHS[batch].max()) * len(batch) for batch in order.split(10))
    assert padded < 1.05 * int(LENGTHS.sum())  # in a random order 1.8 times
    widths = [int(LENGTHS[batch].max()) for batch in order.split(10)]
    assert widths != sorted(widths)
    assert (
        order.tolist() == LengthSampler(range(1003), LENGTHS, 10, seed=1).order(3).tolist() != sampler.order(4).tolist()
    )


def test_samples_of_similar_length_meet_others_in_each_epoch():
    sampler = LengthSampler(range(100), [5] * 100, 10, seed=1)
    batches = [{frozenset(batch.tolist()) for batch in sampler.order(epoch).split(10)} for epoch in (1, 2)]
    assert not batches[0] & batches[1]


def test_a_validation_split_of_all_samples_is_refused_with_lengths():
    with pytest.raises(UserError, match="validation_split"):
        BaseDataLoader(TinyData(), 8, True, 50, 0, lengths=LENGTHS[:50].numpy())


@pytest.mark.parametrize("number", [0, 3])
def test_a_loader_of_similar_lengths_begins_an_epoch_at_any_batch(number):
    def loader():
        return BaseDataLoader(TinyData(), 8, True, number, 0, lengths=LENGTHS[:50].numpy())

    whole, resumed = loader(), loader()
    whole.set_epoch(2)
    resumed.set_epoch(2, 3)
    rest = [data for data, _ in whole][3:]
    assert all(torch.equal(one, other) for one, other in zip(rest, [data for data, _ in resumed], strict=True))
    assert whole.batch_indices(2, 0) == whole.sampler.order(2)[:8].tolist()


WEIGHTS = [0.0] * 10 + [1.0] * 20 + [3.0] * 20


class WeightedLoader(BaseDataLoader):
    """The tiny job's loader, which draws some samples more often."""

    def __init__(self, dataset, *args):
        super().__init__(dataset, *args, sampling_weights=WEIGHTS)


def test_samples_are_drawn_in_proportion_to_their_weights():
    sampler = WeightedSampler(range(50), WEIGHTS, seed=1)
    drawn = torch.cat([sampler.order(epoch) for epoch in range(400)]).bincount(minlength=50)
    assert len(sampler.order(1)) == len(sampler) == 50 and drawn[:10].sum() == 0
    assert drawn.sum() == 20_000  # of which 80 in 80 weights go to the rest: 250 and 750 times a sample
    assert (drawn[10:30] - 250).abs().max() < 65 and (drawn[30:] - 750).abs().max() < 110


def test_weighted_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch, draws_before=0):
        torch.rand(draws_before)
        return WeightedSampler(range(50), WEIGHTS, seed=seed).order(epoch).tolist()

    assert order(1, 2) == order(1, 2, 9)
    assert order(1, 2) != order(1, 3) and order(1, 2) != order(2, 2)


def test_any_number_of_samples_has_weights():
    number = 2**24 + 1  # torch.multinomial takes one less
    weights = torch.zeros(number)
    weights[[0, 7, -1]] = 1e38
    order = WeightedSampler(torch.arange(number), weights, seed=1).order(1)
    drawn = order.bincount(minlength=number)
    assert len(order) == number and drawn.nonzero().flatten().tolist() == [0, 7, number - 1]
    assert (drawn[[0, 7, -1]] / number - 1 / 3).abs().max() < 0.001


def test_weights_go_with_their_samples_in_a_split_and_not_into_validation():
    loader = WeightedLoader(TinyData(), 8, True, 20, 0)
    drawn = set(loader.sampler.order(1).tolist())
    assert drawn <= set(loader.sampler.indices.tolist()) and min(drawn) >= 10
    assert len(loader.valid_sampler.indices) == 20 and loader.seekable


NO_SAMPLERS = {"sampler": None, "batch_sampler": None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampling_weights": WEIGHTS[1:]}, r"sampling_weights: needs shuffle, and a value for each of the 50 samples"),
        ({"lengths": [1] * 49}, "lengths: needs shuffle, and a value for each of the 50 samples"),
        ({"sampling_weights": [-1.0, *WEIGHTS[1:]]}, "sampling_weights: should be finite numbers of 0 or more"),
        ({"sampling_weights": [float("nan"), *WEIGHTS[1:]]}, "sampling_weights: should be finite numbers of 0 or more"),
        ({"sampling_weights": [0.0] * 50}, "sampling_weights: all are 0 in the training part"),
        ({"sampling_weights": WEIGHTS, "balance_classes": RARE}, "balance_classes, sampling_weights: give one of them"),
        ({"sampling_weights": WEIGHTS, "lengths": RARE}, "lengths, sampling_weights: give one of them"),
        ({"sampler": [1, 2]}, "sampler: BaseDataLoader has its own; give sampling_weights"),
        ({"batch_sampler": [[1, 2]]}, "batch_sampler: BaseDataLoader has its own"),
        ({"lengths": ["a"] * 50}, r"lengths: got \['a', .*; it should be a list or an array of numbers$"),
        ({"lengths": [None] * 50}, r"lengths: got \[None, .*; it should be a list or an array of numbers$"),
        ({"lengths": [[1]] * 49 + [[1, 2]]}, "lengths: got .*; it should be a list or an array of numbers$"),
        ({"sampling_weights": ["1.0"] * 50}, "sampling_weights: got .*; it should be a list or an array of numbers$"),
        (
            {"balance_classes": [None, "a"] * 25},
            "balance_classes: got .*; it should be a list or an array of numbers or texts, not both$",
        ),
        (
            {"stratify": [None, "a"] * 25},
            "stratify: got .*; it should be a list or an array of numbers or texts, not both$",
        ),
        (
            {"groups": [[1]] * 49 + [[1, 2]]},
            "groups: got .*; it should be a list or an array of numbers or texts, not both$",
        ),
        ({"samples": [0.5, 1.0]}, r"samples: got \[0.5, 1.0\]; it should be a list or an array of integers$"),
        ({"samples": 5}, "samples: got 5; it should be a list or an array of integers$"),
    ],
)
def test_weights_and_samplers_that_cannot_be_used_are_refused(arguments, message):
    with pytest.raises(UserError, match=f"^{message}"):
        BaseDataLoader(TinyData(), 8, True, 0, 0, **arguments)


def test_no_sampler_may_be_said_with_none():
    given, plain = (BaseDataLoader(TinyData(), 8, True, 0, 0, **more) for more in (NO_SAMPLERS, {}))
    assert torch.equal(given.sampler.order(1), plain.sampler.order(1))
    validation = BaseDataLoader(TinyData(), 8, True, 10, 0, **NO_SAMPLERS).split_validation()
    assert sum(len(target) for _, target in validation) == 10


@pytest.mark.parametrize("dtype", ["uint16", "int8", "float16", "longdouble"])
def test_lengths_may_be_numbers_of_any_kind(dtype):
    given, plain = (
        BaseDataLoader(TinyData(), 8, True, 0, 0, lengths=LENGTHS[:50].numpy().astype(kind))
        for kind in (dtype, "int64")
    )
    assert torch.equal(given.sampler.order(1), plain.sampler.order(1))
