"""What losses and metrics take: kinds, by the shapes, dtypes and values of output and target, and more for some losses.

The attribute `expects` of a loss or metric of the project's own names one of these kinds.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch

from utils.errors import quantity
from utils.nested import describe

NEAR = 0.01  # to 0, of the logarithm of a sum of probabilities


def problem_of(loss: str, given: Mapping[str, Any]) -> str | None:
    """What is wrong with the arguments of a call of one of LOSSES, and the remedy. given: {parameter: value}."""
    kind, check = LOSSES[loss]
    output, target = list(given.values())[:2]
    if kind and (problem := problem_of_kind(kind, output, target, given)):
        return problem
    given = {name: value.detach() if isinstance(value, torch.Tensor) else value for name, value in given.items()}
    tensors = [value for value in given.values() if isinstance(value, torch.Tensor)]
    if check is None or len(tensors) < 2 or not all(tensor.numel() for tensor in tensors):
        return None
    return check(given)


def problem_of_kind(kind: str, output: Any, target: Any, settings: Any) -> str | None:
    """What is wrong with an output and a target for a loss of this kind, and the remedy; None if nothing is."""
    for what, value in (("the model's output", output), ("the target", target)):
        if not isinstance(value, torch.Tensor):
            remedy = "write a loss (output, target) in model/loss.py that chooses it; see docs/trainers.md"
            return f"{what} is a {describe(value)}, and a tensor is needed; {remedy}"
        if value.is_complex():
            return (
                f"{what} is {describe(value)}, and this loss takes real numbers; use torch.view_as_real, or its abs()"
            )
    if not output.numel() or not target.numel():  # as a detector's loss over boxes may have
        return None
    return KINDS[kind](output.detach(), target, settings)


# ---- what a kind of loss needs: each check returns what is wrong, and what to do about it, or None


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
        elif target.shape == output.shape[:-1]:
            remedy = "it has the classes last: end the model with .movedim(-1, 1)"
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
    place = f"the output {shape_of(output)} has {quantity(num_classes, 'class')}, 0 to {num_classes - 1}"
    what = f"the target's class numbers are from {low} to {high}, and {place}"
    if low < 0:
        return f"{what}; {_in_loader('map the labels to 0, 1, ...', _classes(labels))}"
    remedy = _in_loader("count classes from 0", _classes(labels))
    return f"{what}; give the model {quantity(high + 1, 'output')}, or {remedy}"


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
    return f"{_broadcast(output, target)}; {remedy}"


def _broadcast(output, target):
    shapes = f"the output is {shape_of(output)} and the target {shape_of(target)}"
    return f"{shapes}, which the loss would broadcast against each other"


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
    return _fits_values(output, target, settings) or _of_signs({"target": target})


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


# ---- what single losses need besides


def _cross_entropy(given):
    target = given["target"]
    if target.is_floating_point() and target.shape == given["input"].shape and float(target.min()) < 0:
        return f"the target's values are from {float(target.min()):.3g}, and shares of classes are from 0 to 1"
    return None


def _kl_div(given):
    output, target, in_logs = given["input"], given["target"], given.get("log_target", False)
    if float(output.max()) > NEAR:
        return (
            f"the model's outputs are up to {float(output.max()):.3g}, and this loss takes the logarithms of "
            "probabilities, 0 at most; end the model with log_softmax"
        )
    if in_logs and float(target.max()) > NEAR:
        return (
            f"the target's values are up to {float(target.max()):.3g}, and log_target says that they are logarithms of "
            "probabilities; give probabilities without log_target"
        )
    if not in_logs and float(target.min()) < 0:
        return (
            f"the target's values are from {float(target.min()):.3g}, and this loss takes probabilities; give "
            '"log_target": true if they are logarithms'
        )
    return None


def _poisson_nll_loss(given):
    low = float(given["target"].min())
    return f"the target's values are from {low:.3g}, and this loss takes counts, from 0 on" if low < 0 else None


def _gaussian_nll_loss(given):
    output, target, variance = given["input"], given["target"], given["var"]
    if output.shape != target.shape:
        return f"{_broadcast(output, target)}; reshape one of them"
    if isinstance(variance, torch.Tensor) and float(variance.min()) < 0:
        return "the variances are below 0 in part; let the model give their logarithm, and pass its exp()"
    return None


def _of_signs(given):
    target = given["target"]
    if bool((target.abs() == 1).all()):
        return None
    return "the target holds other values than -1 and 1, which this loss takes; 2 * target - 1 turns 0 and 1 into them"


def _multilabel_margin_loss(given):
    """Each row of the target lists the numbers of its classes, each once, and then -1."""
    output, target = given["input"], given["target"]
    what = "this loss takes the numbers of the classes of a sample, int64, followed by -1"
    remedy = "use torch.nn.MultiLabelSoftMarginLoss for targets of 0 and 1"
    if target.dtype != torch.int64:
        return f"the target is {str(target.dtype).removeprefix('torch.')}, and {what}; {remedy}"
    rows = target.reshape(-1, target.shape[-1])
    listed = (rows < 0).cumsum(1) == 0
    if int(rows.max()) >= output.shape[-1]:
        return f"the target's class numbers are up to {int(rows.max())}, and the output has {output.shape[-1]} classes"
    others = -1 - torch.arange(rows.shape[1], device=rows.device)  # in place of what follows the list; all differ
    ordered = torch.where(listed, rows, others).sort(dim=1).values
    if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
        return f"a row of the target names a class twice, and {what}; {remedy}"
    return None


def _ctc_loss(given):
    scores, target = given["log_probs"], given["targets"]
    if not bool((scores.float().logsumexp(-1).abs() < 0.1).all()):
        return (
            "the outputs are not log-probabilities, which this loss needs: exp(output) does not sum to 1 over the "
            "classes; end the model with log_softmax"
        )
    blank, lengths = given.get("blank", 0), given["target_lengths"]
    if target.ndim == 2:  # padded
        places = torch.arange(target.shape[1], device=target.device)
        target = target[places < torch.as_tensor(lengths, device=target.device).unsqueeze(1)]
    if bool((target == blank).any()):
        return f"the target holds {blank}, the number of the blank; count the classes from 1 on, or give another blank"
    return None


LOSSES: dict[str, tuple[str | None, Callable[[Mapping[str, Any]], str | None] | None]] = {
    "cross_entropy": ("classes", _cross_entropy),
    "multi_margin_loss": ("classes", None),
    "nll_loss": ("log_probabilities", None),
    **dict.fromkeys(("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"), ("values", None)),
    "poisson_nll_loss": ("values", _poisson_nll_loss),
    "kl_div": ("values", _kl_div),
    "binary_cross_entropy": ("probabilities", None),
    "binary_cross_entropy_with_logits": ("logits", None),
    "multilabel_soft_margin_loss": ("logits", None),
    "hinge_embedding_loss": ("signs", None),
    "soft_margin_loss": ("signs", None),
    "gaussian_nll_loss": (None, _gaussian_nll_loss),
    "cosine_embedding_loss": (None, _of_signs),
    "margin_ranking_loss": (None, _of_signs),
    "multilabel_margin_loss": (None, _multilabel_margin_loss),
    "ctc_loss": (None, _ctc_loss),
}
"""{function of torch.nn.functional, which the classes of torch.nn call: (kind, check of {parameter: value})}."""
