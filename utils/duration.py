"""Durations, as a config gives them: "2 epochs", "500 steps", "10000 samples", "5%" of the run, or a plain number."""

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
    """Whether it is a share of the run below all of it, which may come to all of a very short run."""
    return is_duration(duration) and duration.endswith("%") and float(duration[:-1]) < 100


@dataclass(frozen=True)
class RunLength:
    """How long a run is, by which durations are turned into other units. Raises UserError for what is no duration."""

    epochs: int
    len_epoch: int | None
    """Batches in an epoch, which durations call steps; None if nobody knows."""
    batch_size: int | None = None
    accumulate: int = 1
    """Batches for each update."""

    def in_batches(self, duration: str | float) -> int:
        """The duration in batches, at least as long as it says; a plain number is one of epochs."""
        if isinstance(duration, (int, float)) and not isinstance(duration, bool) and duration >= 0:
            number, unit = duration, "epoch"
        elif is_duration(duration):
            number, unit = re.fullmatch(FORM, duration).groups()
        else:
            raise UserError(f"got {brief(duration)}; {WANTED}")
        size = {
            "epoch": self.len_epoch,
            "step": 1,
            "sample": self.batch_size and 1 / self.batch_size,
            "%": self.len_epoch and self.epochs * self.len_epoch / 100,
        }[unit]
        if size is None:
            raise UserError(f"got {brief(duration)}; of this data_loader nobody knows how many batches that is")
        return math.ceil(round(float(number) * size, 6))

    def in_epochs(self, duration: str | float) -> int:
        """The duration in whole epochs, at least as long as it says."""
        if isinstance(duration, int) and not isinstance(duration, bool) and duration >= 0:
            return duration
        if is_duration(duration) and self.len_epoch is None:
            number, unit = re.fullmatch(FORM, duration).groups()
            share = {"epoch": 1, "%": self.epochs / 100}.get(unit)
            if share is not None:
                return math.ceil(round(float(number) * share, 6))
        return math.ceil(self.in_batches(duration) / (self.len_epoch or 1))

    def in_updates(self, duration: str | float) -> int:
        """The duration in updates of the parameters."""
        epochs, batches = divmod(self.in_batches(duration), self.len_epoch or math.inf)
        in_epoch = math.ceil(self.len_epoch / self.accumulate) if self.len_epoch else 0
        return int(epochs * in_epoch) + math.ceil(batches / self.accumulate)
