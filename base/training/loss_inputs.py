"""LossWatch, a look at what torch's losses get, and checks of losses that take more than two tensors of one shape.

Each check returns what is wrong and what to do about it, or None. loss_kinds.py has the checks of shapes and dtypes.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from base.training.loss_kinds import EXPECTED_BY, problem_of_kind, shape_of
from utils.errors import UserError
from utils.nested import describe

_NEAR = 0.01  # to 0, of the logarithm of a sum of probabilities


def require_two_arguments(criterion: Any) -> None:
    """Raise UserError if the loss needs more than the output and the target with which it is called."""
    try:
        parameters = inspect.signature(getattr(criterion, "forward", criterion)).parameters.values()
    except (TypeError, ValueError):
        return
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    needed = [one.name for one in parameters if one.kind in kinds and one.default is one.empty]
    if len(needed) > 2:
        name = getattr(criterion, "__name__", type(criterion).__name__)
        raise UserError(
            f"loss: {name} takes {', '.join(needed)}, and is called as loss(output, target); write a function of these "
            "two in model/loss.py that calls it with the parts of the output and the target"
        )


class LossWatch(TorchFunctionMode):
    """A context in which calls of torch's losses are checked, and tensors that broadcast to a larger one are noted.

    name: begins the errors, as "loss".
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._broadcasts = []  # (the two arguments, shape of the result)
        self._doubts = []  # (loss, what may be wrong or None)
        self.class_numbers: tuple[Any, Any, Any] | None = None  # (target, output, keywords) of a loss

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        called = getattr(function, "__name__", "")
        kind = EXPECTED_BY.get(called)
        given = named_arguments(function, arguments, keywords) if kind or called in CHECKS else {}
        if len(given) < 2:
            result = function(*arguments, **keywords)
            self._remember(arguments, result)
            return result
        output, target = list(given.values())[:2]
        problem = problem_of_kind(kind, output, target, given) if kind else None
        self._doubts.append((called, None if problem else doubt_about(called, given)))
        if problem := problem or problem_of(called, given):
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
            self._broadcasts.append((tensors, shape_of(result)))

    def warn(self, logger: Any, function: Any, output: Any, target: Any) -> None:
        """Warn if the output and the target of the batch were broadcast against each other, and of other doubts."""
        if getattr(function, "expects", None) == "anything":
            return
        for called, doubt in dict.fromkeys(self._doubts):
            if doubt:
                logger.warning("%s: %s: %s", self._name, called, doubt)
        if isinstance(output, torch.Tensor) and isinstance(target, torch.Tensor):
            for result in [result for tensors, result in self._broadcasts if _is_doubtful(tensors, output, target)][:1]:
                what = "%s: %s: the output %s and the target %s broadcast to %s; if that is meant, set its attribute %s"
                given = shape_of(output), shape_of(target), result, "expects = 'anything'"
                logger.warning(what, self._name, getattr(function, "__name__", type(function).__name__), *given)


def _is_doubtful(tensors, output, target):
    """Whether two tensors that broadcast are the output and the target, or what is made of one and a target (N, 1)."""
    column = target.ndim == 2 and target.shape[1] == 1 and any(tensor is target for tensor in tensors)
    return column or {shape_of(tensor) for tensor in tensors} == {shape_of(output), shape_of(target)}


