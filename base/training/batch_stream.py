"""Where an epoch's batches come from, beginning at any of them."""

import inspect
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import IterableDataset

from base.data.sampler import EpochSampler
from base.data.seeded import SeededDataset
from utils import inf_loop
from utils.batches import batches_of
from utils.distributed.world import part_of, part_of_batch, world_size
from utils.errors import UserError

if TYPE_CHECKING:
    from utils.distributed.world import Part


class BatchStream:
    """The batches of a loader, one pass an epoch, or as one endless stream of passes that is cut into epochs.

    len_epoch: batches in an epoch of the stream; None for passes. limit: how many batches of each pass to take, or
    which share of them. The attribute keeps_position says whether an epoch
    can begin anywhere: with a loader that has set_epoch(epoch, start_batch), or state_dict and load_state_dict, or that
    reads an IterableDataset which has them. len_epoch is None for a loader without a length.
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
        has_state = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
        self.keeps_position = self._seeks or has_state or self._dataset is not None
        self._limited = limit is not None
        if self._limited and self.keeps_position and not self._seeks:
            raise UserError(
                "trainer.limit_train_batches: data_loader goes on where it was; say with trainer.len_epoch how many "
                "batches make an epoch"
            )
        self.restart()

    def batches(self, epoch: int, start_batch: int = 0) -> Iterator[Any]:
        """The epoch's batches from start_batch on, in an order that depends on (seed, epoch) only."""
        if self._seeks and self.by_iterations:
            for passes, first, number in self._pieces(epoch, start_batch):
                self.loader.set_epoch(passes + 1, first)
                yield from itertools.islice(batches_of(self.loader), number)
            return
        if self._seeks:
            self.loader.set_epoch(epoch, start_batch)
        elif hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(epoch)
        left = None if self.len_epoch is None else self.len_epoch - start_batch
        if not self.by_iterations:
            opened = self._open(resumed=start_batch > 0)
            yield from itertools.islice(opened, left) if self._limited else opened
            return
        if self._endless is None:
            opened = self._open(resumed=(epoch, start_batch) != (1, 0))
            self._endless = itertools.chain(opened, inf_loop(self.loader))
        yield from itertools.islice(self._endless, left)

    def part(self, epoch: int, batch_idx: int) -> "Part | None":
        """The Part of an epoch's batch that is this process's; None if it is the only process."""
        if world_size() == 1:
            return None
        if self.by_iterations:
            ((_, batch_idx, _),) = itertools.islice(self._pieces(epoch, batch_idx), 1)
        return part_of_batch(self.loader, batch_idx)

    def samples(self, epoch: int, batch_idx: int) -> list[int]:
        """Indices of the samples in a batch of an epoch; [] for a loader that cannot tell."""
        if not hasattr(self.loader, "batch_indices"):
            return []
        if self.by_iterations:
            ((passes, batch_idx, _),) = itertools.islice(self._pieces(epoch, batch_idx), 1)
            epoch = passes + 1
        return self.loader.batch_indices(epoch, batch_idx)

    def restart(self) -> None:
        """Forget the pass under way, after the loader was set back."""
        self._endless = None

    def state_dict(self) -> dict[str, Any]:
        """The position of an iterable dataset; the loader's own state is the trainer's to save."""
        return {} if self._dataset is None else {"dataset": self._dataset.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put it back."""
        if self._dataset is not None and "dataset" in state:
            self._dataset.load_state_dict(state["dataset"])

    def _open(self, resumed):
        """The loader's batches. A pass resumed takes no number from torch's generator for it: it has been taken."""
        before = torch.get_rng_state()
        batches = batches_of(self.loader)
        if resumed:
            torch.set_rng_state(before)
        return batches

    def _pieces(self, epoch, start_batch):
        """(pass over the data, its first batch, number of batches) of each piece of an epoch by iterations."""
        position = (epoch - 1) * self.len_epoch + start_batch  # in the endless stream
        end = epoch * self.len_epoch
        in_pass = len(self.loader)
        while position < end:
            passes, first = divmod(position, in_pass)
            number = min(in_pass - first, end - position)
            yield passes, first, number
            position += number


def num_batches(loader: Any) -> int | None:
    """Batches in a pass over the data; None for a stream that does not know."""
    try:
        return len(loader)
    except TypeError:
        return None


def epoch_length(trainer: dict[str, Any], loader: Any) -> int | None:
    """Batches in an epoch with these settings, {key: value} of the trainer section; None if unknown."""
    batches = trainer.get("overfit_batches") or num_batches(loader)
    return trainer.get("len_epoch") or limited(batches, trainer.get("limit_train_batches"))


def limited(batches: int | None, limit: float | None) -> int | None:
    """The number of batches, None for one unknown, cut to a limit: a number, a float for a share, None for all."""
    if limit is None or batches is None:
        return batches if limit is None or isinstance(limit, float) else limit
    return max(1, round(limit * batches)) if isinstance(limit, float) else min(limit, batches)


def _parameters_of(function):
    return () if function is None else inspect.signature(function).parameters


def _stateful_dataset(loader: Any) -> Any:
    """The iterable dataset, with a state, that the loader reads in this process; or None."""
    dataset = getattr(loader, "dataset", None)
    own_state = isinstance(dataset, IterableDataset) and hasattr(dataset, "load_state_dict")
    return dataset if own_state and getattr(loader, "num_workers", 1) == 0 else None


def describe_batches(loader: Any, accumulate: int) -> list[str]:
    """[text] of how a batch is divided between the processes and how many make an update; [] if neither is unusual."""
    size, lines = getattr(loader, "batch_size", None), []
    if size is None:
        return lines
    parts = [part_of(size, number).own for number in range(world_size())] if world_size() > 1 else []
    if parts:
        named = (
            f"{', '.join(map(str, parts[:-1]))} and {parts[-1]}" if len(parts) <= 4 else f"{parts[0]} or {parts[-1]}"
        )
        each = f"{size // len(parts)} samples in each of" if len({*parts}) == 1 else f"{named} samples in"
        lines.append(f"batch_size {size}: {each} {world_size()} processes")
    if accumulate > 1:
        lines.append(f"an update takes {accumulate} batches, {accumulate * size} samples")
    return lines


def require_shared(name: str, loader: Any) -> None:
    """Raise UserError unless each of several processes gets its part of the loader's batches; None is no loader."""
    if world_size() == 1 or loader is None or getattr(loader, "is_shared", False):
        return
    if not isinstance(getattr(loader, "dataset", None), SeededDataset):
        raise UserError(
            f"{name}: {type(loader).__name__} would give each of the {world_size()} processes all samples; "
            "use a BaseDataLoader, or one process"
        )
    if not isinstance(loader.sampler, EpochSampler):
        raise UserError(
            f"{name}: its {type(loader.sampler).__name__} draws another order in each of the {world_size()} processes; "
            "use an EpochSampler of base/data/sampler.py, or one process"
        )


def refuse_small_parts(model: torch.nn.Module, loader: Any) -> None:
    """Raise UserError if batch norm of (N, C) would get a single sample of a batch that several processes share."""
    if world_size() == 1 or not any(isinstance(module, torch.nn.BatchNorm1d) for module in model.modules()):
        return
    part = part_of_batch(loader, len(loader) - 1)
    assert part is not None  # there are several processes
    if part.total < 2 * world_size():
        raise UserError(
            f"data_loader.args.batch_size: the last batch has {part.total} samples for {world_size()} processes, and "
            "batch norm needs two in each; choose another size"
        )


def require_enough(loader: Any) -> None:
    """Raise UserError if there are more processes than samples, of all or of a batch."""
    if world_size() == 1:
        return
    samples, fewer = len(loader.sampler), "start fewer processes"
    if samples < world_size():
        raise UserError(f"data_loader: {samples} training samples for {world_size()} processes; {fewer}")
    if loader.batch_size < world_size():
        raise UserError(
            f"data_loader.args.batch_size: {loader.batch_size} for {world_size()} processes, which share each batch; "
            f"give at least {world_size()}, or {fewer}"
        )
