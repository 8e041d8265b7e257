"""SeededDataset: any map-style dataset, with random numbers that depend on (seed, epoch, sample) only."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

from base.data.generators import GLOBAL, kept_generators
from base.data.in_memory import InMemoryDataset
from base.data.sampler import EpochSampler
from utils.batches import Samples, sample_error
from utils.distributed.world import own_samples, own_slice
from utils.errors import UserError, quantity
from utils.seed import derive_seed
from utils.stop_signal import keep_resource_tracker

_OF_INDICES = (EpochSampler, SubsetRandomSampler, WeightedRandomSampler)  # of so many samples as there were at first
_AUGMENTATION = 2  # separates these random streams from the epoch's other ones
_MASK = 2**64 - 1


class SeededDataset(Dataset):
    """A dataset read through a SampleSeeder. A SeededLoader reads its dataset in this way.

    The augmentation of a sample is thus the same with any number of workers, and after a resume. A dataset whose
    __getitems__ makes whole batches is seeded once a batch. Each of several processes reads its part of a batch.
    Raises DataError, naming the sample, for any error while one is read.
    """

    def __init__(self, dataset: Any) -> None:
        if isinstance(dataset, IterableDataset):
            raise UserError(f"dataset: {no_stream(dataset)}")
        if not len(dataset):
            raise UserError("dataset: has no samples")
        self.dataset = dataset
        self.seeder = SampleSeeder(owner=dataset)

    def __getattr__(self, name: str) -> Any:
        """Return the dataset's own attribute, in a plain DataLoader that a project makes of init_kwargs."""
        if name == "dataset" or name.startswith("__"):  # while this is copied, or looked at by a protocol
            raise AttributeError(name)
        return getattr(self.dataset, name)

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


