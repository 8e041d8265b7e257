"""The look at the first training batch, before the first optimizer step: whether it fits the loss and the metrics.

Mismatches such as shapes that broadcast without an error train to wrong numbers. What is certainly wrong is refused;
what may be meant is a warning. Later batches cost nothing.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from base.training.data_summary import data_lines, drawn_labels, labels_of, single_batch_warning
from base.training.evaluate import record
from base.training.last_batch import single_samples_refused, try_last_batch
from base.training.precision import to_device
from base.training.preflight import try_validation
from utils import MetricTracker, UserError
from utils.nested import describe, describe_step, halves
from utils.seed import derive_seed, seed_everything

if TYPE_CHECKING:
    from trainer.trainer import Trainer

# What the losses of torch.nn.functional take as output and target; the classes of torch.nn call them.
_EXPECTED_BY = {
    "cross_entropy": "classes",
    "multi_margin_loss": "classes",
    "nll_loss": "log_probabilities",
    **dict.fromkeys(("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss", "kl_div"), "values"),
    "binary_cross_entropy": "probabilities",
    "binary_cross_entropy_with_logits": "logits",
    "multilabel_soft_margin_loss": "logits",
    "hinge_embedding_loss": "signs",
    "soft_margin_loss": "signs",
}


def compute_first_loss(trainer: "Trainer", data: Any, target: Any, metrics: Sequence[Any]) -> tuple[Any, Any]:
    """(loss, output) of trainer.compute_loss for the first batch, after a look at what the loss and the metrics get.

    In a run that keeps nothing, the last batch of an epoch is tried too, if it has fewer samples. Raises UserError, in
    one line, for what cannot be right.
    """
    watch = _WatchedLosses("loss")
    with single_samples_refused(trainer):
        if trainer.settings.compile:  # which would compile anew without the watch
            loss, output = trainer.compute_loss(data, target)
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
        watch = _WatchedLosses("metrics")
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
            with _WatchedLosses("validation"):
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
        error.add_note(describe_step(data, target, trainer.model))
        raise
    return loss, output


class _WatchedLosses(TorchFunctionMode):
    """Within it calls of torch's losses are checked, and tensors that broadcast to a larger one are remembered.

    name: section of the config, for errors.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._broadcasts = []  # (shapes of the arguments, shape of the result)
        self.class_numbers: tuple[Any, Any, Any] | None = None  # (target, output, keywords) of a loss

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        called = getattr(function, "__name__", "")
        kind = _EXPECTED_BY.get(called)
        if kind is None or len(arguments) < 2:
            result = function(*arguments, **keywords)
            self._remember(arguments, result)
            return result
        output, target = arguments[:2]
        if problem := _problem(kind, output, target, keywords):
            raise UserError(f"{self._name}: {called}: {problem}")
        if kind in ("classes", "log_probabilities") and target.ndim == 1 and output.ndim == 2:
            self.class_numbers = target, output, keywords
        try:
            return function(*arguments, **keywords)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            given = f"the output is {describe(output)}, the target {describe(target)}"
            raise UserError(f"{self._name}: {called}: {reason}; {given}") from error

    def _remember(self, arguments, result):
        tensors = [value for value in arguments if isinstance(value, torch.Tensor)]
        if len(tensors) != 2 or tensors[0].ndim == tensors[1].ndim or not isinstance(result, torch.Tensor):
            return
        if result.numel() > max(tensor.numel() for tensor in tensors):
            self._broadcasts.append(({_shape(tensor) for tensor in tensors}, _shape(result)))

    def warn(self, logger: Any, function: Any, output: Any, target: Any) -> None:
        """Warn if the output and the target of the batch have been broadcast against each other."""
        if getattr(function, "expects", None) == "anything":
            return
        if isinstance(output, torch.Tensor) and isinstance(target, torch.Tensor):
            shapes = {_shape(output), _shape(target)}
            for result in [result for found, result in self._broadcasts if found == shapes][:1]:
                what = "%s: %s: the output %s and the target %s broadcast to %s; if that is meant, set its attribute %s"
                given = _shape(output), _shape(target), result, "expects = 'anything'"
                logger.warning(what, self._name, getattr(function, "__name__", type(function).__name__), *given)


def _check_declared(section, function, output, target):
    """Refuse what a loss or metric of the project's own does not take, as its attribute expects declares."""
    inner = getattr(function, "func", function)  # of a function with its arguments bound
    kind = getattr(inner, "expects", "anything")
    name = f"{section}: {getattr(function, '__name__', type(function).__name__)}"
    if kind != "anything" and kind not in _CHECKS:
        raise UserError(f"{name}: expects is {kind!r}; it should be one of {', '.join(_CHECKS)}, anything")
    if kind in _CHECKS and (problem := _problem(kind, output, target, {})):
        raise UserError(f"{name}: {problem}")


def _problem(kind, output, target, settings):
    """What is wrong with an output and a target for a loss of this kind, and the remedy; None if nothing is."""
    for what, value in (("the model's output", output), ("the target", target)):
        if not isinstance(value, torch.Tensor):
            remedy = "choose it in compute_loss of trainer/trainer.py"
            return f"{what} is a {describe(value)}, and a tensor is needed; {remedy}"
    if not output.numel() or not target.numel():  # as a detector's loss over boxes may have
        return None
    return _CHECKS[kind](output.detach(), target, settings)


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
        if len(counted) and (problem := _outside(torch.tensor([counted.min(), counted.max()]), output, settings)):
            part = "training" if loader is trainer.data_loader else "validation"
            raise UserError(f"loss: among the {part} samples, {problem}")


