"""SeededDataset: any map-style dataset, with random numbers that depend on (seed, epoch, sample) alone."""

import random

import numpy as np
import torch
from torch.utils.data import Dataset, Subset, get_worker_info

from base.data.in_memory import InMemoryDataset
from utils.batches import sample_error
from utils.distributed.world import own_samples, own_slice
from utils.seed import derive_seed

_AUGMENTATION = 2  # sets these random streams apart from the epoch's other ones
_MASK = 2**64 - 1


class SeededDataset(Dataset):
    """A dataset seen through a SampleSeeder; BaseDataLoader wraps every one in it. The attribute dataset is yours.

    So a sample's augmentation is the same whatever the number of workers, and after a resume. One whose __getitems__
    makes whole batches gets its numbers a batch at a time. Of a batch that several processes share, each reads its
    part. Raises DataError, naming the sample, for whatever reading one raises.
    """

    def __init__(self, dataset):
        self.dataset = dataset
        self.seeder = SampleSeeder()

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.seeder.map(_reader(self.dataset), [index], [index])[0]

    def __getitems__(self, indices):
        try:
            return self._batch(indices)
        except StopIteration as error:  # which would be taken for the end of the data
            raise sample_error(self.dataset, own_samples(indices)[0], error) from error

    def _batch(self, indices):
        dataset = self.dataset
        while type(dataset) is Subset:
            indices, dataset = [dataset.indices[index] for index in indices], dataset.dataset
        if isinstance(dataset, InMemoryDataset) and dataset.draws_for_batches:
            own = own_slice(len(indices))  # of what one process would draw
            return tuple(rows[own] for rows in dataset.__getitems__(indices, self.seeder))
        indices = own_samples(indices)
        if isinstance(dataset, InMemoryDataset):
            return dataset.__getitems__(indices, self.seeder)
        if hasattr(dataset, "__getitems__"):
            return self.seeder.map(dataset.__getitems__, [hash(tuple(indices))], [indices])[0]
        return self.seeder.map(_reader(dataset), indices, indices)


def _reader(dataset):
    """dataset.__getitem__ with errors that name the sample."""

    def read(index):
        try:
            return dataset[index]
        except Exception as error:
            raise sample_error(dataset, index, error) from error

    return read


def makes_whole_batches(dataset):
    """Whether the dataset is an InMemoryDataset, or a Subset of one, whose batches need no collating."""
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return isinstance(dataset, InMemoryDataset)


class SampleSeeder:
    """Runs functions of samples with generators seeded for the sample, and puts the generators back afterwards.

    seed: by default the one that torch was seeded with last. Before the first set_epoch, functions draw from the
    generators as they are. The epoch lies in shared memory, so that worker processes which outlive it see the next.

    Seeding the generators of torch (on the CPU), NumPy and Python for each sample would cost more than reading many a
    sample does. So a generator is seeded only once a function has drawn from it, and the samples of that call are read
    again; a function that draws nothing costs one comparison of states a batch. A generator that a dataset keeps for
    itself is not seeded.
    """

    def __init__(self, seed: int | None = None):
        self.seed = torch.initial_seed() if seed is None else seed
        self.epoch = -1
        self._shared_epoch = torch.tensor(self.epoch).share_memory_()  # what workers go by
        self._drawn_from = set()

    def set_epoch(self, epoch: int):
        """Read the samples of this epoch from now on."""
        self.epoch = epoch
        self._shared_epoch.fill_(epoch)

    def map(self, function, indices, samples):
        """[function(sample), ...], each with the random numbers of its sample's index."""
        epoch = self.epoch if get_worker_info() is None else self._shared_epoch.item()
        if epoch < 0:
            return [function(sample) for sample in samples]
        before = _states()
        base = derive_seed(self.seed, epoch, _AUGMENTATION)
        try:
            while True:
                results = self._seeded(function, indices, samples, base)
                newly = {name for name in before.keys() - self._drawn_from if _changed(name, before[name])}
                if not newly:
                    break
                self._drawn_from |= newly
        finally:
            for name in self._drawn_from:
                _GENERATORS[name][1](before[name])
        return results

    def watch(self, function, batch):
        """(function(batch), whether it drew from torch's, NumPy's or Python's generator)."""
        before = _states()
        result = function(batch)
        return result, any(_changed(name, before[name]) for name in before)

    def _seeded(self, function, indices, samples, base):
        seeders = [_GENERATORS[name][2] for name in self._drawn_from]
        results = []
        for index, sample in zip(indices, samples, strict=True):
            for seed_generator in seeders:
                seed_generator(_mix(base + int(index)))
            results.append(function(sample))
        return results


def _states():
    return {name: state() for name, (state, _, _) in _GENERATORS.items()}


def _numpy_state():
    name, keys, *position = np.random.get_state()
    return name, keys.tobytes(), *position


def _set_numpy_state(state):
    name, keys, *position = state
    np.random.set_state((name, np.frombuffer(keys, np.uint32), *position))


# {name: (state, restore, seed)} of the generators that transforms draw from
_GENERATORS = {
    "torch": (torch.get_rng_state, torch.set_rng_state, torch.default_generator.manual_seed),
    "numpy": (_numpy_state, _set_numpy_state, lambda seed: np.random.seed(seed & 0xFFFFFFFF)),
    "python": (random.getstate, random.setstate, random.seed),
}


def _changed(name, before):
    now = _GENERATORS[name][0]()
    return not torch.equal(now, before) if isinstance(now, torch.Tensor) else now != before


def _mix(number):
    """A 63-bit seed scattered from a number: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    number = (number * 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return (number ^ (number >> 31)) >> 1
