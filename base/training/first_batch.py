"""The look at the first training batch, before the first optimizer step: whether it fits the loss and the metrics.

Mismatches such as shapes that broadcast without an error train to wrong numbers. What is certainly wrong is refused;
what may be meant is a warning. Later batches cost nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from base.training.evaluate import record
from base.training.last_batch import single_samples_refused, try_last_batch
from base.training.loss_inputs import LossWatch
from base.training.loss_kinds import KINDS, outside, problem_of_kind
from base.training.precision import to_device
from base.training.preflight import try_validation
from base.training.summary import data_lines, drawn_labels, labels_of, single_batch_warning
from utils import MetricTracker, UserError
from utils.misfits import refuse_misfit
from utils.nested import describe, describe_step, halves
from utils.seed import derive_seed, seed_everything

if TYPE_CHECKING:
    from trainer.trainer import Trainer


def compute_first_loss(trainer: "Trainer", data: Any, target: Any, metrics: Sequence[Any]) -> tuple[Any, Any]:
    """(loss, output) of trainer.compute_loss for the first batch, after a look at what the loss and the metrics get.

    In a run that keeps nothing, the last batch of an epoch is tried too, if it has fewer samples. Raises UserError, in
    one line, for what cannot be right.
    """
    watch = LossWatch("loss")
    with single_samples_refused(trainer):
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
    watch.warn(trainer.logger, trainer.criterion, output, target)
    _check_declared("loss", trainer.criterion, output, target)
    _check_all_labels(trainer, watch.class_numbers)
    for metric in metrics:
        _check_declared("metrics", metric, output, target)
        watch = LossWatch("metrics")
        with watch:
            record(MetricTracker.of([metric], trainer.device), [metric], torch.zeros(()), output, target)
        watch.warn(trainer.logger, metric, output, target)
    if trainer.config.keeps_nothing:
        try_last_batch(trainer)
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
    except Exception as error:
        refuse_misfit(error, data, target, trainer.model)
        error.add_note(describe_step(data, target, trainer.model))
        raise
    return loss, output


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
