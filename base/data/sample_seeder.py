"""Give each sample random numbers of its own, so that augmentation is a pure function of (seed, epoch, sample)."""

import random

import numpy as np
import torch
from torch.utils.data import get_worker_info

from utils.seed import derive_seed

_AUGMENTATION = 2  # sets these random streams apart from the epoch's other ones
_MASK = 2**64 - 1


class SampleSeeder:
    """Runs functions of samples with generators seeded for the sample, and puts the generators back afterwards.

    seed: by default the one that torch was seeded with last. Before the first set_epoch, functions draw from the
    generators as they are. The epoch lies in shared memory, so that worker processes which outlive it see the next.

    A generator is seeded only once a function has been seen to draw from it; the samples of that call are then made
    anew. So what draws no random numbers costs a comparison of states a batch and no seeding. Generators are those of
    torch (on the CPU), NumPy and python; one that a dataset keeps for itself is out of reach.
    """

    def __init__(self, seed=None):
        self.seed = torch.initial_seed() if seed is None else seed
        self.epoch = -1
        self._shared_epoch = torch.tensor(self.epoch).share_memory_()  # what workers go by
        self._drawn_from = set()

    def set_epoch(self, epoch):
        """Make the samples read from now on those of the epoch."""
        self.epoch = epoch
        self._shared_epoch.fill_(epoch)

    def map(self, function, indices, samples):
        """[function(sample), ...], each under the random numbers of its sample's index."""
        epoch = self.epoch if get_worker_info() is None else self._shared_epoch.item()
        if epoch < 0:
            return [function(sample) for sample in samples]
        before = {name: state() for name, (state, _, _) in _GENERATORS.items()}
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

    def _seeded(self, function, indices, samples, base):
        seeders = [_GENERATORS[name][2] for name in self._drawn_from]
        results = []
        for index, sample in zip(indices, samples, strict=True):
            for seed_generator in seeders:
                seed_generator(_mix(base + int(index)))
            results.append(function(sample))
        return results


def try_out(function, *arguments):
    """(its result, whether it drew from torch's, NumPy's or python's generator), which are left as they were."""
    before = {name: state() for name, (state, _, _) in _GENERATORS.items()}
    try:
        result = function(*arguments)
        return result, any(_changed(name, before[name]) for name in _GENERATORS)
    finally:
        for name, (_, restore, _) in _GENERATORS.items():
            restore(before[name])


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