# ---- what a kind of loss needs: each returns what is wrong, and what to do about it, or None


def _fits_classes(output, target, settings):
    """Output (N, C, ...), integer target (N, ...) in 0 ... C-1; or a share for each class, float and of equal shape."""
    shares = target.is_floating_point() and target.shape == output.shape
    if output.ndim == 1 and (shares or target.ndim == 0):  # one sample by itself
        return None
    if output.ndim < 2 or output.shape[1] < 2:
        return (
            f"the model's output {_shape(output)} has one number a sample, so there is only one class to choose; give "
            "the model an output for each class, or use torch.nn.BCEWithLogitsLoss for two classes"
        )
    if shares:
        return None
    wanted = (output.shape[0], *output.shape[2:])
    if tuple(target.shape) != wanted:
        remedy = "return class numbers (N,) from the data loader"
        if target.shape == (*wanted, 1):
            remedy = "remove its last dimension in the data loader, as target.squeeze(-1)"
        elif target.shape == output.shape:
            remedy = "it looks one-hot: use target.argmax(dim=1) in the data loader, or target.float()"
        return (
            f"the target is {describe(target)}, and the output {_shape(output)} wants {wanted} class numbers; {remedy}"
        )
    if target.is_floating_point() or target.dtype == torch.bool:
        return f"the target is {describe(target)}, and class numbers are int64; use target.long() in the data loader"
    return _outside(target, output, settings)


def _outside(target, output, settings):
    """What is wrong with class numbers, of a batch or of all data, that the output (N, C, ...) has no place for."""
    num_classes = output.shape[1]
    labels = target[target != settings.get("ignore_index", -100)]
    if not labels.numel():
        return None
    low, high = int(labels.min()), int(labels.max())
    if low >= 0 and high < num_classes:
        return None
    place = f"the output {_shape(output)} has {num_classes} classes, 0 to {num_classes - 1}"
    what = f"the target's class numbers are from {low} to {high}, and {place}"
    if low < 0:
        return f"{what}; map the labels to 0, 1, ... in the data loader"
    return f"{what}; give the model {high + 1} outputs, or count classes from 0 in the data loader"


def _fits_log_probabilities(output, target, settings):
    problem = _fits_classes(output, target, settings)
    if problem is None and output.is_floating_point():
        totals = output.float().logsumexp(dim=1)  # 0 for log-probabilities
        if totals.numel() and not totals.abs().max() < 0.1:
            return (
                "the model's outputs are not log-probabilities, which this loss needs: exp(output) does not sum to 1 "
                "over the classes; use torch.nn.CrossEntropyLoss, or end the model with log_softmax"
            )
    return problem


def _fits_values(output, target, settings):
    """Output and target of one shape; a single number, or a size of 1 in one of them, may broadcast to the other."""
    if 1 in (output.numel(), target.numel()):
        return None
    if output.ndim == target.ndim:
        with contextlib.suppress(RuntimeError):
            if torch.broadcast_shapes(output.shape, target.shape) in (output.shape, target.shape):
                return None
    remedy = "return targets of the output's shape from the data loader"
    if output.numel() == target.numel():
        remedy = f"reshape one of them, as target.reshape{_shape(output)} in the data loader"
    return (
        f"the output is {_shape(output)} and the target {_shape(target)}, which the loss would broadcast against each "
        f"other; {remedy}"
    )


def _fits_logits(output, target, settings):
    """Equal shapes, float target in [0, 1]."""
    if problem := _fits_values(output, target, settings):
        return problem
    if not target.is_floating_point():
        return f"the target is {describe(target)}, and this loss takes floats; use target.float() in the data loader"
    low, high = float(target.min()), float(target.max())
    if low < 0 or high > 1:
        return f"the target's values are from {low:g} to {high:g}, and this loss takes them from 0 to 1"
    return None


def _fits_probabilities(output, target, settings):
    problem = _fits_logits(output, target, settings)
    low, high = float(output.min()), float(output.max())
    if problem is None and (low < 0 or high > 1):
        return (
            f"the model's outputs are from {low:.3g} to {high:.3g}, and this loss takes probabilities from 0 to 1; use "
            "torch.nn.BCEWithLogitsLoss, or end the model with sigmoid"
        )
    return problem


def _fits_signs(output, target, settings):
    problem = _fits_values(output, target, settings)
    if problem is None and not bool((target.abs() == 1).all()):
        return "the target holds other values than -1 and 1, which this loss takes"
    return problem


_CHECKS: dict[str, Callable[[torch.Tensor, torch.Tensor, Any], str | None]] = {
    "classes": _fits_classes,
    "log_probabilities": _fits_log_probabilities,
    "values": _fits_values,
    "logits": _fits_logits,
    "probabilities": _fits_probabilities,
    "signs": _fits_signs,
}


def _shape(tensor):
    return tuple(tensor.shape)
