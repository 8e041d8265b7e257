"""Output: what a model's numbers mean: classes with names, or values with a unit."""

import contextlib
import math
import re
from collections.abc import Sequence
from typing import Any, Self

import torch

from utils.config.components import PARTS
from utils.config.types import find_type
from utils.errors import UserError
from utils.nested import describe, named_tensors

# {kind of loss, as the attribute expects names it: names of losses, as far as they tell it}
_BY_NAME = {
    "probabilities": r"BCELoss|binary_cross_entropy(?![A-Za-z_])",
    "logits": "BCEWithLogits|binary_cross_entropy_with_logits|MultiLabelSoftMargin|multilabel_soft_margin",
    "classes": (
        r"(?<!Binary)CrossEntropyLoss|(?<!binary_)cross_entropy|(?<!Poisson)(?<!Gaussian)NLLLoss|"
        r"(?<!poisson_)(?<!gaussian_)nll_loss"
    ),
}
_OF_CLASSES = ("classes", "log_probabilities")
_OF_EACH = ("logits", "probabilities")
_KINDS = (*_OF_CLASSES, *_OF_EACH, "values", "signs")


class Output:
    """Describes the outputs of a model: their kind, which is decided while training, and what the loader declares.

    classes: names of the classes in the order of their numbers; None if the outputs are values.
    mean, std: of a standardized target, which is multiplied by std and increased by mean to have its own unit.
    kind: of the outputs, as the attribute expects of a loss names it; None if it is unknown. "classes" or
        "log_probabilities": an output for each class. "logits" or "probabilities": each output by itself, which is a
        single one for two classes, or one for each label, as labels() says. Classes without names are called by their
        numbers.
    column: of a table that holds the targets.
    is_declared: whether torch's loss or the attribute expects says the kind; if not, the name of a loss does.
    shape: of the outputs of an example, if it is known.
    """

    def __init__(
        self,
        classes: Sequence[str] | None = None,
        mean: float = 0.0,
        std: float = 1.0,
        kind: str | None = None,
        column: str | None = None,
        is_declared: bool = True,
        shape: Sequence[int] | None = None,
    ) -> None:
        self.classes = None if classes is None else list(classes)
        self.mean, self.std, self.kind, self.column = mean, std, kind, column
        self.is_declared, self.shape = is_declared, None if shape is None else tuple(shape)

    @classmethod
    def from_state(cls, state: dict[str, Any], spec: dict[str, Any]) -> Self:
        """Return the Output of a loader's state in a checkpoint. spec: as spec_of returns it."""
        scale = state.get("output")
        scale = scale if isinstance(scale, dict) else {}
        mean, std = float(scale.get("mean", 0.0)), float(scale.get("std", 1.0))
        kind, shape = spec.get("kind"), spec.get("shape")
        kind = kind if kind in _KINDS else None
        shape = shape if isinstance(shape, (list, tuple)) else [-1]
        is_shape = all(type(size) is int and size >= 0 for size in shape) and math.prod(shape) < 2**40  # torch's limit
        column, is_declared = scale.get("column"), bool(spec.get("is_declared"))
        return cls(state.get("classes"), mean, std, kind, column, is_declared, shape if is_shape else None)

    def spec(self) -> dict[str, Any]:
        """Return what from_state takes besides the loader's state."""
        shape = None if self.shape is None else list(self.shape)
        return {"kind": self.kind, "is_declared": self.is_declared, "shape": shape}

    @property
    def is_of_classes(self) -> bool:
        """Whether the outputs are of classes or labels, as far as it is known."""
        return self.classes is not None or self.kind in (*_OF_CLASSES, *_OF_EACH)

    @property
    def activation(self) -> str | None:
        """What turns the outputs into predictions: "softmax", "sigmoid", "argmax" of a segmentation, None if nothing.

        Without a known shape, it is that of the outputs of single examples.
        """
        if not self.is_of_classes or self.kind == "probabilities":
            return None
        if self.kind == "logits":
            return "sigmoid"
        if self.shape is None:
            return "softmax"
        like = torch.empty(1, *self.shape, device="meta")
        if self.is_segmentation(like):  # of several outputs
            return "argmax"
        names = self.names(like)
        return None if names is None else "softmax" if like.numel() == len(names) else "sigmoid"

    def names(self, outputs: torch.Tensor) -> list[str] | None:
        """Return the names of the classes of outputs (B, ...), which are their numbers if they have none.

        None for values, and for outputs of another shape than (B, classes), or (B,) and (B, 1) for two classes.
        """
        size = outputs.shape[1] if outputs.ndim == 2 else 1 if outputs.ndim == 1 else 0
        if self.labels(outputs) is not None:
            return None
        if self.classes is not None:
            return self.classes if len(self.classes) == (2 if size == 1 else size) else None
        if self.kind in _OF_EACH:
            return ["0", "1"] if size == 1 else None
        return [str(i) for i in range(size)] if self.kind in _OF_CLASSES and size > 1 else None

    def labels(self, outputs: torch.Tensor) -> list[str] | None:
        """Return the names of the labels of outputs (B, labels), any of which an example may have; None for others.

        They are the classes of a model of several outputs whose loss takes each output by itself, as BCEWithLogitsLoss.
        """
        has_several = outputs.ndim == 2 and outputs.shape[1] > 1
        is_named = self.classes is not None and has_several and len(self.classes) == outputs.shape[1]
        return self.classes if self.kind in _OF_EACH and is_named else None

    def is_segmentation(self, outputs: torch.Tensor) -> bool:
        """Whether outputs (B, classes, ...) are of a class for each place, as of a segmentation.

        If only the name of a loss says that it is of classes, the last dimension may hold them instead; the outputs are
        then those of images (B, classes, H, W), W other than the number of classes. Images whose classes have no names
        are (B, classes, H, W), too; of two classes with names, they may be (B, 1, H, W).
        """
        size = None if self.classes is None else len(self.classes)
        if self.kind in _OF_EACH:
            return self.is_declared and size == 2 and outputs.ndim == 4 and outputs.shape[1] == 1
        if self.kind not in _OF_CLASSES or outputs.ndim < 3 or outputs.shape[1] != (size or outputs.shape[1]):
            return False
        if self.is_declared:
            return size is not None or (outputs.ndim == 4 and outputs.shape[1] > 1)
        return size is not None and outputs.ndim == 4 and outputs.shape[3] != size

    def class_maps(self, outputs: torch.Tensor) -> torch.Tensor | None:
        """Return masks (B, ...) of class numbers for the outputs of a segmentation; None for others."""
        if not self.is_segmentation(outputs):
            return None
        if outputs.shape[1] > 1 or self.kind in _OF_CLASSES:
            return outputs.argmax(dim=1)
        return (outputs[:, 0] > (0.5 if self.kind == "probabilities" else 0.0)).long()

    def masks(self, outputs: torch.Tensor) -> torch.Tensor | None:
        """Return class_maps on the CPU, in one read, with -1 everywhere in examples whose outputs are not finite."""
        maps = self.class_maps(outputs)
        if maps is None:
            return None
        finite = outputs.amax(dim=1).isfinite().flatten(1).all(dim=1)  # nan is the largest
        return maps.where(finite.view(-1, *[1] * (maps.ndim - 1)), -1).int().cpu()

    def probabilities(self, outputs: torch.Tensor) -> torch.Tensor | None:
        """Return (B, classes) probabilities for logits, log-probabilities or one logit; None for values."""
        outputs, names = outputs.float(), self.names(outputs)
        if names is None:
            return None
        if outputs.ndim == 2 and outputs.shape[1] == len(names):
            return outputs.softmax(dim=1)
        positive = outputs.flatten() if self.kind == "probabilities" else outputs.flatten().sigmoid()
        return torch.stack([1 - positive, positive], dim=1)

    def describe(self, outputs: torch.Tensor, top: int = 1, target: Any = None) -> list[dict[str, Any]]:
        """Return a dict for each of the outputs (B, ...): its prediction, and the probability of a class.

        The prediction of classes or labels is None if the outputs are nan.

        Of labels, the prediction is a list of those with a probability above 0.5, and the key "probabilities" holds
        {name: probability} of all. Of a segmentation, the prediction is the mask, lists of class numbers.

        top: number of most probable classes to list, as "top": [[name, probability], ...], if more than one.
        target: (B, ...) of the examples; the dicts then hold the target, and of a class, or of all labels, whether it
            was right.
        """
        return rows_of(self.columns(outputs, top, target))

    def columns(
        self, outputs: torch.Tensor, top: int = 1, target: Any = None, masks: torch.Tensor | None = None
    ) -> dict[str, list[Any]]:
        """Return what describe does as {name: a list of B values}, where an unknown target is None.

        masks: what the method masks returns for the outputs, if it is known.
        """
        target = target_rows(target, len(outputs))
        target = None if target is None else target.cpu()
        masks = self.masks(outputs) if masks is None else masks
        if (labels := self.labels(outputs)) is not None:
            return self._columns_of_labels(labels, outputs.float().cpu(), target)
        if masks is not None:
            given = {"target": target.tolist()} if target is not None and target.shape == masks.shape else {}
            known = (masks >= 0).flatten(1).all(dim=1).tolist()
            return {"prediction": [mask if k else None for mask, k in zip(masks.tolist(), known, strict=True)], **given}
        names, probabilities = self.names(outputs), self.probabilities(outputs)
        if names is None or probabilities is None:
            return self._columns_of_values(outputs, target)
        return _columns_of_classes(names, probabilities.cpu(), top, target)

    def _columns_of_values(self, outputs, target):
        columns = {"prediction": self._values(outputs)}
        if target is not None:
            known = ~target.isnan().flatten(1).all(dim=1) if target.ndim > 1 else ~target.isnan()
            values = zip(self._values(target), known.tolist(), strict=True)
            columns["target"] = [value if is_known else None for value, is_known in values]
        return columns

    def _columns_of_labels(self, labels, outputs, target):
        probabilities = outputs if self.kind == "probabilities" else outputs.sigmoid()

        def chosen(rows):
            """The names of the labels above 0.5 in each row; None for a row that holds more than numbers in [0, 1]."""
            known = ((rows >= 0) & (rows <= 1)).all(dim=1).tolist()
            names = [[name for name, has in zip(labels, row, strict=True) if has] for row in (rows > 0.5).tolist()]
            return [found if is_known else None for found, is_known in zip(names, known, strict=True)]

        predicted = chosen(probabilities)
        columns: dict[str, list[Any]] = {"prediction": predicted}
        columns["probabilities"] = [dict(zip(labels, row, strict=True)) for row in probabilities.tolist()]
        targets = None
        if target is not None and target.shape == outputs.shape:
            targets = chosen(target.float())
        elif target is not None and target.numel() == len(outputs):  # class numbers: the only label of an example
            numbers = dict(enumerate(labels))
            targets = [[numbers[one]] if one in numbers else None for one in target.flatten().tolist()]
        if targets is not None:
            columns["target"] = targets
            both = zip(targets, predicted, strict=True)
            columns["right"] = [None if given is None else given == found for given, found in both]
        return columns

    def _values(self, numbers):
        """(B, ...) numbers in the unit of the target, as a list of numbers or of lists of them."""
        values = numbers.detach().cpu().to(torch.float64).numpy() * self.std + self.mean
        return values.reshape(-1).tolist() if values.size == len(values) else values.tolist()


