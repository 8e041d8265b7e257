import random

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from base import BaseDataLoader, InMemoryDataset
from helpers import TinyData
from utils import UserError


class Numbers(torch.utils.data.Dataset):
    def __init__(self, sign=1):
        self.sign = sign

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return self.sign * index, self.sign * index


def samples(loader):
    return [value for data, _ in loader for value in data.tolist()]


def test_every_sample_is_trained_or_validated_once():
    loader = BaseDataLoader(Numbers(), 3, True, 0.3, 0)
    assert sorted(samples(loader) + samples(loader.split_validation())) == list(range(20))
    assert loader.n_samples == 14 and len(loader) == 5


def test_validation_samples_are_those_of_the_old_template():
    order = np.arange(20)
    np.random.RandomState(0).shuffle(order)
    assert samples(BaseDataLoader(Numbers(), 4, True, 0.3, 0).split_validation()) == order[:6].tolist()


def test_split_counts_samples_when_it_is_an_integer():
    assert len(samples(BaseDataLoader(Numbers(), 4, True, 7, 0).split_validation())) == 7


@pytest.mark.old_defect(6)
def test_split_leaves_the_global_generator_alone():
    np.random.seed(42)
    expected = np.random.RandomState(42).rand()
    BaseDataLoader(Numbers(), 4, True, 0.3, 0)
    assert np.random.rand() == expected


@pytest.mark.old_defect(7)
def test_validation_has_its_own_dataset_and_a_fixed_order():
    loader = BaseDataLoader(Numbers(), 4, True, 0.3, 0, valid_dataset=Numbers(sign=-1))
    valid = loader.split_validation()
    assert samples(valid) == samples(valid)
    assert all(value <= 0 for value in samples(valid))
    assert all(value >= 0 for value in samples(loader))


def test_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch, draws_before):
        torch.manual_seed(seed)
        loader = BaseDataLoader(Numbers(), 4, True, 0.0, 0)
        torch.rand(draws_before)
        loader.set_epoch(epoch)
        return samples(loader)

    assert order(1, 2, 0) == order(1, 2, 17)
    assert order(1, 2, 0) != order(1, 3, 0)
    assert order(1, 2, 0) != order(2, 2, 0)


def test_order_without_set_epoch_changes_with_each_pass():
    loader = BaseDataLoader(Numbers(), 4, True, 0.0, 0)
    assert samples(loader) != samples(loader)


def test_no_shuffle_keeps_the_order():
    assert samples(BaseDataLoader(Numbers(), 4, False, 0.0, 0)) == list(range(20))


def test_set_epoch_can_start_at_a_batch():
    loader = BaseDataLoader(Numbers(), 4, True, 0.0, 0)
    loader.set_epoch(3)
    whole = samples(loader)
    loader.set_epoch(3, start_batch=2)
    assert samples(loader) == whole[8:]
    assert samples(loader) == whole


def test_workers_draw_the_same_jitter_for_the_same_seed():
    def pass_of(seed):
        torch.manual_seed(seed)
        loader = BaseDataLoader(TinyData(jitter=1.0), 8, False, 0.0, 2)
        return torch.cat([data for data, _ in loader])

    assert torch.equal(pass_of(1), pass_of(1))
    assert not torch.equal(pass_of(1), pass_of(2))


def test_workers_outlive_an_epoch_and_draw_anew_in_each():
    def passes(loader, epochs):
        for epoch in epochs:
            loader.set_epoch(epoch)
            yield torch.cat([data for data, _ in loader])

    torch.manual_seed(1)
    loaders = [BaseDataLoader(TinyData(jitter=1.0), 8, True, 0.0, num_workers) for num_workers in (0, 1, 2)]
    assert [loader.persistent_workers for loader in loaders] == [False, True, True]
    first, second, third = passes(loaders[0], (1, 2, 3))
    assert not torch.equal(first, second)
    for loader in loaders[1:]:
        assert all(map(torch.equal, passes(loader, (1, 2, 3)), (first, second, third)))
    assert torch.equal(next(passes(loaders[1], [2])), second)


def test_a_loader_to_validate_on_is_whole_in_a_fixed_order_and_as_validation_sees_it():
    trained = BaseDataLoader(Numbers(), 4, True, 0, 0)
    loader = BaseDataLoader(Numbers(), 4, True, 0, 0, valid_dataset=Numbers(sign=-1), drop_last=True)
    assert samples(loader.as_validation(beside=trained)) == [-index for index in range(20)]
    jittered = BaseDataLoader(TinyData(jitter=1.0), 50, True, 0, 0).as_validation()
    assert torch.equal(next(iter(jittered))[0], next(iter(jittered))[0])
    split = BaseDataLoader(Numbers(), 4, True, 6, 0)
    assert sorted(samples(split.as_validation()) + samples(split.split_validation())) == list(range(20))


def test_loaders_that_do_not_go_together_are_refused():
    cats, dogs, split = (BaseDataLoader(Numbers(), 4, True, share, 0) for share in (0, 0, 0.1))
    cats.classes, dogs.classes = ["cat"], ["dog"]
    wrong = r"^BaseDataLoader: its classes are \['dog'\], but the model is trained on \['cat'\], so class numbers"
    with pytest.raises(UserError, match=wrong):
        dogs.as_validation(beside=cats)
    with pytest.raises(UserError, match="valid_data_loader: data_loader sets validation samples aside already"):
        dogs.as_validation(beside=split)


