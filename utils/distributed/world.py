"""Who is there, as a launcher says in the environment, and who reads what: one process is a world of size one."""

import functools
import os
from typing import NamedTuple

from utils.errors import UserError


class Part(NamedTuple):
    """A process's part of a batch that all share."""

    own: int
    """Samples that count for this process. It may be 0: the one sample that it reads then is not its own."""
    total: int
    """Samples of the batch."""


@functools.cache
def world_size():
    """How many processes there are, as a launcher says in the environment."""
    return _number("WORLD_SIZE") if "RANK" in os.environ and "WORLD_SIZE" in os.environ else 1


@functools.cache
def rank():
    """This process's number, from 0."""
    return _number("RANK") if world_size() > 1 else 0


def _number(name):
    try:
        return int(os.environ[name])
    except ValueError:
        raise UserError(f"{name}: got {os.environ[name]!r} in the environment; a launcher sets a number") from None


def is_main():
    """Whether this is the process that decides, and writes files."""
    return rank() == 0


def who():
    """ "rank 1: " before what a process has to say, "" for the first one."""
    return "" if is_main() else f"rank {rank()}: "


def part_of(total, number=None):
    """The Part of a batch of so many samples that a process has, by default this one.

    The first ones have one more if need be.
    """
    number = rank() if number is None else number
    return Part(_first_of(number + 1, total) - _first_of(number, total), total)


def _first_of(number, total):
    each, more = divmod(total, world_size())
    return number * each + min(number, more)


def own_samples(indices):
    """Those of a batch's samples that this process reads."""
    return indices if world_size() == 1 else indices[own_slice(len(indices))]


def own_slice(total):
    """Where in a batch of so many samples those are that this process reads: next to those of the process before it.

    The first of the batch if there are fewer samples than processes: every process has to take part in every step.
    """
    start, end = _first_of(rank(), total), _first_of(rank() + 1, total)
    return slice(start, end) if end > start else slice(1)


def part_of_batch(loader, batch_idx):
    """The Part of a BaseDataLoader's batch, counted from 0; None in a world of one, where all of it is its own."""
    if world_size() == 1:
        return None
    return part_of(min(loader.batch_size, len(loader.sampler) - batch_idx * loader.batch_size))


def seed_of_process(seed):
    """The seed from which this process draws what is not a matter of the data, such as dropout."""
    if is_main():
        return seed
    from utils.seed import derive_seed  # imports NumPy, which a mistake in a config need not wait for

    return derive_seed(seed, rank())
