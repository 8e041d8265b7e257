"""Durations as a config writes them: "2 epochs", "500 steps", "10000 samples", "5%" of the run, or a plain number.

A step is an optimizer step, which takes several batches with trainer.accumulate.
"""

import math
import re
from dataclasses import dataclass

from utils.errors import UserError, brief

FORM = r"(\d{1,12}(?:\.\d+)?) *(epoch|step|sample|%)s?"
WANTED = 'a duration is such as "2 epochs", "500 steps", "10000 samples" or "5%"'


def is_duration(value: object) -> bool:
    """Whether it is the text of a duration, such as "500 steps"."""
    return isinstance(value, str) and re.fullmatch(FORM, value) is not None


def is_part(duration: object) -> bool:
    """Whether it is a share below 100%, which may still be all of a very short run."""
    return is_duration(duration) and str(duration).endswith("%") and float(str(duration)[:-1]) < 100


@dataclass(frozen=True)
class RunLength:
    """The length of a run, which converts durations into other units. Raises UserError for a value of another form."""

    epochs: int
    len_epoch: int | None
    """Batches in an epoch; None if that is unknown."""
    batch_size: int | None = None
    accumulate: int = 1
    """Batches per optimizer step; the last step of an epoch may have fewer."""

    def in_batches(self, duration: str | float) -> int:
        """Return the duration in batches, rounded up; a plain number counts epochs."""
        number, unit = _parsed(duration)
        if unit == "step":
            steps = _rounded_up(number)
            epochs, rest = divmod(steps, self._steps_in_epoch) if self.len_epoch else (0, steps)
            return epochs * (self.len_epoch or 0) + rest * self.accumulate
        size = {
            "epoch": self.len_epoch,
            "sample": self.batch_size and 1 / self.batch_size,
            "%": self.len_epoch and self.epochs * self.len_epoch / 100,
        }[unit]
        if size is None:
            raise UserError(
                f"got {brief(duration)}; the number of batches in an epoch is unknown, so it cannot be converted"
            )
        return _rounded_up(number * size)

    def in_epochs(self, duration: str | float) -> int:
        """Return the duration in whole epochs, rounded up."""
        number, unit = _parsed(duration)
        share = {"epoch": 1, "%": self.epochs / 100}.get(unit)
        if self.len_epoch is None and share is not None:
            return _rounded_up(number * share)
        return math.ceil(self.in_batches(duration) / (self.len_epoch or 1))

    def in_updates(self, duration: str | float) -> int:
        """Return the duration in optimizer steps, rounded up."""
        number, unit = _parsed(duration)
        if unit == "step":
            return _rounded_up(number)
        return self.updates_for(self.in_batches(duration))

    def updates_for(self, batches: int) -> int:
        """Return the number of optimizer steps that so many batches take, rounded up."""
        epochs, rest = divmod(batches, self.len_epoch or math.inf)
        return int(epochs * self._steps_in_epoch) + math.ceil(rest / self.accumulate)

    @property
    def _steps_in_epoch(self):
        return math.ceil(self.len_epoch / self.accumulate) if self.len_epoch else 0


def _parsed(duration):
    """(number, unit) of a duration. Raises UserError for a value of another form."""
    if isinstance(duration, (int, float)) and not isinstance(duration, bool) and duration >= 0:
        return duration, "epoch"
    found = re.fullmatch(FORM, duration) if isinstance(duration, str) else None
    if found is None:
        raise UserError(f"got {brief(duration)}; {WANTED}")
    number, unit = found.groups()
    return float(number), unit


def _rounded_up(number):
    return math.ceil(round(number, 6))  # 0.3 * 10 is a little more than 3
