"""Draw the order of an epoch's samples from (seed, epoch) alone."""

import itertools

import numpy as np
import torch

from utils.distributed.world import broadcast
from utils.seed import derive_seed

_CHUNK = 1 << 16
_ORDER = 1  # sets the order's random stream apart from the epoch's other one


class EpochSampler(torch.utils.data.Sampler):
    """Indices in an order that is a pure function of (seed, epoch), whatever ran before.

    indices: (N,) the samples to draw from. shuffle: False keeps their order. seed: by default the one that torch
    was seeded with last. Without set_epoch, each pass draws its order from torch's global generator, that of the first
    process if there are several.
    """

    def __init__(self, indices, shuffle, seed=None):
        self.indices = torch.as_tensor(indices, dtype=torch.int64)
        self.shuffle = shuffle
        self.seed = torch.initial_seed() if seed is None else seed
        self.epoch = None
        self.start = 0

    def set_epoch(self, epoch, start=0):
        """Make the next pass that of the epoch, without its first `start` samples; passes after it are whole."""
        self.epoch = epoch
        self.start = start

    def __iter__(self):
        order = self.order(self.epoch)
        start, self.start = self.start, 0
        chunks = order[start:].split(_CHUNK)  # python integers take five times the memory of the order itself
        return itertools.chain.from_iterable(chunk.tolist() for chunk in chunks)

    def __len__(self):
        return len(self.indices)

    def order(self, epoch):
        """(N,) int64: the indices in the epoch's order; for None in one drawn from torch's global generator."""
        return self.indices[_shuffled(len(self.indices), self._generator(epoch))] if self.shuffle else self.indices

    def _generator(self, epoch):
        seed = broadcast(torch.randint(2**62, ()).item()) if epoch is None else derive_seed(self.seed, epoch, _ORDER)
        return torch.Generator().manual_seed(seed)


class BalancedSampler(EpochSampler):
    """As many indices as there are, every class as often as any other, to within one, in a shuffled order.

    indices, seed: as for EpochSampler. classes: (N,) of each index. Within a class no sample comes a third time
    before all have come twice; which ones come once more, or not at all, changes with the epoch.
    """

    def __init__(self, indices, classes, seed=None):
        super().__init__(indices, shuffle=True, seed=seed)
        codes = np.unique(np.asarray(classes), return_inverse=True)[1]
        self.members = [self.indices[torch.from_numpy(codes == code)] for code in range(codes.max() + 1)]

    def order(self, epoch):
        """(N,) int64: the indices in the epoch's order."""
        generator = self._generator(epoch)
        each, more = divmod(len(self.indices), len(self.members))
        drawn = []
        for turn, code in enumerate(_shuffled(len(self.members), generator).tolist()):
            members, number = self.members[code], each + (turn < more)
            passes = range(-(-number // len(members)))
            drawn.append(torch.cat([members[_shuffled(len(members), generator)] for _ in passes])[:number])
        drawn = torch.cat(drawn)
        return drawn[_shuffled(len(drawn), generator)]


def _shuffled(number, generator):
    return torch.randperm(number, generator=generator)