def _columns_of_classes(names, probabilities, top, target):
    largest, numbers = _largest(probabilities, top)
    probability, number = largest[:, 0].tolist(), numbers[:, 0].tolist()
    predicted = [names[one] if p == p else None for one, p in zip(number, probability, strict=True)]
    columns = {"prediction": predicted, "probability": probability}
    if target is not None and target.numel() == len(predicted):
        # a target between two classes, such as 0.7, is none of them
        values = target.flatten().tolist()
        targets = [int(one) if 0 <= one < len(names) and one == int(one) else None for one in values]
        columns["target"] = [None if one is None else names[one] for one in targets]
        found = zip(targets, number, predicted, strict=True)
        columns["right"] = [None if t is None else name is not None and t == n for t, n, name in found]
    if top > 1:
        both = zip(numbers.tolist(), largest.tolist(), strict=True)
        columns["top"] = [[[names[one], p] for one, p in zip(*ranked, strict=True)] for ranked in both]
    return columns


def spec_of(section: Any, criterion: Any = None, shape: Sequence[int] | None = None) -> dict[str, Any]:
    """Return the kind of a model's outputs as plain values, for a checkpoint.

    section: "loss" of the config. criterion: the loss, whose attribute expects, if it has one, decides alone.
    shape: of the outputs of an example, if it is known.
    """
    name = _name_of(section)
    kind = getattr(getattr(criterion, "func", criterion), "expects", None)  # func: of one with its arguments bound
    is_declared = isinstance(kind, str) and kind != "anything"
    if not is_declared:
        last = name.rpartition(".")[2]
        kind = next((kind for kind, names in _BY_NAME.items() if re.search(names, last)), None)
    shape = None if shape is None else list(shape)
    return {"kind": kind, "is_declared": is_declared or name.startswith("torch."), "shape": shape}


