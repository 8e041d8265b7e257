"""Samplers whose order is a function of (seed, epoch) only."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from utils.distributed.world import broadcast
from utils.errors import UserError
from utils.seed import derive_seed

Indices = Sequence[int] | np.ndarray | torch.Tensor

_CHUNK = 1 << 16
_POOL = 50  # batches; with more of them lengths are more alike, and samples meet the same others more often
_ORDER = 1  # separates the order's random stream from the epoch's other one


class EpochSampler(torch.utils.data.Sampler):
    """Indices in an order that is a function of (seed, epoch) only.

    indices: (N,) the samples to draw from. shuffle: False keeps their order. seed: by default the one that torch
    was seeded with last. Without set_epoch, each pass draws its order from torch's global generator; if there are
    several processes, from that of the first.
    """

    def __init__(self, indices: Indices, shuffle: bool, seed: int | None = None) -> None:
        self.indices = torch.as_tensor(indices, dtype=torch.int64)
        self.shuffle = shuffle
        self.seed = torch.initial_seed() if seed is None else seed
        self.epoch = None
        self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Make the next pass that of the epoch, without its first `start` samples; later passes are complete."""
        self.epoch = epoch
        self.start = start

    def __iter__(self) -> Iterator[int]:
        order = self.order(self.epoch)
        start, self.start = self.start, 0
        chunks = order[start:].split(_CHUNK)  # Python integers take five times the memory of the order itself
        return itertools.chain.from_iterable(chunk.tolist() for chunk in chunks)

    def __len__(self) -> int:
        return len(self.indices)

    def order(self, epoch: int | None) -> torch.Tensor:
        """Return the indices (N,) int64 in the epoch's order; None draws one from torch's global generator."""
        return self.indices[_shuffled(len(self.indices), self._generator(epoch))] if self.shuffle else self.indices

    def batch_indices(self, epoch: int | None, batch_idx: int, batch_size: int) -> list[int]:
        """Return the indices in a batch of the epoch."""
        return self.order(epoch)[batch_idx * batch_size : (batch_idx + 1) * batch_size].tolist()

    def _generator(self, epoch):
        if epoch is None:
            seed: Any = broadcast(torch.randint(2**62, ()).item())
        else:
            seed = derive_seed(self.seed, epoch, _ORDER)
        return torch.Generator().manual_seed(seed)


class BalancedSampler(EpochSampler):
    """N indices in a shuffled order, with equally many of every class, to within one.

    indices, seed: as for EpochSampler. classes: (N,) the class of each index. Within a class, no sample is drawn a
    third time before all are drawn twice; which samples come once more, or not at all, changes with the epoch.
    """

    def __init__(self, indices: Indices, classes: Any, seed: int | None = None) -> None:
        super().__init__(indices, shuffle=True, seed=seed)
        codes = np.unique(np.asarray(classes), return_inverse=True)[1]
        self.members = [self.indices[torch.from_numpy(codes == code)] for code in range(codes.max() + 1)]

    def order(self, epoch: int | None) -> torch.Tensor:
        """Return N indices, int64, in the epoch's order; None draws one from torch's global generator."""
        generator = self._generator(epoch)
        each, more = divmod(len(self.indices), len(self.members))
        drawn = []
        for turn, code in enumerate(_shuffled(len(self.members), generator).tolist()):
            members, number = self.members[code], each + (turn < more)
            passes = range(-(-number // len(members)))
            drawn.append(torch.cat([members[_shuffled(len(members), generator)] for _ in passes])[:number])
        drawn = torch.cat(drawn)
        return drawn[_shuffled(len(drawn), generator)]


class LengthSampler(EpochSampler):
    """Indices in a shuffled order in which each batch holds samples of similar length, so that little is padded.

    indices, seed: as for EpochSampler. lengths: (N,) the length of each index. In each epoch, pools of _POOL batches
    are drawn at random and sorted by length within, and their batches come in a shuffled order. A last batch of fewer
    samples is drawn at random.
    """

    def __init__(self, indices: Indices, lengths: Any, batch_size: int, seed: int | None = None) -> None:
        super().__init__(indices, shuffle=True, seed=seed)
        self.lengths = torch.as_tensor(np.asarray(lengths))
        self.batch_size = batch_size

    def order(self, epoch: int | None) -> torch.Tensor:
        """Return the indices (N,) int64 in the epoch's order; None draws one from torch's global generator."""
        generator = self._generator(epoch)
        places = _shuffled(len(self.indices), generator)
        whole = len(places) // self.batch_size * self.batch_size
        pools = places[:whole].split(_POOL * self.batch_size)
        batches = torch.cat([pool[self.lengths[pool].argsort(stable=True)] for pool in pools]).view(-1, self.batch_size)
        batches = batches[_shuffled(len(batches), generator)]
        return self.indices[torch.cat([batches.flatten(), places[whole:]])]


class WeightedSampler(EpochSampler):
    """N indices, each drawn by itself with a probability in proportion to its weight, so that some come several times.

    indices, seed: as for EpochSampler. weights: (N,) of each index, 0 or more; as for torch's WeightedRandomSampler,
    and of any number: torch.multinomial takes 2^24 of them.
    """

    def __init__(self, indices: Indices, weights: Any, seed: int | None = None) -> None:
        super().__init__(indices, shuffle=True, seed=seed)
        self.weights = torch.as_tensor(weights, dtype=torch.float64)
        if not self.weights.any():
            raise UserError("sampling_weights: all are 0 in the training part")

    def order(self, epoch: int | None) -> torch.Tensor:
        """Return N indices, int64, in the epoch's order; None draws one from torch's global generator."""
        ends = (self.weights / self.weights.max()).cumsum(0)
        drawn = torch.rand(len(ends), generator=self._generator(epoch), dtype=torch.float64) * ends[-1]
        last = self.weights.nonzero()[-1]  # for a product that was rounded up to the sum
        return self.indices[torch.searchsorted(ends, drawn, right=True).clamp(max=last)]


def _shuffled(number, generator):
    return torch.randperm(number, generator=generator)
