"""Output: what a model's numbers mean: classes with names, or values with a unit."""

from collections.abc import Sequence
from typing import Any, Self

import torch


class Output:
    """Describes the outputs of a model. A loader may have one as its attribute output; checkpoints hold it.

    classes: names of the classes in the order of their numbers; None if the outputs are values.
    mean, std: of a standardized target, which is multiplied by std and increased by mean to have its own unit.
    is_probability: whether the outputs of a model with one output for two classes are probabilities, not logits.
    """

    def __init__(
        self,
        classes: Sequence[str] | None = None,
        mean: float = 0.0,
        std: float = 1.0,
        is_probability: bool = False,
    ) -> None:
        self.classes = None if classes is None else list(classes)
        self.mean, self.std, self.is_probability = mean, std, is_probability

    @classmethod
    def from_state(cls, state: dict[str, Any], loss: str) -> Self:
        """Return the Output of a loader's state in a checkpoint. loss: the config's section, as text."""
        scale = state.get("output")
        scale = scale if isinstance(scale, dict) else {}
        mean, std = float(scale.get("mean", 0.0)), float(scale.get("std", 1.0))
        return cls(state.get("classes"), mean, std, is_probability="BCELoss" in loss)

    def probabilities(self, outputs: torch.Tensor) -> torch.Tensor | None:
        """Return (B, classes) probabilities for logits, log-probabilities or one logit; None without classes."""
        outputs = outputs.float()
        if self.classes is None:
            return None
        if outputs.ndim == 2 and outputs.shape[1] == len(self.classes):
            return outputs.softmax(dim=1)
        if len(self.classes) == 2 and outputs.numel() == len(outputs):
            positive = outputs.flatten() if self.is_probability else outputs.flatten().sigmoid()
            return torch.stack([1 - positive, positive], dim=1)
        return None

    def describe(self, outputs: torch.Tensor, top: int = 1, target: Any = None) -> list[dict[str, Any]]:
        """Return a dict for each of the outputs (B, ...): its prediction, and the probability of a class.

        top: number of most probable classes to list, as "top": [[name, probability], ...], if more than one.
        target: (B, ...) of the examples; the dicts then hold the target, and of a class whether it was right.
        """
        probabilities = self.probabilities(outputs)
        targets = [None] * len(outputs) if not isinstance(target, torch.Tensor) else target.cpu()
        if probabilities is None or self.classes is None:
            rows = [{"prediction": self._value(value)} for value in outputs.detach().cpu()]
            given = [{} if one is None else {"target": self._value(one)} for one in targets]
            return [row | more for row, more in zip(rows, given, strict=True)]
        best, order = probabilities.cpu().topk(min(top, probabilities.shape[1]), dim=1)
        rows = []
        for values, numbers, one in zip(best.tolist(), order.tolist(), targets, strict=True):
            named = [[self.classes[number], value] for number, value in zip(numbers, values, strict=True)]
            row = {"prediction": named[0][0], "probability": named[0][1]}
            if one is not None and one.numel() == 1:
                row |= {"target": self.classes[int(one)], "right": int(one) == numbers[0]}
            rows.append(row | ({"top": named} if top > 1 else {}))
        return rows

    def _value(self, number):
        """A number in the unit of the target, or a list of them."""
        value = number.to(torch.float64).numpy() * self.std + self.mean
        return value.item() if value.size == 1 else value.tolist()
