"""A look at the first training batch, before the first optimizer step: whether it fits the loss and the metrics.

Mismatches such as shapes that broadcast without an error train to wrong numbers. What is certainly wrong is refused;
what may be meant is a warning. Later batches cost nothing.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from base.training.evaluate import record
from utils import MetricTracker, UserError
from utils.config.types import is_library
from utils.nested import describe

if TYPE_CHECKING:
    from trainer.trainer import Trainer

# What torch's losses expect, by the name of the class and of the function. A loss or metric of a project's own may say
# so with the attribute "expects".
_TORCH_LOSSES = {
    "classes": ("CrossEntropyLoss", "cross_entropy", "MultiMarginLoss", "multi_margin_loss"),
    "log_probabilities": ("NLLLoss", "nll_loss"),
    "values": (
        *("MSELoss", "mse_loss", "L1Loss", "l1_loss", "SmoothL1Loss", "smooth_l1_loss", "HuberLoss", "huber_loss"),
        *("PoissonNLLLoss", "poisson_nll_loss", "KLDivLoss", "kl_div"),
    ),
    "probabilities": ("BCELoss", "binary_cross_entropy"),
    "logits": (
        *("BCEWithLogitsLoss", "binary_cross_entropy_with_logits"),
        *("MultiLabelSoftMarginLoss", "multilabel_soft_margin_loss", "sigmoid_focal_loss"),
    ),
    "signs": ("HingeEmbeddingLoss", "hinge_embedding_loss", "SoftMarginLoss", "soft_margin_loss"),
}
_EXPECTED_BY = {name: kind for kind, names in _TORCH_LOSSES.items() for name in names}


def compute_first_loss(trainer: "Trainer", data: Any, target: Any) -> tuple[Any, Any]:
    """(loss, output) of trainer.compute_loss for the first batch, after a look at what the loss and the metrics get.

    Raises UserError, in one line, for what cannot be right.
    """
    with _loss_watched(trainer), _single_samples_refused(trainer):
        loss, output = trainer.compute_loss(data, target)
    _look_at_metrics(trainer, output, target)
    return loss, output


@contextlib.contextmanager
def _loss_watched(trainer: "Trainer") -> Iterator[None]:
    """Within it each call of trainer.criterion is looked at; an error in a loss of a library is told in one line."""
    criterion, given = trainer.criterion, []

    def before(*arguments):
        if len(arguments) >= 2:
            _look_at_loss(trainer, criterion, *arguments[:2])
            given[:] = arguments[:2]

    hooks = []
    if isinstance(criterion, torch.nn.Module):
        hooks.append(criterion.register_forward_pre_hook(lambda module, arguments: before(*arguments)))
        hooks.append(criterion.register_forward_hook(lambda *call: given.clear()))
    else:

        @functools.wraps(criterion)
        def watched(*arguments, **keywords):
            before(*arguments)
            loss = criterion(*arguments, **keywords)
            given.clear()
            return loss

        trainer.criterion = watched
    try:
        yield
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        home = type(criterion) if isinstance(criterion, torch.nn.Module) else getattr(criterion, "func", criterion)
        if isinstance(error, UserError) or not given or not is_library(home.__module__):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        what = f"the output is {describe(given[0])}, the target {describe(given[1])}"
        raise UserError(f"loss: {_name(criterion)}: {reason}; {what}") from error
    finally:
        trainer.criterion = criterion
        for hook in hooks:
            hook.remove()


def _look_at_loss(trainer, criterion, output, target):
    """Refuse an output and a target that do not fit the loss, or warn of them."""
    kind, name = _expected(criterion), f"loss: {_name(criterion)}"
    if kind is None:
        _warn_of_broadcast(trainer, name, output, target)
        return
    if kind == "anything":
        return
    if kind not in _CHECKS:
        raise UserError(
            f"{name}: its attribute expects is {kind!r}; it should be one of {', '.join(_CHECKS)}, anything"
        )
    if not isinstance(output, torch.Tensor) or not isinstance(target, torch.Tensor):
        what = "the model's output" if not isinstance(output, torch.Tensor) else "the target"
        value = output if not isinstance(output, torch.Tensor) else target
        raise UserError(
            f"{name}: {what} is a {describe(value)}, and this loss takes tensors; choose the tensor in compute_loss of "
            "trainer/trainer.py"
        )
    if problem := _CHECKS[kind](output.detach(), target, criterion):
        raise UserError(f"{name}: {problem}")


# ---- what a kind of loss needs: each returns what is wrong, and what to do about it, or None


def _fits_classes(output, target, criterion):
    """Output (N, C, ...), integer target (N, ...) in 0 ... C-1; or a share for each class, float and of equal shape."""
    shares = target.is_floating_point() and target.shape == output.shape
    if output.ndim < 2 or output.shape[1] < 2:
        return (
            f"the model's output {_shape(output)} has one number a sample, so there is only one class to choose; give "
            "the model an output for each class, or use torch.nn.BCEWithLogitsLoss for two classes"
        )
    if shares and "Margin" not in _name(criterion):
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
        return f"the target is {describe(target)}, and class numbers are integers; use target.long() in the data loader"
    return _outside(target, output.shape[1], criterion)


def _outside(target, num_classes, criterion):
    """What is wrong with class numbers outside 0 ... num_classes-1."""
    ignored = _setting(criterion, "ignore_index", -100)
    labels = target[target != ignored]
    if not labels.numel():
        return None
    low, high = int(labels.min()), int(labels.max())
    if low >= 0 and high < num_classes:
        return None
    what = f"the target's class numbers are from {low} to {high}, and the output has {num_classes} classes, 0 to "
    if low < 0:
        return f"{what}{num_classes - 1}; map the labels to 0, 1, ... in the data loader"
    return f"{what}{num_classes - 1}; give the model {high + 1} outputs, or count classes from 0 in the data loader"


def _fits_log_probabilities(output, target, criterion):
    problem = _fits_classes(output, target, criterion)
    if problem is None and output.is_floating_point():
        totals = output.float().logsumexp(dim=1)  # 0 for log-probabilities
        if totals.numel() and not totals.abs().max() < 0.1:
            return (
                "the model's outputs are not log-probabilities, which this loss needs: exp(output) does not sum to 1 "
                "over the classes; use torch.nn.CrossEntropyLoss, or end the model with log_softmax"
            )
    return problem


def _fits_values(output, target, criterion):
    """Output and target of one shape."""
    if output.shape == target.shape:
        return None
    remedy = "return targets of the output's shape from the data loader"
    if output.numel() == target.numel():
        remedy = f"reshape one of them, as target.reshape{_shape(output)} in the data loader"
    return (
        f"the output is {_shape(output)} and the target {_shape(target)}, which the loss would broadcast against each "
        f"other; {remedy}"
    )


def _fits_logits(output, target, criterion):
    """Equal shapes, float target in [0, 1]."""
    if problem := _fits_values(output, target, criterion):
        return problem
    if not target.is_floating_point():
        return f"the target is {describe(target)}, and this loss takes floats; use target.float() in the data loader"
    low, high = float(target.min()), float(target.max())
    if low < 0 or high > 1:
        return f"the target's values are from {low:g} to {high:g}, and this loss takes them from 0 to 1"
    return None


def _fits_probabilities(output, target, criterion):
    problem = _fits_logits(output, target, criterion)
    low, high = float(output.min()), float(output.max())
    if problem is None and (low < 0 or high > 1):
        return (
            f"the model's outputs are from {low:.3g} to {high:.3g}, and this loss takes probabilities from 0 to 1; use "
            "torch.nn.BCEWithLogitsLoss, or end the model with sigmoid"
        )
    return problem


def _fits_signs(output, target, criterion):
    problem = _fits_values(output, target, criterion)
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


def _warn_of_broadcast(trainer, name, output, target):
    """Warn, for a function of the project's own, of floats of two shapes that broadcast to a third."""
    tensors = [value for value in (output, target) if isinstance(value, torch.Tensor) and value.is_floating_point()]
    if len(tensors) < 2 or output.shape == target.shape:
        return
    with contextlib.suppress(RuntimeError):
        together = torch.broadcast_shapes(output.shape, target.shape)
        if together not in (output.shape, target.shape):
            shapes = f"the output {_shape(output)} and the target {_shape(target)} broadcast to {tuple(together)}"
            trainer.logger.warning("%s: %s; if that is meant, set its attribute expects = 'anything'", name, shapes)


