"""LossWatch, a look at what torch's losses get: what loss_kinds.py refuses is an error, what may be meant a warning."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from base.training.loss_kinds import LOSSES, NEAR, problem_of, shape_of
from utils.errors import UserError
from utils.nested import describe
from utils.signatures import signature

_WEIGHTS = "weight", "pos_weight"


def require_two_arguments(criterion: Any) -> None:
    """Raise UserError if the loss needs more than the output and the target with which it is called."""
    try:
        parameters = signature(getattr(criterion, "forward", criterion)).parameters.values()
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
        self.counts_some = False  # whether a loss was a mean by class weights, or over some of the targets

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        called = getattr(function, "__name__", "")
        given = named_arguments(function, arguments, keywords) if called in LOSSES else {}
        if len(given) < 2:
            result = function(*arguments, **keywords)
            self._remember(arguments, result)
            return result
        output, target = list(given.values())[:2]
        try:
            self._look(called, given, keywords)
        except RuntimeError as error:
            if "vmap" not in str(error):  # torch.func.vmap refuses to read a number
                raise
        try:
            return function(*arguments, **keywords)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            weights = [f", {name} {describe(given[name])}" for name in _WEIGHTS if given.get(name) is not None]
            what = f"the output is {describe(output)}, the target {describe(target)}{''.join(weights)}"
            raise UserError(f"{self._name}: {called}: {reason}; {what}") from error

    def _look(self, called, given, keywords):
        output, target = list(given.values())[:2]
        if problem := problem_of(called, given):
            raise UserError(f"{self._name}: {called}: {problem}")
        self._doubts.append((called, doubt_about(called, given)))
        self.counts_some = self.counts_some or _counts_some(called, given)
        if LOSSES[called][0] in ("classes", "log_probabilities") and target.ndim == 1 and output.ndim == 2:
            self.class_numbers = target, output, keywords

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


def _counts_some(loss, given):
    """Whether a loss is a mean over other than all its targets, alike: it has class weights, or may ignore some."""
    target, ignored = given.get("target"), given.get("ignore_index", -100)
    if loss not in ("cross_entropy", "nll_loss") or given.get("reduction", "mean") != "mean":
        return False
    if not isinstance(target, torch.Tensor) or target.is_floating_point():  # shares of classes, divided by the samples
        return False
    return given.get("weight") is not None or ignored != -100 or bool((target == ignored).any())


def _is_doubtful(tensors, output, target):
    """Whether two tensors that broadcast are the output and the target, or what is made of one and a target (N, 1)."""
    column = target.ndim == 2 and target.shape[1] == 1 and any(tensor is target for tensor in tensors)
    return column or {shape_of(tensor) for tensor in tensors} == {shape_of(output), shape_of(target)}


def named_arguments(function: Any, arguments: tuple, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return {parameter: value} of a call; the keywords alone if the function does not tell its parameters."""
    try:
        return signature(function).bind(*arguments, **keywords).arguments
    except (TypeError, ValueError):
        return dict(keywords)


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
        if abs(farthest - 1) > NEAR:
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
    return bool((output >= 0).all()) and bool(((output.float().sum(dim=1) - 1).abs() < NEAR).all())


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