class SeededLoader(DataLoader):
    """A DataLoader that reads its dataset through a SeededDataset. Its attribute dataset is the dataset itself.

    dataset: map-style, or a SeededDataset of one. kwargs: passed to DataLoader.
    """

    # two underscores, so that an attribute of a subclass cannot replace them
    __seeded: SeededDataset | None = None
    __is_opening = False  # whether torch is opening an iterator
    __length = __draws = 0  # of the dataset and of the sampler when this loader was made

    def __init__(self, dataset: Any, **kwargs: Any) -> None:
        self.__seeded = dataset if isinstance(dataset, SeededDataset) else SeededDataset(dataset)
        self.__given = self.__seeded.dataset
        self.__length = len(self.__given)
        super().__init__(self.__seeded, **kwargs)
        self.__draws = len(self.sampler) if isinstance(self.sampler, _OF_INDICES) else 0

    @property
    def dataset(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The dataset, as it was given; only the iterators of torch get the SeededDataset."""
        return self.__seeded if self.__is_opening else self.__given

    @dataset.setter
    def dataset(self, dataset: Any) -> None:
        if self.__seeded is None:  # a subclass, before our constructor; torch's assigns the dataset it reads, or a copy
            self.__given = dataset

    @property
    def seeded(self) -> SeededDataset:
        """The SeededDataset that the iterators read."""
        assert self.__seeded is not None
        return self.__seeded

    def __iter__(self) -> Any:
        """Return an iterator of the batches. Raises UserError if the dataset's length is not that of a fixed order.

        Samplers without indices of their own, such as torch's RandomSampler, ask the dataset for its length each time.
        """
        is_fixed = isinstance(self.sampler, _OF_INDICES) and len(self.sampler) == self.__draws
        if is_fixed and (now := len(self.__given)) != self.__length:
            what = f"its dataset had {quantity(self.__length, 'sample')} when the loader was made, and has {now:,} now"
            remedy = "let a dataset that grows keep one length: docs/data.md, Data that grow"
            raise UserError(f"data_loader: {what}, which would not be drawn; {remedy}")
        return super().__iter__()

    def _get_iterator(self) -> Any:
        if self.num_workers and (self.multiprocessing_context or multiprocessing).get_start_method() != "fork":
            keep_resource_tracker()
        self.__is_opening = True
        try:
            return super()._get_iterator()
        finally:
            self.__is_opening = False


def no_stream(dataset: Any) -> str:
    """Return why a dataset without a length, or an IterableDataset, cannot be shuffled and split, and what to do."""
    kind = type(dataset).__name__
    what = f"{kind} is an IterableDataset" if isinstance(dataset, IterableDataset) else f"{kind} has no __len__"
    remedy = "a StreamDataLoader takes an IterableDataset as it is: docs/data.md, Streams"
    return f"{what}, which cannot be shuffled or split; make it a Dataset with __len__ and __getitem__; {remedy}"


def unseeded(dataset: Any) -> Any:
    """Return the dataset that a SeededDataset reads; any other dataset as it is."""
    return dataset.dataset if isinstance(dataset, SeededDataset) else dataset


def makes_whole_batches(dataset: Any) -> bool:
    """Return whether the dataset is an InMemoryDataset or a Subset of one, whose batches need no collating."""
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return isinstance(dataset, InMemoryDataset)


class SampleSeeder:
    """Calls functions of samples with generators seeded for each sample, and restores the generators afterwards.

    seed: by default the one that torch was seeded with last. Before the first set_epoch, generators are not seeded.
    owner: the dataset, whose own generators are seeded too, as far as kept_generators finds them.
    The epoch is also in shared memory, so that persistent workers see the next one.

    Seeding the generators for each sample would often cost more than reading the sample. A generator is therefore
    seeded only once a function has drawn from it, and the samples of that call are then read again; a function that
    draws nothing costs one comparison of states per batch. The owner's generators are looked for at the first call in a
    process, after it, since a dataset may make them when it reads its first sample, and in each new epoch.
    """

    def __init__(self, seed: int | None = None, owner: Any = None) -> None:
        self.seed = torch.initial_seed() if seed is None else seed
        self.epoch = -1
        self._shared_epoch = torch.tensor(self.epoch).share_memory_()
        self._owner = owner
        self._generators = GLOBAL
        self._looked_in = (0, -1)  # process, epoch
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
        is_first = self._looked_in[0] != os.getpid()
        self._look(epoch)
        before = self._states()
        base = derive_seed(self.seed, epoch, _AUGMENTATION)
        try:
            while True:
                results = self._seeded(function, indices, samples, base)
                newly = self._changed_since(before, before.keys() - self._drawn_from)
                if is_first:  # the dataset may just have made generators
                    is_first, known = False, self._generators
                    self._look()
                    made = {name for name in self._generators if not self._generators[name].is_that(known.get(name))}
                    before |= {name: self._generators[name].state() for name in made}
                    newly |= made
                if not newly:
                    return results
                self._drawn_from |= newly
        finally:
            for name in self._drawn_from & before.keys():
                self._generators[name].restore(before[name])

    def watch(self, function: Callable[[Any], Any], batch: Any) -> tuple[Any, bool]:
        """Return (function(batch), whether it drew from a generator of torch, NumPy, Python or the owner)."""
        self._look()
        before = self._states()
        result = function(batch)
        return result, bool(self._changed_since(before, before))

    def _look(self, epoch=None):
        """Look for the owner's generators, unless this process has done so in this epoch."""
        if epoch is None or self._looked_in != (os.getpid(), epoch):
            self._generators = GLOBAL | kept_generators(self._owner)
        if epoch is not None:
            self._looked_in = os.getpid(), epoch

    def _states(self):
        return {name: generator.state() for name, generator in self._generators.items()}

    def _changed_since(self, before, names):
        return {name for name in names if self._generators[name].changed(before[name])}

    def _seeded(self, function, indices, samples, base):
        seeders = [self._generators[name].seed for name in self._drawn_from if name in self._generators]
        results = []
        for index, sample in zip(indices, samples, strict=True):
            for seed_generator in seeders:
                seed_generator(_mix(base + int(index)))
            results.append(function(sample))
        return results

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a process that is not forked, which has generators of its own."""
        return {**vars(self), "_generators": None, "_looked_in": (0, -1)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _generators=GLOBAL)


def _mix(number):
    """A 63-bit seed scattered from a number: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    number = (number * 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return (number ^ (number >> 31)) >> 1
