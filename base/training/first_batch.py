"""The look at the first training batch, before the first optimizer step: whether it fits the loss and the metrics.

Where the last batch is smaller, whether the model can train on that one, too. Mismatches such as shapes that broadcast
without an error train to wrong numbers. What is certainly wrong is refused; what may be meant is a warning. Later
batches cost nothing.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from base import BaseDataLoader
from base.data.sampler import EpochSampler
from base.training.batch_stream import limited, num_batches
from base.training.counted import declares_count
from base.training.evaluate import record
from base.training.loss_inputs import LossWatch
from base.training.loss_kinds import KINDS, outside, problem_of_kind
from base.training.precision import to_device
from base.training.preflight import left_alone, try_validation
from base.training.summary import data_lines, drawn_labels, labels_of, num_samples_of, single_batch_warning
from utils import MetricTracker
from utils.batches import batches_of
from utils.distributed.world import own_samples, world_size
from utils.epoch_metrics import is_epoch_metric, of_training
from utils.errors import UserError, quantity
from utils.misfits import explain
from utils.nested import describe, halves, require_rows
from utils.seed import derive_seed, seed_everything

if TYPE_CHECKING:
    from trainer.trainer import Trainer


def compute_first_loss(trainer: "Trainer", data: Any, target: Any, metrics: Sequence[Any]) -> tuple[Any, Any]:
    """(loss, output) of trainer.compute_loss for the first batch, after a look at what the loss and the metrics get.

    In a run that keeps nothing, the last batch of an epoch is tried too, if it has fewer samples. Raises UserError, in
    one line, for what cannot be right.
    """
    require_rows(target, len(own_samples(trainer.stream.samples(trainer.epoch, trainer.batches_done))))
    watch = LossWatch("loss")
    with _single_samples_refused(trainer):
        if trainer.settings.compile:  # which would compile anew without the watch
            try:
                loss, output = trainer.compute_loss(data, target)
            except Exception:
                if not trainer.overrides("compute_loss"):
                    with torch.no_grad(), watch:  # which explains an error of the loss
                        trainer.criterion(trainer.model(data), target)
                raise
            if not trainer.overrides("compute_loss"):
                with torch.no_grad(), watch:
                    trainer.criterion(output, target)
        else:
            with watch:
                loss, output = trainer.compute_loss(data, target)
    if isinstance(loss, dict) and not trainer.overrides("compute_loss"):  # validation would refuse it, an epoch later
        raise UserError(
            f"loss: {getattr(trainer.criterion, '__name__', type(trainer.criterion).__name__)} returned a dict; it "
            "should return a number or a 0-dim tensor; to log its parts, name each as a metric: docs/trainers.md"
        )
    watch.warn(trainer.logger, trainer.compute_loss if trainer.criterion is None else trainer.criterion, output, target)
    if watch.counts_some and not trainer.overrides("compute_loss"):
        _warn_of_average(trainer, "loss", trainer.criterion)
    _check_declared("loss", trainer.criterion, output, target)
    _check_all_labels(trainer, watch.class_numbers)
    for metric in of_training(metrics):
        _check_declared("metrics", metric, output, target)
        watch = LossWatch("metrics")
        with watch:
            tracker = MetricTracker.of(metrics, trainer.device, only=[metric])
            record(tracker, [metric], torch.zeros(()), output, target)
        watch.warn(trainer.logger, metric, output, target)
        if tracker.over_epoch is not None:
            tracker.over_epoch.require_state()
        if watch.counts_some and not is_epoch_metric(metric):
            _warn_of_average(trainer, "metrics", metric)
    if trainer.config.keeps_nothing:
        _try_last_batch(trainer)
    is_known = trainer.config.continues and trainer.output_shape is not None  # another batch may be padded otherwise
    if isinstance(output, torch.Tensor) and output.ndim and not is_known:
        trainer.output_shape = tuple(output.shape[1:])
    return loss, output


def look_at_data(trainer: "Trainer") -> None:
    """Train and validate on one batch in memory, say what the data are, and print that they fit. Writes nothing.

    Raises UserError for what a run would refuse before its first update.
    """
    trainer._check()
    for line in data_lines(trainer):
        trainer.logger.info("%s", line)
    if warning := single_batch_warning(trainer):
        trainer.logger.warning("%s", warning)
    seed_everything(derive_seed(trainer.torch_seed, 1))
    batch = next(trainer.stream.batches(1), None)
    if batch is None:
        raise UserError("data_loader: gives no batches")
    data, target = to_device(halves(batch), trainer.device)
    fits = f"the first batch fits: data: {describe(data)}, target: {describe(target)}"
    if not trainer.has_own_loop:
        loss, output = _train_once(trainer, data, target)
        if trainer.settings.on_nonfinite in ("stop", "skip"):  # "rollback" would leave the batch out
            trainer.nonfinite.report(1, trainer.train_metrics, trainer.update_metrics)
        fits += f", output: {describe(output)}, loss: {loss.item():.4g}"
        if trainer.do_validation:
            try_validation(trainer, batches=1)
    print(fits.replace(": tensor (", " ("))


def _train_once(trainer, data, target):
    """(loss, output) of the first batch, after an optimizer step in memory."""
    trainer.model.train()
    part = trainer.stream.part(1, 0)
    try:
        trainer.optim_step.begin(part, last=trainer.len_epoch == 1)
        loss, output = trainer._train_batch(0, data, target)
        record(trainer.train_metrics, trainer.metric_ftns, loss, output, target, trainer.reduction, part)
        trainer.nonfinite.count_loss(0)
    except Exception as error:
        explain(error, data, target, trainer.model)
        raise
    return loss, output


def _warn_of_average(trainer, section, function):
    """Warn of a loss or metric whose mean over some of the targets is averaged over samples, for it declares nothing.

    Its average over an epoch would depend on which samples share a batch.
    """
    if not declares_count(function) and getattr(function, "expects", None) != "anything":
        trainer.logger.warning(
            "%s: %s is a mean over some of the targets, or by class weights, but is averaged over samples, which "
            'depends on batch_size; set its attribute counted = "targets", or as docs/metrics.md shows',
            section,
            getattr(function, "__name__", type(function).__name__),
        )


def _check_declared(section, function, output, target):
    """Refuse what a loss or metric of the project's own does not take, as its attribute expects declares."""
    inner = getattr(function, "func", function)  # of a function with its arguments bound
    kind = getattr(inner, "expects", "anything")
    name = f"{section}: {getattr(function, '__name__', type(function).__name__)}"
    if kind != "anything" and kind not in KINDS:
        raise UserError(f"{name}: expects is {kind!r}; it should be one of {', '.join(KINDS)}, anything")
    if kind in KINDS and (problem := problem_of_kind(kind, output, target, {})):
        raise UserError(f"{name}: {problem}")
    compares_classes = section == "metrics" and getattr(inner, "counted", None) == "targets"
    if compares_classes and isinstance(target, torch.Tensor) and target.is_floating_point():
        broken = target[target % 1 != 0]
        if broken.numel():
            raise UserError(f"{name}: counts hits of class numbers, and the target holds {broken[0]:.4g}; leave it out")


