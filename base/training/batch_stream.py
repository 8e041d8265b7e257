"""BatchStream: the batches of an epoch, from any position on."""

import contextlib
import copy
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset

from base.data.sampler import EpochSampler
from base.data.seeded import SeededDataset, unseeded
from utils import inf_loop
from utils.batches import batches_of
from utils.distributed.world import Part, part_of_batch, world_size
from utils.errors import UserError, quantity
from utils.signatures import signature


class BatchStream:
    """The batches of a loader: one pass per epoch, or an endless stream of passes divided into epochs.

    loader: an iterable of batches; it may have set_epoch(epoch, start_batch), or state_dict and load_state_dict.
    len_epoch: batches in an epoch of the endless stream; None for one pass per epoch.
    limit: number (int) or share (float in (0, 1]) of the batches of each pass to take; None for all.

    The attribute keeps_position says whether an epoch can begin at any batch. That is so if the loader has the methods
    above, or reads an IterableDataset that has state_dict and load_state_dict. The attribute only_continues says that
    each epoch begins where the one before ended, at the loader's own position. The attribute len_epoch is the number of
    batches in an epoch, None for a loader without a length.
    """

    def __init__(self, loader: Any, len_epoch: int | None = None, limit: float | None = None) -> None:
        require_shared("data_loader", loader)
        require_enough(loader)
        self.loader = loader
        self.by_iterations = len_epoch is not None
        self.len_epoch = len_epoch or limited(num_batches(loader), limit)
        can_seek = "start_batch" in _parameters_of(getattr(loader, "set_epoch", None))
        self._seeks = can_seek and getattr(loader, "seekable", True)
        self._dataset = _stateful_dataset(loader)
        # the state of a BaseDataLoader, which is seekable or not, says what its samples are
        is_base = hasattr(loader, "seekable")
        has_state = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict") and not is_base
        self.keeps_position = self._seeks or has_state or self._dataset is not None
        self.only_continues = self.keeps_position and not self._seeks
        self._limited = limit is not None
        self._place_of_next: tuple[int, int] | None = None  # of batch()
        self._rest: Iterator[Any] = iter(())
        self.restart()

    def batches(self, epoch: int, start_batch: int = 0) -> Iterator[Any]:
        """Yield the epoch's batches from start_batch on, in an order that depends on (seed, epoch) only."""
        if not self.by_iterations:
            yield from self._one_pass(epoch, start_batch)
        elif self._seeks:
            for pass_idx, first, number in self._pieces(epoch, start_batch):
                self.loader.set_epoch(pass_idx + 1, first)
                yield from itertools.islice(batches_of(self.loader), number)
        else:
            yield from self._next_of_endless(epoch, start_batch)

    def batch(self, epoch: int, batch_idx: int) -> Any:
        """Return one batch of an epoch, for a second loader; one after the other, they are read as by batches().

        Raises UserError if the epoch has fewer.
        """
        if (epoch, batch_idx) != self._place_of_next:
            self._rest = self.batches(epoch, batch_idx)
        self._place_of_next = (epoch, batch_idx + 1)
        for batch in self._rest:
            return batch
        raise UserError(
            f"{type(self.loader).__name__}: has no batch {batch_idx + 1} in epoch {epoch}; give its BatchStream "
            "len_epoch, as in docs/trainers.md, A second loader"
        )

    def part(self, epoch: int, batch_idx: int) -> Part | None:
        """Return this process's Part of a batch of the epoch; None for a single process."""
        if world_size() == 1:
            return None
        if self.by_iterations:
            _, batch_idx = self._place(epoch, batch_idx)
        return part_of_batch(self.loader, batch_idx)

    @property
    def dataset(self) -> Any:
        """The dataset that the loader was given; None if it has none."""
        return unseeded(getattr(self.loader, "dataset", None))

    def samples(self, epoch: int, batch_idx: int) -> list[int]:
        """Indices of the samples in a batch of an epoch; [] if the loader does not know them."""
        if not hasattr(self.loader, "batch_indices"):
            return []
        if self.by_iterations:
            pass_idx, batch_idx = self._place(epoch, batch_idx)
            epoch = pass_idx + 1
        return self.loader.batch_indices(epoch, batch_idx)

    def restart(self) -> None:
        """Forget the pass under way, after the loader has returned to an earlier position."""
        self._endless = None

    def state_dict(self) -> dict[str, Any]:
        """The position of an iterable dataset; the trainer saves the loader's own state."""
        return {} if self._dataset is None else {"dataset": self._dataset.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position of an iterable dataset."""
        if self._dataset is not None and "dataset" in state:
            self._dataset.load_state_dict(state["dataset"])

    def _one_pass(self, epoch, start_batch):
        if self._seeks:
            self.loader.set_epoch(epoch, start_batch)
        elif hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(epoch)
        batches = self._open(resumed=start_batch > 0)
        left = None if self.len_epoch is None else self.len_epoch - start_batch
        yield from itertools.islice(batches, left) if self._limited else batches

    def _next_of_endless(self, epoch, start_batch):
        """The rest of the epoch from an endless stream that only moves forward."""
        if hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(epoch)
        if self._endless is None:
            opened = self._open(resumed=(epoch, start_batch) != (1, 0))
            self._endless = itertools.chain(opened, inf_loop(self.loader))
        yield from itertools.islice(self._endless, self.len_epoch - start_batch)

    def _open(self, resumed):
        """An iterator of the loader's batches; opening it for a resumed pass leaves torch's generator unchanged."""
        before = torch.get_rng_state()
        batches = batches_of(self.loader)
        if resumed:
            torch.set_rng_state(before)
        return batches

    def _place(self, epoch, batch_idx):
        """(pass over the data, from 0; batch in that pass) of a batch of the endless stream."""
        return divmod((epoch - 1) * self.len_epoch + batch_idx, len(self.loader))

    def _pieces(self, epoch, start_batch):
        """Yield (pass over the data, first batch, number of batches) for each piece of an epoch of the stream."""
        while start_batch < self.len_epoch:
            pass_idx, first = self._place(epoch, start_batch)
            number = min(len(self.loader) - first, self.len_epoch - start_batch)
            yield pass_idx, first, number
            start_batch += number


def num_batches(loader: Any) -> int | None:
    """Number of batches in a pass over the data, None if unknown."""
    try:
        return len(loader)
    except TypeError:
        return None


def epoch_length(trainer: dict[str, Any], loader: Any) -> int | None:
    """Number of batches in an epoch, None if unknown. trainer: the config's section "trainer"."""
    batches = trainer.get("overfit_batches") or num_batches(loader)
    return trainer.get("len_epoch") or limited(batches, trainer.get("limit_train_batches"))


def limited(batches: int | None, limit: float | None) -> int | None:
    """The number of batches after a limit; None if unknown. limit: a number (int), a share (float), None for all."""
    if limit is None:
        return batches
    if isinstance(limit, float):
        return None if batches is None else max(1, round(limit * batches))
    return limit if batches is None else min(limit, batches)


def _parameters_of(function):
    return () if function is None else signature(function).parameters


def _stateful_dataset(loader: Any) -> Any:
    """The loader's iterable dataset if it has a state and is read in this process, else None."""
    dataset = getattr(loader, "dataset", None)
    own_state = isinstance(dataset, IterableDataset) and hasattr(dataset, "load_state_dict")
    return dataset if own_state and getattr(loader, "num_workers", 1) == 0 else None


def require_shared(name: str, loader: Any) -> None:
    """Raise UserError if the loader (or None) does not divide its batches between several processes."""
    if world_size() == 1 or loader is None or getattr(loader, "is_shared", False):
        return
    if not isinstance(getattr(loader, "seeded", getattr(loader, "dataset", None)), SeededDataset):
        raise UserError(
            f"{name}: {type(loader).__name__} would give each of the {world_size()} processes all samples; "
            "use a BaseDataLoader, or one process"
        )
    if not isinstance(loader.sampler, EpochSampler):
        raise UserError(
            f"{name}: its {type(loader.sampler).__name__} draws another order in each of the {world_size()} processes; "
            "use the EpochSampler of base/data/sampler.py, or one process"
        )


def require_enough(loader: Any) -> None:
    """Raise UserError if there are more processes than samples, in the data or in a batch."""
    if world_size() == 1:
        return
    samples, fewer = len(loader.sampler), "start fewer processes"
    if samples < world_size():
        raise UserError(f"data_loader: {quantity(samples, 'training sample')} for {world_size()} processes; {fewer}")
    if loader.batch_size < world_size():
        raise UserError(
            f"data_loader.args.batch_size: {loader.batch_size} for {world_size()} processes, which share each batch; "
            f"give at least {world_size()}, or {fewer}"
        )


@contextlib.contextmanager
def position_kept(loader: Any) -> Iterator[None]:
    """Restore the positions of a loader and of its dataset at the end, unless an error ends the context."""
    sources = loader, getattr(loader, "dataset", None)
    stateful: list[Any] = [source for source in sources if hasattr(source, "load_state_dict")]
    positions = [copy.deepcopy(source.state_dict()) for source in stateful]
    yield
    for source, position in zip(stateful, positions, strict=True):
        source.load_state_dict(position)
