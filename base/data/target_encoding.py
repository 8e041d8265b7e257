"""What a table's rows are to be predicted as: numbers, perhaps scaled, or classes; kept with the model."""

import dataclasses
from typing import Any, Self

import numpy as np
import pandas

from base.data.table_file import IN_USE, Table
from utils.errors import UserError, brief

_EQUAL = 1e-12  # values whose range, relative to the largest, is not above this differ by rounding alone
_MIN_ROWS = 20  # of a table that can tell numbers from classes


@dataclasses.dataclass(frozen=True)
class TargetEncoding:
    """What to predict: the numbers of a column, scaled by mean and std, or its texts as the indices of classes."""

    column: str
    classes: list[str] | None = None
    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def fit(cls, table: Table, train: np.ndarray, column: str, task: str, standardize: bool) -> Self:
        """Return the classes of the whole table, or the scale of its rows `train`. task: as for TableDataLoader."""
        if task == "classification":
            return cls(column, classes=_classes(table, column))
        if not standardize:
            return cls(column)
        mean, std = map(float, scale_of(_target_numbers(table, column)[train, 0]))
        if std == 0:
            raise UserError(
                f"standardize_target: column {brief(column)} of {table.place} is the same in all rows to train on"
            )
        return cls(column, mean=mean, std=std)

    @classmethod
    def from_state(cls, state: Any) -> Self:
        """Return the encoding whose state_dict() this is. Raises UserError if it is none."""
        if not isinstance(state, dict) or sorted(state) != sorted(field.name for field in dataclasses.fields(cls)):
            raise _foreign()
        target = cls(**state)
        numbers = isinstance(target.mean, float) and isinstance(target.std, float) and target.std > 0
        if not isinstance(target.column, str) or not numbers or not is_list(target.classes or [], str):
            raise _foreign()
        return target

    def state_dict(self) -> dict[str, Any]:
        """Return all that from_state() needs, as plain values."""
        return dataclasses.asdict(self)

    def values(self, table: Table, known: str, optional: bool = False) -> np.ndarray:
        """Return the targets: (N, 1) float32, or (N,) int64 for classes.

        known: who knows the classes, for the UserError for one that is not among them.
        optional: a missing target is nan, or -1, and not refused.
        """
        if self.classes is not None:
            texts = table.texts(self.column)
            codes = pandas.Index(self.classes, dtype=object).get_indexer(texts)
            table.require(self.column, optional | (texts != ""), "is missing")
            table.require(self.column, (codes >= 0) | (texts == ""), f"is a class that {known}")
            return codes.astype(np.int64)
        numbers = _target_numbers(table, self.column)
        missing = np.isnan(numbers[:, 0])
        table.require(self.column, optional | ~missing, "is missing")
        with np.errstate(over="ignore"):
            targets = ((numbers - self.mean) / self.std).astype(np.float32)
        table.require(self.column, missing | np.isfinite(targets[:, 0]), "is too large for float32")
        return targets


def scale_of(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means and the standard deviations (...) of numbers (N, ...) over N; 0 for a constant column."""
    largest = np.abs(numbers).max(axis=0, initial=0)
    constant = np.ptp(numbers, axis=0) <= _EQUAL * largest
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        mean, std = numbers.mean(axis=0), numbers.std(axis=0)
        extreme = ~constant & ~((std > 0) & np.isfinite(std))  # squares of such numbers are too large or too small
        unit = np.where(extreme, largest, 1.0)
        mean = np.where(extreme, (numbers / unit).mean(axis=0) * unit, mean)
        std = np.where(extreme, (numbers / unit).std(axis=0) * unit, std)
    return mean, np.where(constant, 0.0, std)


def _target_numbers(table, column):
    has_numbers = table.are_numbers(column)[0].any()
    is_known = has_numbers or table.argument == IN_USE
    return table.numbers([column], "" if is_known else '; for classes give "task": "classification"')


def _classes(table, column):
    texts = table.texts(column)
    table.require(column, texts != "", "is missing")
    classes = sorted(set(texts), key=_numbers_first)
    if len(texts) >= _MIN_ROWS and 2 * len(classes) > len(texts):
        raise UserError(
            f"target: column {brief(column)} of {table.place} has {len(classes)} classes in {len(texts)} rows; "
            'for numbers give "task": "regression"'
        )
    return classes


def _numbers_first(name):
    """A sort key that puts "9" before "10", and both before "a"."""
    try:
        number = float(name)
    except ValueError:
        return 1, 0.0, name
    return (0, number, name) if np.isfinite(number) else (1, 0.0, name)


def is_list(values: Any, kind: type) -> bool:
    """Whether it is a list of nothing else."""
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _foreign():
    return UserError("data_loader: the checkpoint holds no target of a table that this version can read")
