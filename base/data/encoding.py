"""How a table's rows become tensors: learned from its training part, and kept with the model that is trained on it."""

import dataclasses
from typing import Any, Self

import numpy as np
import pandas

from base.data.column_kinds import Kinds
from base.data.table_file import Table
from utils.errors import UserError, brief

FILLS = {None: np.nanmean, "mean": np.nanmean, "median": np.nanmedian}

_EQUAL = 1e-12  # values whose range, relative to the largest, is not above this differ by rounding alone
_MIN_ROWS = 10  # of a table in which a column without a single known category is a mistake


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How to make features of rows. It is made by fit(), or by from_state() without any table.

    numeric, categorical: the columns; the features are first these, then those.
    mean, std: of each numeric column; a std of 0 marks a column that is constant, whose feature is 0.
    filled_with: what replaces a missing value of each numeric column.
    categories: of each categorical column the values with the codes 1, 2 and so on. All others have the code 0.
    fill, one_hot: as for TableDataLoader.
    """

    numeric: list[str]
    categorical: list[str]
    mean: list[float]
    std: list[float]
    filled_with: list[float]
    categories: list[list[str]]
    fill: str | None
    one_hot: bool

    @classmethod
    def fit(cls, table: Table, train: np.ndarray, kinds: Kinds, fill: str | None, one_hot: bool) -> Self:
        """Return the encoding learned from the rows `train` (indices) of a table.

        Raises UserError for a column without any number in them, and for one that does not fit its kind.
        """
        table.read_texts(kinds.categorical)
        numbers = table.numbers(kinds.numeric)[train]
        for column, values in zip(kinds.numeric, numbers.T, strict=True):
            if np.isnan(values).all():
                raise UserError(
                    f"numeric: column {brief(column)} of {table.place} is empty in the training part; leave it out"
                )
        filled_with = FILLS[fill](numbers, axis=0)
        mean, std = scale_of(np.where(np.isnan(numbers), filled_with, numbers))
        categories = [np.unique(table.texts(column)[train]).tolist() for column in kinds.categorical]
        found = mean.tolist(), std.tolist(), filled_with.tolist(), categories
        return cls(kinds.numeric, kinds.categorical, *found, fill, one_hot)

    @classmethod
    def from_state(cls, state: Any) -> Self:
        """Return the encoding whose state_dict() this is. Raises UserError if it is none."""
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(state, dict) or sorted(state) != sorted(names):
            raise _foreign()
        encoding = cls(**state)
        per_column = [(encoding.numeric, str)]
        per_column += [(values, float) for values in (encoding.mean, encoding.std, encoding.filled_with)]
        texts = [encoding.categorical, *encoding.categories] if _is_list(encoding.categories, list) else [None]
        if (
            not all(_is_list(values, kind) and len(values) == len(encoding.numeric) for values, kind in per_column)
            or not all(_is_list(values, str) for values in texts)
            or len(encoding.categorical) != len(encoding.categories)
            or encoding.fill not in (None, "mean", "median")
            or not isinstance(encoding.one_hot, bool)
        ):
            raise _foreign()
        return encoding

    def state_dict(self) -> dict[str, Any]:
        """Return all that from_state() needs, as plain values."""
        return dataclasses.asdict(self)

    @property
    def columns(self) -> list[str]:
        """The features' names."""
        if not self.one_hot:
            return [*self.numeric, *self.categorical]
        known = zip(self.categorical, self.categories, strict=True)
        return [*self.numeric, *(f"{column}={value}" for column, values in known for value in values)]

    @property
    def constant(self) -> list[str]:
        """The columns that are constant in the training part."""
        numeric = [column for column, std in zip(self.numeric, self.std, strict=True) if std == 0]
        return numeric + [c for c, values in zip(self.categorical, self.categories, strict=True) if len(values) == 1]

    def features(self, table: Table) -> np.ndarray:
        """Return the features (N, F) float32.

        Raises UserError for a missing value that is not to be filled, for a number out of all proportion, and for a
        column of a larger table without a single known category.
        """
        table.read_texts(self.categorical)
        numbers = table.numbers(self.numeric)
        if self.fill is None:
            missing = [*np.isnan(numbers).T, *(table.texts(column) == "" for column in self.categorical)]
            for column, is_missing in zip([*self.numeric, *self.categorical], missing, strict=True):
                table.require(column, ~is_missing, "is missing", '; give "fill": "mean" or "median"')
        std = np.array(self.std)
        with np.errstate(over="ignore"):
            scaled = (np.where(np.isnan(numbers), self.filled_with, numbers) - self.mean) / np.where(std > 0, std, 1.0)
            scaled = np.where(std > 0, scaled, 0.0).astype(np.float32)
        for column, values in zip(self.numeric, scaled.T, strict=True):
            table.require(column, np.isfinite(values), "is out of all proportion to the training part")
        parts = [scaled]
        for column, codes, known in zip(self.categorical, self.codes(table), self.categories, strict=True):
            if len(table) >= _MIN_ROWS and not codes.any():
                names = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
                table.require(
                    column, codes > 0, f"is no category of the training part; its categories are {brief(names)}"
                )
            parts.append(codes[:, None] == np.arange(1, len(known) + 1) if self.one_hot else codes[:, None])
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def codes(self, table: Table) -> list[np.ndarray]:
        """Return the codes (N,) of each categorical column."""
        pairs = zip(self.categorical, self.categories, strict=True)
        return [pandas.Index(known, dtype=object).get_indexer(table.texts(column)) + 1 for column, known in pairs]


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
        if not isinstance(target.column, str) or not numbers or not _is_list(target.classes or [], str):
            raise _foreign()
        return target

    def state_dict(self) -> dict[str, Any]:
        """Return all that from_state() needs, as plain values."""
        return dataclasses.asdict(self)

    def values(self, table: Table, known: str) -> np.ndarray:
        """Return the targets: (N, 1) float32, or (N,) int64 for classes.

        known: who knows the classes, for the UserError for one that is not among them.
        """
        if self.classes is not None:
            codes = pandas.Index(self.classes, dtype=object).get_indexer(table.texts(self.column))
            table.require(self.column, table.texts(self.column) != "", "is missing")
            table.require(self.column, codes >= 0, f"is a class that {known}")
            return codes.astype(np.int64)
        numbers = _target_numbers(table, self.column)
        table.require(self.column, ~np.isnan(numbers[:, 0]), "is missing")
        with np.errstate(over="ignore"):
            targets = ((numbers - self.mean) / self.std).astype(np.float32)
        table.require(self.column, np.isfinite(targets[:, 0]), "is too large for float32")
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
    return table.numbers([column], "" if has_numbers else '; for classes give "task": "classification"')


def _classes(table, column):
    texts = table.texts(column)
    table.require(column, texts != "", "is missing")
    classes = sorted(set(texts), key=_numbers_first)
    if len(texts) >= 2 * _MIN_ROWS and 2 * len(classes) > len(texts):
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


def _is_list(values, kind):
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _foreign():
    return UserError("data_loader: the checkpoint holds no encoding of a table that this version can read")
