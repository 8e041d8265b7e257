"""SeededDataset: any map-style dataset, with random numbers that depend on (seed, epoch, sample) only."""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset, get_worker_info

from base.data.in_memory import InMemoryDataset
from utils.batches import Samples, sample_error
from utils.distributed.world import own_samples, own_slice
from utils.seed import derive_seed

_AUGMENTATION = 2  # separates these random streams from the epoch's other ones
_MASK = 2**64 - 1


class SeededDataset(Dataset):
    """A dataset read through a SampleSeeder. BaseDataLoader wraps every dataset; the attribute dataset holds yours.

    The augmentation of a sample is thus the same with any number of workers, and after a resume. A dataset whose
    __getitems__ makes whole batches is seeded once a batch. Each of several processes reads its part of a batch.
    Raises DataError, naming the sample, for any error while one is read.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.seeder = SampleSeeder()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.seeder.map(_reader(self.dataset), [index], [index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Any]:
        try:
            return self._batch(indices)
        except StopIteration as error:  # the DataLoader would take it for the end of the data
            raise sample_error(self.dataset, own_samples(indices)[0], error) from error

    def _batch(self, indices) -> Sequence[Any]:
        dataset: Any = self.dataset
        while type(dataset) is Subset:
            indices, dataset = [dataset.indices[index] for index in indices], dataset.dataset
        if isinstance(dataset, InMemoryDataset) and dataset.draws_for_batches:
            own = own_slice(len(indices))  # of the whole batch, so that all processes draw what one would draw
            return tuple(rows[own] for rows in dataset.__getitems__(indices, self.seeder))
        indices = own_samples(indices)
        if isinstance(dataset, InMemoryDataset):
            return dataset.__getitems__(indices, self.seeder)
        if hasattr(dataset, "__getitems__"):
            return self.seeder.map(dataset.__getitems__, [hash(tuple(indices))], [indices])[0]
        return Samples(self.seeder.map(_reader(dataset), indices, indices), indices)


def _reader(dataset):
    """dataset.__getitem__ with errors that name the sample."""

    def read(index):
        try:
            return dataset[index]
        except Exception as error:
            raise sample_error(dataset, index, error) from error

    return read


def makes_whole_batches(dataset: Any) -> bool:
    """Return whether the dataset is an InMemoryDataset or a Subset of one, whose batches need no collating."""
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return isinstance(dataset, InMemoryDataset)


class SampleSeeder:
    """Calls functions of samples with generators seeded for each sample, and restores the generators afterwards.

    seed: by default the one that torch was seeded with last. Before the first set_epoch, generators are not seeded.
    The epoch is also in shared memory, so that persistent workers see the next one.

    Seeding the generators of torch (on the CPU), NumPy and Python for each sample would often cost more than reading
    the sample. A generator is therefore seeded only once a function has drawn from it, and the samples of that call are
    then read again; a function that draws nothing costs one comparison of states per batch. Generators that a dataset
    keeps itself are not seeded.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = torch.initial_seed() if seed is None else seed
        self.epoch = -1
        self._shared_epoch = torch.tensor(self.epoch).share_memory_()
        self._drawn_from: set[str] = set()

    def set_epoch(self, epoch: int) -> None:
        """Seed for this epoch from now on."""
        self.epoch = epoch
        self._shared_epoch.fill_(epoch)

    def map(self, function: Callable[[Any], Any], indices: Iterable[int], samples: Sequence[Any]) -> list[Any]:
        """Return [function(sample), ...], each computed with the random numbers of its sample's index."""
        epoch = self.epoch if get_worker_info() is None else int(self._shared_epoch)
        if epoch < 0:
            return [function(sample) for sample in samples]
        before = _states()
        base = derive_seed(self.seed, epoch, _AUGMENTATION)
        try:
            while True:
                results = self._seeded(function, indices, samples, base)
                newly = {name for name in before.keys() - self._drawn_from if _changed(name, before[name])}
                if not newly:
                    return results
                self._drawn_from |= newly
        finally:
            for name in self._drawn_from:
                _GENERATORS[name][1](before[name])

    def watch(self, function: Callable[[Any], Any], batch: Any) -> tuple[Any, bool]:
        """Return (function(batch), whether it drew from the generator of torch, NumPy or Python)."""
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


def _changed(name, before):
    now = _GENERATORS[name][0]()
    return not torch.equal(now, before) if isinstance(now, torch.Tensor) else now != before


def _numpy_state() -> Any:
    name, keys, *position = np.random.get_state(legacy=True)
    return name, np.asarray(keys).tobytes(), *position  # bytes, since arrays do not compare as a whole


def _set_numpy_state(state):
    name, keys, *position = state
    np.random.set_state((name, np.frombuffer(keys, np.uint32), *position))


# {name: (state, restore, seed)} of the generators that transforms draw from
_GENERATORS: dict[str, tuple[Callable[[], Any], Callable[[Any], object], Callable[[int], object]]] = {
    "torch": (torch.get_rng_state, torch.set_rng_state, torch.default_generator.manual_seed),
    "numpy": (_numpy_state, _set_numpy_state, lambda seed: np.random.seed(seed & 0xFFFFFFFF)),
    "python": (random.getstate, random.setstate, random.seed),
}


def _mix(number):
    """A 63-bit seed scattered from a number: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    number = (number * 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return (number ^ (number >> 31)) >> 1