def spec_in(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return what spec_of did while the model of a checkpoint was trained, with its kind, if that is not unknown.

    Of an unknown kind, and of an older checkpoint, the loss of the config says now what it is.
    """
    kept, config = checkpoint.get("outputs"), checkpoint.get("config")
    if isinstance(kept, dict) and (kept.get("kind") is not None or kept.get("is_declared")):
        return kept
    section = config.get("loss") if isinstance(config, dict) else None
    name, criterion = _name_of(section), None
    if name and not name.startswith("torch."):
        with contextlib.suppress(Exception):  # a model can be used without its loss, whatever is wrong with that
            criterion = find_type("loss", name, PARTS["loss"])
    return spec_of(section, criterion) | {"shape": kept.get("shape") if isinstance(kept, dict) else None}


def _name_of(section):
    name = section.get("type") if isinstance(section, dict) else section
    return name if isinstance(name, str) else ""


def _largest(rows, number):
    """(values, indices) of the largest entries of each row; of equal ones the first comes first, as in argmax."""
    if number == 1:
        return rows.max(dim=1, keepdim=True)
    return tuple(part[:, :number] for part in rows.sort(dim=1, descending=True, stable=True))


def rows_of(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Return a dict for each example of {name: a list of values}; an unknown target is left out."""
    first, *others = columns
    rows = [{first: value} for value in columns[first]]
    for name in others:
        may_lack = name in ("target", "right")
        for row, value in zip(rows, columns[name], strict=True):
            if value is not None or not may_lack:
                row[name] = value
    return rows


def target_rows(target: Any, number: int) -> torch.Tensor | None:
    """Return the targets of a number of examples as a tensor (number, ...); None if they are no such tensor."""
    rows = target.reshape(1) if isinstance(target, torch.Tensor) and target.ndim == 0 else target
    return rows if isinstance(rows, torch.Tensor) and len(rows) == number else None


def require_one_output(model: torch.nn.Module, data: Any, output: Any) -> None:
    """Raise UserError unless a model's output is a tensor with a row for each example of the batch data."""
    name = type(model).__name__
    if not isinstance(output, torch.Tensor):
        remedy = (
            "in evaluation mode, return the tensor that is the prediction, or use all of it as docs/predict.md shows"
        )
        raise UserError(f"{name} returns a {describe(output)}, where one tensor is predicted; {remedy}")
    _require_rows(name, data, output)


def named_outputs(model: torch.nn.Module, data: Any, output: Any) -> dict[str, torch.Tensor]:
    """Return the tensors (B, ...) of a model's output by name, as named_tensors does; that of a single one is "".

    Raises UserError unless each has a row for each example of the batch data.
    """
    name = type(model).__name__
    found = named_tensors(output, f"{name} returns")
    rows = {one.shape[:1] for one in found.values()}
    if len(rows) > 1 or () in rows:
        sizes = ", ".join(f"{key!r} is {tuple(one.shape)}" for key, one in found.items())
        raise UserError(f"{name} returns tensors of which {sizes}; each should have a row for each example")
    for one in found.values():
        _require_rows(name, data, one)
    return found


def _require_rows(name, data, output):
    """Raise UserError unless a tensor that a model of this name returns keeps the rows of the batch data."""
    if isinstance(data, torch.Tensor) and output.shape[:1] != data.shape[:1]:
        given = f"{tuple(output.shape)} for a batch of {len(data)}"
        raise UserError(
            f"{name} returns a tensor {given}; it should keep the batch's dimension: squeeze(1), not squeeze()"
        )
