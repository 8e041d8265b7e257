"""Examples: raw examples with their names, the targets that are known, and the errors of those that cannot be read."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from utils.errors import UserError


@dataclasses.dataclass
class Examples:
    """Some examples that follow one another in a source.

    names: of each, such as "a.png", or "rows.npy:0" for one of many in a file.
    raw: (B, ...) the raw examples of those that could be read.
    errors: {place among the names: the UserError} of the others.
    target: (B, ...) of those that could be read, as a data loader gives it; class -1 and nan are unknown. None if there
        are no targets.
    """

    names: Sequence[Any]
    raw: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    errors: dict[int, UserError] = dataclasses.field(default_factory=dict)
    target: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    def part(self, start: int, end: int) -> "Examples":
        """Return the examples from start to end; arrays share the memory."""
        errors = {place - start: error for place, error in self.errors.items() if start <= place < end}
        begin = start - sum(place < start for place in self.errors)
        rows = slice(begin, begin + min(end, len(self)) - start - len(errors))
        target = None if self.target is None else self.target[rows]
        return Examples(self.names[start:end], self.raw[rows], errors, target)

    def all_wrong(self, error: UserError) -> "Examples":
        """Return the examples with an error for each of those that could be read."""
        errors = {place: UserError(f"{name}: {error}") for place, name in enumerate(self.names)}
        return Examples(self.names, errors=errors | self.errors)

    @classmethod
    def joined(cls, parts: "Sequence[Examples]") -> "Examples":
        """Return the examples of all parts, of which all or none have targets. Raises UserError for unequal shapes."""
        if len(parts) == 1:
            return parts[0]
        found, names, errors = [part for part in parts if len(part.raw)], [], {}
        for part in parts:
            errors |= {len(names) + place: error for place, error in part.errors.items()}
            names += part.names
        shapes = list(dict.fromkeys(part.raw.shape[1:] for part in found))
        if len(shapes) > 1:
            raise UserError(f"raw examples of shape {shapes[0]} and {shapes[1]}; give all the same shape")
        targets = [part.target for part in found if part.target is not None]
        raw = np.concatenate([part.raw for part in found]) if found else np.empty(0)
        return cls(names, raw, errors, np.concatenate(targets) if targets else None)


def in_batches(parts: Iterable[Examples], batch_size: int) -> Iterator[Examples]:
    """Yield the examples of the parts again, batch_size at a time, and fewer where their kind changes.

    The kind is the shape and the dtype of the raw examples, and whether they have targets.
    """
    held, number, kind = [], 0, None
    for part in parts:
        if len(part.raw):
            own = part.raw.shape[1:], part.raw.dtype, part.target is not None
            if held and kind not in (None, own):
                yield Examples.joined(held)
                held, number = [], 0
            kind = own
        start = 0
        while start < len(part):
            piece = part.part(start, start + batch_size - number)
            held.append(piece)
            start, number = start + len(piece), number + len(piece)
            if number == batch_size:
                yield Examples.joined(held)
                held, number = [], 0
    if held:
        yield Examples.joined(held)