# ---- metrics


def _look_at_metrics(trainer, output, target):
    """Compute each metric on the batch, in a tracker of its own."""
    tracker = MetricTracker.of(trainer.metric_ftns, trainer.device)
    for metric in trainer.metric_ftns:
        kind = _expected(metric)
        name = f"metrics: {_name(metric)}"
        if kind in _CHECKS and isinstance(output, torch.Tensor) and isinstance(target, torch.Tensor):
            if problem := _CHECKS[kind](output.detach(), target, metric):
                raise UserError(f"{name}: {problem}")
        elif kind is None and not hasattr(metric, "update"):
            _warn_of_broadcast(trainer, name, output, target)
    record(tracker, trainer.metric_ftns, torch.zeros(()), output, target)


# ---- batch norm


@contextlib.contextmanager
def _single_samples_refused(trainer: "Trainer") -> Iterator[None]:
    """Refuse a last batch of one sample if batch norm, in training mode, gets one value for each channel from it."""
    loader = trainer.data_loader
    size, sampler = getattr(loader, "batch_size", None), getattr(loader, "sampler", None)
    last = len(sampler) % size if size and sampler is not None and hasattr(sampler, "__len__") else 0
    if last != 1 or getattr(loader, "drop_last", False):
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
        raise UserError(
            f"data_loader.args.batch_size: got {size}; the last batch of {len(sampler)} samples has 1, and batch norm "
            "needs two; choose another size, or give data_loader.args.drop_last: true"
        )


# ---- what they are called


def _expected(function):
    """The kind of output and target that a loss or a metric takes; None if nothing is known of it."""
    inner = getattr(function, "func", function)  # of a function with its arguments bound
    declared = getattr(inner, "expects", None)
    if declared is not None:
        return declared
    for kind in type(inner).__mro__ if isinstance(inner, torch.nn.Module) else (inner,):
        name = getattr(kind, "__name__", "")
        if getattr(kind, "__module__", "").startswith(("torch.nn.", "torchvision.")) and name in _EXPECTED_BY:
            changed = isinstance(inner, torch.nn.Module) and type(inner).forward is not kind.forward
            return None if changed else _EXPECTED_BY[name]
    return None


def _setting(criterion, name, default):
    """A setting of a loss: a keyword of a function, or an attribute of a module."""
    return getattr(criterion, "keywords", {}).get(name, getattr(criterion, name, default))


def _name(function):
    return getattr(function, "__name__", type(function).__name__)


def _shape(tensor):
    return tuple(tensor.shape)
