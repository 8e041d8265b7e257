"""Output: what a model's numbers mean: classes with names, or values with a unit."""

import re
from collections.abc import Sequence
from typing import Any, Self

import torch


class Output:
    """Describes the outputs of a model. A loader may have one as its attribute output; checkpoints hold it.

    classes: names of the classes in the order of their numbers; None if the outputs are values.
    mean, std: of a standardized target, which is multiplied by std and increased by mean to have its own unit.
    is_probability: whether the outputs of a model with one output for two classes are probabilities, not logits.
    numbered: "many" or "one" if the outputs are of classes without names, which are called by their numbers: one for
        each class, or a single one for two classes.
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
    def from_state(cls, state: dict[str, Any], loss: str) -> Self:
        """Return the Output of a loader's state in a checkpoint. loss: the config's section, as text."""
        scale = state.get("output")
        scale = scale if isinstance(scale, dict) else {}
        mean, std = float(scale.get("mean", 0.0)), float(scale.get("std", 1.0))
        is_probability = "BCELoss" in loss or re.search(r"binary_cross_entropy\b", loss) is not None
        one = is_probability or "BCEWithLogits" in loss or "binary_cross_entropy_with_logits" in loss
        many = not one and re.search("CrossEntropyLoss|cross_entropy|NLLLoss|nll_loss", loss) is not None
        numbered = "one" if one else "many" if many else None
        return cls(state.get("classes"), mean, std, is_probability, numbered, scale.get("column"))

    def names(self, outputs: torch.Tensor) -> list[str] | None:
        """Return the names of the classes of outputs (B, ...), which are their numbers if they have none.

        None for values, and for outputs of another shape than (B, classes), or (B,) and (B, 1) for two classes.
        """
        size = outputs.shape[1] if outputs.ndim == 2 else 1 if outputs.ndim == 1 else 0
        if self.classes is not None:
            return self.classes if len(self.classes) == (size if size > 1 else 2 * size) else None
        if self.numbered == "one":
            return ["0", "1"] if size == 1 else None
        return [str(i) for i in range(size)] if self.numbered == "many" and size > 1 else None

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

        top: number of most probable classes to list, as "top": [[name, probability], ...], if more than one.
        target: (B, ...) of the examples; the dicts then hold the target, and of a class whether it was right.
        """
        names, probabilities = self.names(outputs), self.probabilities(outputs)
        target = target.cpu() if isinstance(target, torch.Tensor) else None
        if probabilities is None or names is None:
            rows = [{"prediction": value} for value in self._values(outputs)]
            if target is not None:
                known = ~target.isnan().flatten(1).all(dim=1) if target.ndim > 1 else ~target.isnan()
                for row, value, is_known in zip(rows, self._values(target), known.tolist(), strict=True):
                    if is_known:
                        row["target"] = value
            return rows
        best, order = (found.tolist() for found in probabilities.cpu().topk(min(top, len(names)), dim=1))
        rows: list[dict[str, Any]] = [
            {"prediction": names[numbers[0]] if shares[0] == shares[0] else None, "probability": shares[0]}
            for numbers, shares in zip(order, best, strict=True)
        ]
        if target is not None and target.numel() == len(rows):
            for row, numbers, one in zip(rows, order, target.flatten().tolist(), strict=True):
                if 0 <= one < len(names):
                    row |= {"target": names[int(one)], "right": row["prediction"] is not None and one == numbers[0]}
        if top > 1:
            for row, numbers, shares in zip(rows, order, best, strict=True):
                row["top"] = [[names[number], share] for number, share in zip(numbers, shares, strict=True)]
        return rows

    def _values(self, numbers):
        """(B, ...) numbers in the unit of the target, as a list of numbers or of lists of them."""
        values = numbers.detach().cpu().to(torch.float64).numpy() * self.std + self.mean
        return values.reshape(-1).tolist() if values.size == len(values) else values.tolist()