def test_validation_samples_are_drawn_the_same_in_every_epoch():
    loader = BaseDataLoader(TinyData(jitter=1.0), 8, True, 10, 0)
    valid = loader.split_validation()
    loader.set_epoch(1)
    first = next(iter(valid))[0]
    loader.set_epoch(2)
    assert torch.equal(next(iter(valid))[0], first)


def test_loading_takes_nothing_from_the_global_generator():
    for num_workers in (0, 2):
        loader = BaseDataLoader(TinyData(), 8, True, 0.0, num_workers)
        loader.set_epoch(1)
        before = torch.get_rng_state()
        list(loader)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("split", [1.0, -0.1, 20, 21, -1, 1.5, 0.01, True])
def test_split_that_leaves_nothing_is_refused(split):
    with pytest.raises(UserError, match="validation_split"):
        BaseDataLoader(Numbers(), 4, True, split, 0)


@pytest.mark.parametrize(
    ("batch_size", "workers", "word"),
    [(0, 0, "batch_size"), (-1, 0, "batch_size"), (4, -1, "num_workers"), (2.0, 0, "batch_size")],
)
def test_sizes_that_cannot_be_are_refused(batch_size, workers, word):
    with pytest.raises(UserError, match=word):
        BaseDataLoader(Numbers(), batch_size, True, 0.0, workers)


def test_no_split_has_no_validation():
    assert BaseDataLoader(Numbers(), 4, True, 0, 0).split_validation() is None


def test_drop_last_drops_no_validation_sample():
    loader = BaseDataLoader(Numbers(), 4, True, 0.3, 0, drop_last=True)
    assert len(samples(loader)) == 12 and len(samples(loader.split_validation())) == 6


def test_subsets_are_seen_through():
    inner = TinyData(jitter=1.0)
    plain, subset = (BaseDataLoader(data, 8, False, 0.0, 0) for data in (inner, Subset(inner, list(range(50)))))
    other_size = BaseDataLoader(Subset(Subset(inner, range(50)), list(range(50))), 7, False, 0.0, 0)
    passes = []
    for loader in (plain, subset, other_size):
        loader.set_epoch(1)
        passes.append(torch.cat([data for data, _ in loader]))
    assert torch.equal(passes[0], passes[1]) and torch.equal(passes[0], passes[2])
    loader = BaseDataLoader(Subset(InMemoryDataset(torch.arange(10.0)), [3, 4, 5]), 2, False, 0.0, 0)
    assert [batch[0].tolist() for batch in loader] == [[3, 4], [5]]


def test_training_and_validation_data_may_be_of_different_kinds():
    in_memory = InMemoryDataset(torch.arange(20.0), torch.arange(20))
    single = TensorDataset(torch.arange(20.0), torch.arange(20))
    for train, valid in ((in_memory, single), (single, in_memory)):
        loader = BaseDataLoader(train, 4, False, 8, 0, valid_dataset=valid)
        for part in (loader, loader.split_validation()):
            data, target = next(iter(part))
            assert torch.equal(data, target.float()) and len(data) == 4
    with pytest.raises(UserError, match="valid_dataset: has 3 samples, but the dataset has 20"):
        BaseDataLoader(in_memory, 4, False, 8, 0, valid_dataset=[1, 2, 3])


def test_data_without_a_length_is_refused():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(range(3))

    with pytest.raises(UserError, match=r"^dataset: Stream is an IterableDataset, which cannot be .* docs/data\.md"):
        BaseDataLoader(Stream(), 4, False, 0, 0)

    class WithLength(Stream):
        def __len__(self):
            return 3

    with pytest.raises(UserError, match=r"^dataset: WithLength is an IterableDataset, which cannot be shuffled"):
        BaseDataLoader(WithLength(), 4, False, 0, 0)


@pytest.mark.parametrize("dataset", [[], InMemoryDataset(torch.zeros(0, 4), torch.zeros(0))])
def test_data_of_no_samples_are_refused(dataset):
    with pytest.raises(UserError, match=r"^dataset: has no samples$"):
        BaseDataLoader(dataset, 4, False, 0, 0)


def noisy(image):
    return image + torch.randn(4) + float(np.random.rand()) + random.random()


class Noisy(TinyData):
    def __getitem__(self, index):
        return noisy(self.features[index]), self.labels[index]


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("in_memory", [False, True])
def test_samples_are_the_same_whatever_reads_them(in_memory):
    """Any number of workers, and of threads in the process that reads."""

    data = TinyData()
    threads = torch.get_num_threads()
    read = []
    try:
        for num_workers, num_threads in ((0, 1), (0, 2), (1, 1), (2, 1), (4, 2)):
            torch.set_num_threads(num_threads)
            dataset = InMemoryDataset(data.features, data.labels, transform=noisy) if in_memory else Noisy()
            loader = BaseDataLoader(dataset, 8, True, 0.2, num_workers)
            loader.set_epoch(3, start_batch=2)
            read.append([part for batch in loader for part in batch])
            if num_workers:
                loader._iterator._shutdown_workers()
    finally:
        torch.set_num_threads(threads)
    assert all(all(map(torch.equal, read[0], other)) for other in read[1:]) and len(read[0]) == 6
