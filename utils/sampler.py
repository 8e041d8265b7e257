"""Draw the order of an epoch's samples from (seed, epoch) alone."""

import itertools

import torch

from utils.seed import derive_seed

_CHUNK = 1 << 16
_ORDER = 1  # sets the order's random stream apart from the epoch's other one


class EpochSampler(torch.utils.data.Sampler):
    """Indices in an order that is a pure function of (seed, epoch), whatever ran before.

    indices: (N,) the samples to draw from. shuffle: False keeps their order. seed: by default the one that torch
    was seeded with last. Without set_epoch, each pass draws its order from torch's global generator.
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
        if not self.shuffle:
            return self.indices
        seed = torch.randint(2**62, ()).item() if epoch is None else derive_seed(self.seed, epoch, _ORDER)
        return self.indices[torch.randperm(len(self.indices), generator=torch.Generator().manual_seed(seed))]
