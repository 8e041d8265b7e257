"""How several processes share the batches of a loader, and what they cannot share."""

import torch

from base.data.sampler import EpochSampler
from base.data.seeded import SeededDataset
from utils.distributed.world import part_of, part_of_batch, world_size
from utils.errors import UserError


def describe_batches(loader, accumulate):
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


def require_shared(name, loader):
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


def refuse_small_parts(model, loader):
    """Raise UserError if batch norm of (N, C) would get a single sample of a batch that several processes share."""
    if world_size() == 1 or not any(isinstance(module, torch.nn.BatchNorm1d) for module in model.modules()):
        return
    last = part_of_batch(loader, len(loader) - 1).total
    if last < 2 * world_size():
        raise UserError(
            f"data_loader.args.batch_size: the last batch has {last} samples for {world_size()} processes, and batch "
            "norm needs two in each; choose another size"
        )


def require_enough(loader):
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
