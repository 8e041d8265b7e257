"""The last batch of an epoch, which may have fewer samples than the others: whether the model can train on it."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from base import BaseDataLoader
from base.data.sampler import EpochSampler
from base.training.batch_stream import limited, num_batches
from base.training.evaluate import record
from base.training.precision import to_device
from base.training.preflight import left_alone
from base.training.summary import num_samples_of
from utils import MetricTracker, UserError
from utils.batches import batches_of
from utils.distributed.world import world_size
from utils.nested import halves

if TYPE_CHECKING:
    from trainer.trainer import Trainer


@contextlib.contextmanager
def single_samples_refused(trainer: "Trainer") -> Iterator[None]:
    """Refuse a last batch of one sample if batch norm, in training mode, gets one value for each channel from it."""
    last = _last_batch(trainer)
    if last is None or last[0] != 1:
        yield
        return
    norms = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
    found = []
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0].shape))
        for module in trainer.model.modules()
        if isinstance(module, norms) and module.training
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if any(all(length == 1 for length in shape[2:]) for shape in found):
        raise UserError(_last_batch_refused(*last, num_samples_of(trainer.data_loader), "batch norm needs two"))


def try_last_batch(trainer: "Trainer") -> None:
    """Compute the loss and the metrics of the last batch of epoch 1, without an update. Raises UserError if that fails.

    The statistics of batch norm take part in it. Nothing happens if all batches have the same size.
    """
    loader, found = trainer.data_loader, _last_batch(trainer)
    if found is None or world_size() > 1 or not isinstance(loader, BaseDataLoader) or not loader.seekable:
        return
    sampler = EpochSampler(loader.batch_indices(1, len(loader) - 1), shuffle=False)
    with left_alone(trainer.model, loader):
        data, target = to_device(halves(next(batches_of(loader.validation_loader(sampler)))), trainer.device)
        try:
            with torch.no_grad():
                _, output = trainer.compute_loss(data, target)
            tracker = MetricTracker.of(trainer.metric_ftns, trainer.device)
            record(tracker, trainer.metric_ftns, torch.zeros(()), output, target)
        except (RuntimeError, ValueError, TypeError, LookupError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(_last_batch_refused(*found, num_samples_of(loader), reason)) from error


def _last_batch(trainer):
    """(its number of samples, batch_size) if an epoch ends with a smaller batch that training reaches; else None."""
    loader = trainer.data_loader
    size, number = getattr(loader, "batch_size", None), num_samples_of(loader)
    last = number % size if size and number else 0
    if not last or getattr(loader, "drop_last", False):
        return None
    limit = trainer.config.own_limit if trainer.config.keeps_nothing else trainer.settings.limit_train_batches
    length = num_batches(loader)
    is_reached = trainer.stream.by_iterations or limited(length, limit) == length
    return (last, size) if is_reached else None


def _last_batch_refused(last, size, number, reason):
    samples = "1 sample" if last == 1 else f"{last} samples"
    what = f"got {size}; the last batch of {number:,} samples has {samples}: {reason}"
    return f"data_loader.args.batch_size: {what}; choose another size, or give data_loader.args.drop_last: true"