def _check_all_labels(trainer, class_numbers):
    """Refuse labels outside the classes anywhere in the data, if the loader holds those of all samples in an array.

    class_numbers: the first batch's, as the loss got them; only if these are the loader's own is the array looked at.
    """
    if class_numbers is None:
        return
    target, output, settings = class_numbers
    indices, labels = trainer.stream.samples(trainer.epoch, trainer.batches_done), labels_of(trainer.data_loader)
    if labels is None or len(indices) != len(target) or not np.array_equal(labels[indices], target.cpu().numpy()):
        return
    for loader in (trainer.data_loader, trainer.valid_data_loader):
        labels = drawn_labels(loader)
        counted = np.array([]) if labels is None else labels[labels != settings.get("ignore_index", -100)]
        if len(counted) and (problem := outside(torch.tensor([counted.min(), counted.max()]), output, settings)):
            part = "training" if loader is trainer.data_loader else "validation"
            raise UserError(f"loss: among the {part} samples, {problem}")


# ---- the last batch of an epoch, which may have fewer samples than the others


@contextlib.contextmanager
def _single_samples_refused(trainer: "Trainer") -> Iterator[None]:
    """Refuse a last batch of one sample if batch norm, in training mode, gets one value for each channel from it."""
    if _samples_of_last_batch(trainer) != 1:
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
        raise UserError(_last_batch_error(trainer.data_loader, 1, "batch norm needs two"))


def _try_last_batch(trainer: "Trainer") -> None:
    """Compute the loss and the metrics of the last batch of epoch 1, without an update. Raises UserError if that fails.

    The statistics of batch norm take part in it. Nothing happens if all batches have the same size.
    """
    loader, last = trainer.data_loader, _samples_of_last_batch(trainer)
    if last is None or world_size() > 1 or not isinstance(loader, BaseDataLoader) or not loader.seekable:
        return
    sampler = EpochSampler(loader.batch_indices(1, len(loader) - 1), shuffle=False)
    with left_alone(trainer.model, loader):
        data, target = to_device(halves(next(batches_of(loader.validation_loader(sampler)))), trainer.device)
        try:
            _, output = trainer.compute_loss(data, target)  # with gradients, of which a loss or a model may make use
            metrics = of_training(trainer.metric_ftns)
            tracker = MetricTracker.of(trainer.metric_ftns, trainer.device, only=metrics)
            record(tracker, metrics, torch.zeros(()), output, target)
        except (RuntimeError, ValueError, TypeError, LookupError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(_last_batch_error(loader, last, reason)) from error


def _samples_of_last_batch(trainer):
    """The number of samples if an epoch ends with a smaller batch that training reaches; else None."""
    loader = trainer.data_loader
    size, number = getattr(loader, "batch_size", None), num_samples_of(loader)
    last = number % size if size and number else 0
    if not last or getattr(loader, "drop_last", False):
        return None
    limit = trainer.config.own_limit if trainer.config.keeps_nothing else trainer.settings.limit_train_batches
    length = num_batches(loader)
    is_reached = trainer.stream.by_iterations or limited(length, limit) == length
    return last if is_reached else None


def _last_batch_error(loader, last, reason):
    samples = quantity(last, "sample")
    what = f"got {loader.batch_size}; the last batch of {num_samples_of(loader):,} samples has {samples}: {reason}"
    return f"data_loader.args.batch_size: {what}; choose another size, or give data_loader.args.drop_last: true"
