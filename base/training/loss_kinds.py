"""The kinds of losses and metrics, by the shapes, dtypes and values of the output and the target that they take.

The attribute `expects` of a loss or metric of the project's own names one of these kinds.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from utils.nested import describe

# What the losses of torch.nn.functional take as output and target; the classes of torch.nn call them.
EXPECTED_BY = {
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


def problem_of_kind(kind: str, output: Any, target: Any, settings: Any) -> str | None:
    """What is wrong with an output and a target for a loss of this kind, and the remedy; None if nothing is."""
    for what, value in (("the model's output", output), ("the target", target)):
        if not isinstance(value, torch.Tensor):
            remedy = "choose it in compute_loss of trainer/trainer.py"
            return f"{what} is a {describe(value)}, and a tensor is needed; {remedy}"
        if value.is_complex():
            return (
                f"{what} is {describe(value)}, and this loss takes real numbers; use torch.view_as_real, or its abs()"
            )
    if not output.numel() or not target.numel():  # as a detector's loss over boxes may have
        return None
    return KINDS[kind](output.detach(), target, settings)


# ---- what a kind of loss needs: each returns what is wrong, and what to do about it, or None


def _fits_classes(output, target, settings):
    """Output (N, C, ...), integer target (N, ...) in 0 ... C-1; or a share for each class, float and of equal shape."""
    shares = target.is_floating_point() and target.shape == output.shape
    if output.ndim == 1 and (shares or target.ndim == 0):  # one sample by itself
        return None
    if output.ndim < 2 or output.shape[1] < 2:
        return (
            f"the model's output {shape_of(output)} has one number a sample, so there is only one class to choose; "
            "give the model an output for each class, or use torch.nn.BCEWithLogitsLoss for two classes"
        )
    if shares:
        return None
    wanted = (output.shape[0], *output.shape[2:])
    if tuple(target.shape) != wanted:
        remedy = "return class numbers (N,) from the data loader"
        if target.shape == (*wanted, 1):
            remedy = f"use target.squeeze(-1) in the data loader, or give ArrayDataLoader {_classes(target)}"
        elif target.shape == output.shape:
            numbers = _classes(torch.arange(output.shape[1]))
            remedy = f"it looks one-hot: use target.argmax(dim=1) in the data loader, or give ArrayDataLoader {numbers}"
        given = f"the target is {describe(target)}, and the output {shape_of(output)}"
        return f"{given} wants {wanted} class numbers; {remedy}"
    if target.is_floating_point() or target.dtype == torch.bool:
        remedy = _in_loader("use target.long()", '"target_dtype": "int64"')
        return f"the target is {describe(target)}, and class numbers are int64; {remedy}"
    return outside(target, output, settings)


def outside(target: torch.Tensor, output: torch.Tensor, settings: Any) -> str | None:
    """What is wrong with class numbers, of a batch or of all data, that the output (N, C, ...) has no place for."""
    num_classes = output.shape[1]
    labels = target[target != settings.get("ignore_index", -100)]
    if not labels.numel():
        return None
    low, high = int(labels.min()), int(labels.max())
    if low >= 0 and high < num_classes:
        return None
    place = f"the output {shape_of(output)} has {num_classes} classes, 0 to {num_classes - 1}"
    what = f"the target's class numbers are from {low} to {high}, and {place}"
    if low < 0:
        return f"{what}; {_in_loader('map the labels to 0, 1, ...', _classes(labels))}"
    remedy = _in_loader("count classes from 0", _classes(labels))
    return f"{what}; give the model {high + 1} outputs, or {remedy}"


def _classes(labels):
    values = labels.unique().tolist()
    return f'"classes": {values}' if len(values) <= 20 else '"classes"'


def _in_loader(action, argument):
    """What to do in a loader of the project's own, and the argument of ArrayDataLoader that does it."""
    return f"{action} in the data loader, or give ArrayDataLoader {argument}"


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
        remedy = f"reshape one of them, as target.reshape{shape_of(output)} in the data loader"
        if target.ndim == 1 and output.ndim == 2:
            remedy += ', or give ArrayDataLoader "target_as_column": true'
    return (
        f"the output is {shape_of(output)} and the target {shape_of(target)}, which the loss would broadcast against "
        f"each other; {remedy}"
    )


def _fits_logits(output, target, settings):
    """Equal shapes, float target in [0, 1]."""
    if problem := _fits_values(output, target, settings):
        return problem
    if not target.is_floating_point():
        remedy = _in_loader("use target.float()", '"target_dtype": "float32"')
        return f"the target is {describe(target)}, and this loss takes floats; {remedy}"
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


KINDS: dict[str, Callable[[torch.Tensor, torch.Tensor, Any], str | None]] = {
    "classes": _fits_classes,
    "log_probabilities": _fits_log_probabilities,
    "values": _fits_values,
    "logits": _fits_logits,
    "probabilities": _fits_probabilities,
    "signs": _fits_signs,
}


def shape_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the shape as a plain tuple, for messages."""
    return tuple(tensor.shape)