def named_arguments(function: Any, arguments: tuple, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return {parameter: value} of a call; the keywords alone if the function does not tell its parameters."""
    try:
        return inspect.signature(function).bind(*arguments, **keywords).arguments
    except (TypeError, ValueError):
        return dict(keywords)


def problem_of(loss: str, given: Mapping[str, Any]) -> str | None:
    """What is wrong with the arguments of a call of this function of torch.nn.functional. given: {parameter: value}."""
    check = CHECKS.get(loss)
    given = {name: value.detach() if isinstance(value, torch.Tensor) else value for name, value in given.items()}
    tensors = [value for value in given.values() if isinstance(value, torch.Tensor)]
    if check is None or len(tensors) < 2 or not all(tensor.numel() for tensor in tensors):
        return None
    return check(given)


def doubt_about(loss: str, given: Mapping[str, Any]) -> str | None:
    """What may be wrong with them: logits that are probabilities already, shares that are none, classes elsewhere."""
    output, target = given.get("input"), given.get("target")
    if not isinstance(output, torch.Tensor) or not isinstance(target, torch.Tensor) or output.ndim == 0:
        return None
    by = _made_by(output)
    if loss == "cross_entropy":
        by = "softmax" if by == "softmax" or _are_shares(output) else by
    if by and loss in ("cross_entropy", "binary_cross_entropy_with_logits"):
        return f"the model's outputs come from a {by}, and this loss takes logits; leave the {by} out of the model"
    if loss == "cross_entropy" and target.is_floating_point() and target.shape == output.shape and target.ndim > 1:
        sums = target.sum(dim=1).flatten()
        farthest = float(sums[(sums - 1).abs().argmax()])
        if abs(farthest - 1) > _NEAR:
            return (
                f"shares of the classes in the target sum to {farthest:.3g}, and not to 1; if each class is a yes or "
                "no of its own, use torch.nn.BCEWithLogitsLoss"
            )
    if loss == "cross_entropy" and output.ndim == 3 and output.shape[1] == output.shape[2] and _ends_in_linear(output):
        return (
            f"the classes are dimension 1 of the output {shape_of(output)}, and the model ends in a linear layer, "
            "which puts them last; use output.transpose(1, 2)"
        )
    return None


def _ends_in_linear(output):
    """Whether the last operation was a linear layer of a sequence (N, L, features)."""
    node = output.grad_fn
    while node is not None and node.name() in ("ViewBackward0", "UnsafeViewBackward0", "AddBackward0"):
        node = node.next_functions[0][0]
    return node is not None and node.name() in ("AddmmBackward0", "MmBackward0")


def _are_shares(output):
    """Whether each row of an output (N, C, ...) sums to 1, with entries from 0 to 1."""
    if output.ndim < 2 or output.shape[1] < 2 or not output.numel() or not output.is_floating_point():
        return False
    output = output.detach()
    return bool((output >= 0).all()) and bool(((output.float().sum(dim=1) - 1).abs() < _NEAR).all())


_LOOKED_THROUGH = (
    "View",
    "ReshapeAlias",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "T",
    "Permute",
    "Select",
    "Slice",
    "ToCopy",
)


def _made_by(output):
    """ "sigmoid" or "softmax" if that was the last operation but for changes of shape, otherwise None."""
    node = output.grad_fn
    while node is not None:
        operation = node.name().removeprefix("Unsafe").partition("Backward")[0]
        if operation in ("Sigmoid", "Softmax"):
            return operation.lower()
        if operation not in _LOOKED_THROUGH or not node.next_functions:
            return None
        node = node.next_functions[0][0]
    return None


# ---- one check for each loss


def _cross_entropy(given):
    target = given["target"]
    if target.is_floating_point() and target.shape == given["input"].shape and float(target.min()) < 0:
        return f"the target's values are from {float(target.min()):.3g}, and shares of classes are from 0 to 1"
    return None


def _kl_div(given):
    output, target, in_logs = given["input"], given["target"], given.get("log_target", False)
    if float(output.max()) > _NEAR:
        return (
            f"the model's outputs are up to {float(output.max()):.3g}, and this loss takes the logarithms of "
            "probabilities, 0 at most; end the model with log_softmax"
        )
    if in_logs and float(target.max()) > _NEAR:
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
        return (
            f"the output is {tuple(output.shape)} and the target {tuple(target.shape)}, which the loss would broadcast "
            f"against each other; reshape one of them"
        )
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


CHECKS = {
    "cross_entropy": _cross_entropy,
    "kl_div": _kl_div,
    "poisson_nll_loss": _poisson_nll_loss,
    "gaussian_nll_loss": _gaussian_nll_loss,
    "cosine_embedding_loss": _of_signs,
    "margin_ranking_loss": _of_signs,
    "multilabel_margin_loss": _multilabel_margin_loss,
    "ctc_loss": _ctc_loss,
}
"""{function of torch.nn.functional: a function that returns what is wrong with {parameter: value}, or None}."""
