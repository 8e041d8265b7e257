"""Predictions: what a model gives for some examples, as rows and columns for people and files."""

import functools
from dataclasses import dataclass
from typing import Any, Self

import torch

from base.data.examples import Examples
from base.data.outputs import Output, rows_of, target_rows
from utils.errors import UserError


@dataclass
class Predictions:
    """Predictions for some examples.

    examples: their names, and the errors of those that could not be read.
    outputs: (B, ...) of the model, for those without an error.
    data: (B, ...) what the model was given for them.
    target: (B, ...) of them, or None.
    output: what the numbers mean.
    top: number of most probable classes to list.
    """

    examples: Examples
    outputs: torch.Tensor
    data: Any
    target: Any
    output: Output
    top: int = 1

    def __len__(self) -> int:
        return len(self.examples)

    def without_data(self) -> "Predictions":
        """Return them without the raw examples and what the model was given."""
        # the traceback of an error holds the example
        errors = {place: UserError(str(error)) for place, error in self.examples.errors.items()}
        examples, target = Examples(self.examples.names, errors=errors), target_rows(self.target, len(self.outputs))
        return Predictions(examples, self.outputs, None, target, self.output, self.top)

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """Return those of all parts without data. Their output, top and shapes are equal; all or none have targets."""
        examples = Examples.joined([part.examples for part in parts])
        outputs = torch.cat([part.outputs for part in parts])
        targets = [part.target for part in parts if part.target is not None]
        return cls(examples, outputs, None, torch.cat(targets) if targets else None, parts[0].output, parts[0].top)

    @functools.cached_property
    def masks(self) -> torch.Tensor | None:
        """The class numbers (B, ...) of a segmentation on the CPU, -1 where outputs are not finite; None for others."""
        return self.output.masks(self.outputs)

    @functools.cached_property
    def columns(self) -> dict[str, list[Any]]:
        """The rows as {name: a value for each example, None where there is none}."""
        found = self.output.columns(self.outputs, self.top, self.target, self.masks) if len(self.outputs) else {}
        names, errors = list(self.examples.names), self.examples.errors
        if errors:
            places = [place for place in range(len(names)) if place not in errors]
            found = {name: dict(zip(places, values, strict=True)) for name, values in found.items()}
            found["error"] = {place: str(error) for place, error in errors.items()}
            found = {name: [values.get(place) for place in range(len(names))] for name, values in found.items()}
        return {"source": names, **found}

    @functools.cached_property
    def rows(self) -> list[dict[str, Any]]:
        """A dict for each example: its "source", and either its "prediction" and what belongs to it, or its "error"."""
        columns = dict(self.columns)
        errors = columns.pop("error", None)
        rows = rows_of(columns)
        for place, error in enumerate(errors or ()):
            if error is not None:
                rows[place] = {"source": rows[place]["source"], "error": error}
        return rows
