"""Output: what a model's numbers mean: classes with names, or values with a unit."""

import re
from collections.abc import Sequence
from typing import Any, Self

import torch

from utils.errors import UserError
from utils.nested import describe

# losses by their names
_OF_EACH_OUTPUT = "BCEWithLogits|binary_cross_entropy_with_logits|MultiLabelSoftMargin|multilabel_soft_margin"
_OF_CLASSES = "CrossEntropyLoss|cross_entropy|NLLLoss|nll_loss"


class Output:
    """What the outputs of a model mean. It is made from the loader's state in a checkpoint.

    classes: names of the classes in the order of their numbers; None if the outputs are values.
    mean, std: of a standardized target, which is multiplied by std and increased by mean to have its own unit.
    is_probability: whether the outputs of a model with one output for two classes are probabilities, not logits.
    numbered: "many" or "one" by the loss: one output for each class, or a single one for two classes, which are called
        by their numbers if they have no names. With "one", several outputs are a label each, as labels() says.
    column: of a table that holds the targets.
    """

    def __init__(
        self,
        classes: Sequence[str] | None = None,
        mean: float = 0.0,
        std: float = 1.0,
        is_probability: bool = False,
        numbered: str | None = None,
        column: str | None = None,
    ) -> None:
        self.classes = None if classes is None else list(classes)
        self.mean, self.std, self.is_probability, self.numbered = mean, std, is_probability, numbered
        self.column = column

    @classmethod
    def from_state(cls, state: dict[str, Any], loss: str, expects: str | None = None) -> Self:
        """Return the Output of a loader's state in a checkpoint.

        loss: the config's section, as text. expects: the attribute of a loss of the project's own.
        """
        scale = state.get("output")
        scale = scale if isinstance(scale, dict) else {}
        mean, std = float(scale.get("mean", 0.0)), float(scale.get("std", 1.0))
        is_probability = expects == "probabilities" or re.search(r"BCELoss|binary_cross_entropy\b", loss) is not None
        one = is_probability or expects == "logits" or re.search(_OF_EACH_OUTPUT, loss) is not None
        many = expects in ("classes", "log_probabilities") or re.search(_OF_CLASSES, loss) is not None
        numbered = "one" if one else "many" if many else None
        return cls(state.get("classes"), mean, std, is_probability, numbered, scale.get("column"))

    def names(self, outputs: torch.Tensor) -> list[str] | None:
        """Return the names of the classes of outputs (B, ...), which are their numbers if they have none.

        None for values, and for outputs of another shape than (B, classes), or (B,) and (B, 1) for two classes.
        """
        size = outputs.shape[1] if outputs.ndim == 2 else 1 if outputs.ndim == 1 else 0
        if self.labels(outputs) is not None:
            return None
        if self.classes is not None:
            return self.classes if len(self.classes) == (size if size > 1 else 2 * size) else None
        if self.numbered == "one":
            return ["0", "1"] if size == 1 else None
        return [str(i) for i in range(size)] if self.numbered == "many" and size > 1 else None

    def labels(self, outputs: torch.Tensor) -> list[str] | None:
        """Return the names of the labels of outputs (B, labels), any of which an example may have; None for others.

        They are the classes of a model of several outputs whose loss takes each output by itself, as BCEWithLogitsLoss.
        """
        has_several = outputs.ndim == 2 and outputs.shape[1] > 1
        is_named = self.classes is not None and has_several and len(self.classes) == outputs.shape[1]
        return self.classes if self.numbered == "one" and is_named else None

    def class_maps(self, outputs: torch.Tensor) -> torch.Tensor | None:
        """Return (B, ...) class numbers for outputs (B, classes, ...), as of a segmentation; None for others."""
        is_map = self.classes is not None and outputs.ndim > 2 and outputs.shape[1] == len(self.classes)
        return outputs.argmax(dim=1) if self.numbered == "many" and is_map else None

    def pictures(self, data: Any, outputs: torch.Tensor) -> torch.Tensor | None:
        """Return (B, C, H, W) images to draw beside the images that are the data, of the same shape and range.

        They are the outputs, or for class maps in shades of grey; None if the outputs are no such images.
        """
        if not isinstance(data, torch.Tensor) or data.ndim != 4:
            return None
        if (maps := self.class_maps(outputs)) is None:
            return outputs if outputs.shape == data.shape else None
        if maps.shape[1:] != data.shape[2:]:
            return None
        low, high = data.amin(dim=(1, 2, 3), keepdim=True), data.amax(dim=(1, 2, 3), keepdim=True)
        shades = low + (high - low) * maps.unsqueeze(1) / max(1, len(self.classes or ()) - 1)
        return shades.expand(data.shape)

    def probabilities(self, outputs: torch.Tensor) -> torch.Tensor | None:
        """Return (B, classes) probabilities for logits, log-probabilities or one logit; None for values."""
        outputs, names = outputs.float(), self.names(outputs)
        if names is None:
            return None
        if outputs.ndim == 2 and outputs.shape[1] == len(names):
            return outputs.softmax(dim=1)
        positive = outputs.flatten() if self.is_probability else outputs.flatten().sigmoid()
        return torch.stack([1 - positive, positive], dim=1)

    def describe(self, outputs: torch.Tensor, top: int = 1, target: Any = None) -> list[dict[str, Any]]:
        """Return a dict for each of the outputs (B, ...): its prediction, and the probability of a class.

        The prediction is None if the probabilities are nan.

        Of labels, the prediction is a list of those with a probability above 0.5, and the key "probabilities" holds
        {name: probability} of all. Of class maps it is the class numbers.

        top: number of most probable classes to list, as "top": [[name, probability], ...], if more than one.
        target: (B, ...) of the examples; the dicts then hold the target, and of a class, or of all labels, whether it
            was right.
        """
        return rows_of(self.columns(outputs, top, target))

    def columns(self, outputs: torch.Tensor, top: int = 1, target: Any = None) -> dict[str, list[Any]]:
        """Return what describe does as {name: a list of B values}, where an unknown target is None."""
        names, probabilities = self.names(outputs), self.probabilities(outputs)
        target = target_rows(target, len(outputs))
        target = None if target is None else target.cpu()
        if (labels := self.labels(outputs)) is not None:
            return self._columns_of_labels(labels, outputs.float().cpu(), target)
        if (maps := self.class_maps(outputs)) is not None:
            given = {"target": target.tolist()} if target is not None and target.shape == maps.shape else {}
            return {"prediction": maps.tolist(), **given}
        if probabilities is None or names is None:
            columns = {"prediction": self._values(outputs)}
            if target is not None:
                known = ~target.isnan().flatten(1).all(dim=1) if target.ndim > 1 else ~target.isnan()
                values = zip(self._values(target), known.tolist(), strict=True)
                columns["target"] = [value if is_known else None for value, is_known in values]
            return columns
        shares, numbers = _largest(probabilities.cpu(), top)
        share, number = shares[:, 0].tolist(), numbers[:, 0].tolist()
        predicted = [names[one] if part == part else None for one, part in zip(number, share, strict=True)]
        columns = {"prediction": predicted, "probability": share}
        if target is not None and target.numel() == len(predicted):
            # a target between two classes, such as 0.7, is none of them
            values = target.flatten().tolist()
            targets = [int(one) if 0 <= one < len(names) and one == int(one) else None for one in values]
            columns["target"] = [None if one is None else names[one] for one in targets]
            found = zip(targets, number, predicted, strict=True)
            columns["right"] = [None if t is None else name is not None and t == n for t, n, name in found]
        if top > 1:
            both = zip(numbers.tolist(), shares.tolist(), strict=True)
            columns["top"] = [[[names[one], part] for one, part in zip(*ranked, strict=True)] for ranked in both]
        return columns

    def _columns_of_labels(self, labels, outputs, target):
        shares = outputs if self.is_probability else outputs.sigmoid()

        def chosen(rows):
            """The names of the labels of each row of probabilities, None for a row of others."""
            known = ((rows >= 0) & (rows <= 1)).all(dim=1).tolist()
            names = [[name for name, has in zip(labels, row, strict=True) if has] for row in (rows > 0.5).tolist()]
            return [found if is_known else None for found, is_known in zip(names, known, strict=True)]

        predicted = chosen(shares)
        columns: dict[str, list[Any]] = {"prediction": predicted}
        columns["probabilities"] = [dict(zip(labels, row, strict=True)) for row in shares.tolist()]
        if target is not None and target.shape == outputs.shape:
            columns["target"] = targets = chosen(target.float())
            both = zip(targets, predicted, strict=True)
            columns["right"] = [None if given is None else given == found for given, found in both]
        return columns

    def _values(self, numbers):
        """(B, ...) numbers in the unit of the target, as a list of numbers or of lists of them."""
        values = numbers.detach().cpu().to(torch.float64).numpy() * self.std + self.mean
        return values.reshape(-1).tolist() if values.size == len(values) else values.tolist()


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
    if isinstance(data, torch.Tensor) and output.shape[:1] != data.shape[:1]:
        given = f"{tuple(output.shape)} for a batch of {len(data)}"
        raise UserError(
            f"{name} returns a tensor {given}; it should keep the batch's dimension: squeeze(1), not squeeze()"
        )
