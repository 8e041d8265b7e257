"""TableDataLoader: batches of the rows of a CSV file."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas

from base import BaseDataLoader, InMemoryDataset
from base.data.local_files import UNPACK_ERRORS, local_file, require_unpackable
from base.data.splits import split_samples
from utils.errors import UserError, brief, shortened, shown
from utils.nearest import did_you_mean

_FILLS = {None: np.nanmean, "mean": np.nanmean, "median": np.nanmedian}


class TableDataLoader(BaseDataLoader):
    """Batches of a CSV table's rows: (features (B, F) float32, target).

    The features are first the numeric columns, with mean 0 and standard deviation 1 over the training part, then the
    categorical columns as codes: from 1 on for the values in the training part, 0 for all others. The attribute
    columns names the features, num_codes counts the codes of each categorical column, and classes holds the class
    names of the whole file.

    path: a CSV file, perhaps compressed (.gz, .bz2, .xz, .zip).
    target: column to predict.
    task: "regression" for targets (B, 1) float32, "classification" for targets (B,) int64.
    test_path: the table to serve if training is False, prepared with the statistics of the training part of `path`.
    numeric, categorical: columns to use as features. Without both, all columns but the target and the groups are used,
        and those that hold only numbers are numeric.
    one_hot: give a column of 0 and 1 for each code from 1 on, instead of the code.
    fill: "mean" or "median" of the training part to replace missing numbers; a missing category becomes a category of
        its own. By default a missing value is refused.
    standardize_target: scale the regression target like the features.
    stratify: column; both parts of a split get the same share of each of its values.
    groups: column; a split keeps rows with the same value together.
    balance_classes: draw every class equally often in training.
    allow_urls: let path and test_path be http:// or https:// addresses too.

    The other arguments are those of BaseDataLoader. Raises UserError, naming the column and the row, for a value that
    does not fit.
    """

    fits_on_training_part = True

    def __init__(
        self,
        path: str,
        target: str,
        task: str,
        batch_size: int,
        shuffle: bool = True,
        validation_split: float = 0.0,
        num_workers: int = 0,
        training: bool = True,
        test_path: str | None = None,
        numeric: list[str] | None = None,
        categorical: list[str] | None = None,
        one_hot: bool = False,
        fill: str | None = None,
        standardize_target: bool = False,
        fold: str | None = None,
        stratify: str | None = None,
        groups: str | None = None,
        balance_classes: bool = False,
        device_resident: bool = False,
        allow_urls: bool = False,
    ) -> None:
        if task not in ("regression", "classification"):
            raise UserError(f"task: got {brief(task)}; it should be 'regression' or 'classification'")
        if fill not in _FILLS:
            raise UserError(f"fill: got {brief(fill)}; it should be 'mean' or 'median', or be left out")
        if balance_classes and task == "regression":
            raise UserError("balance_classes: a regression target has no classes; leave it out")
        if standardize_target and task == "classification":
            raise UserError("standardize_target: is for regression; leave it out")
        source, test_source = _source(path, "path", allow_urls), None
        if not training:
            if test_path is None:
                raise UserError("test_path: the config names no table to test on")
            test_source = _source(test_path, "test_path", allow_urls)
        table = Table(source, "path", target, task, numeric, categorical, stratify, groups)
        split_by = {"fold": fold, "stratify": table.labels(stratify), "groups": table.labels(groups)}
        train, _ = split_samples(len(table), validation_split, **split_by)
        encoding = Encoding(table, train, fill, one_hot)
        self.columns, self.num_codes = encoding.columns, [len(known) + 1 for known in encoding.categories]
        self.classes = sorted(set(table.labels(target)), key=_numbers_first) if task == "classification" else None
        mean, std = 0.0, 1.0
        if standardize_target:
            values = table.numbers([target])[train]
            mean, std = values.mean(), values.std() or 1.0
        if test_source is not None:
            table = Table(test_source, "test_path", target, task, table.numeric, table.categorical)
            validation_split, split_by = 0, {}
        if self.classes is None:
            targets = ((table.numbers([target]) - mean) / std).astype(np.float32)
        else:
            targets = pandas.Index(self.classes).get_indexer(table.labels(target)).astype(np.int64)
            table.require(target, targets >= 0, "is a class that the training table does not hold")
        super().__init__(
            InMemoryDataset(encoding.features(table), targets),
            batch_size,
            shuffle,
            validation_split,
            num_workers,
            device_resident=device_resident,
            balance_classes=targets if balance_classes else None,
            **split_by,
        )


class Table:
    """A CSV file's columns: numbers as numbers; categories, classes and groups as the text in the file.

    source: path or address of the file.
    argument: the loader's argument that names it, for messages.
    target, task, numeric, categorical, stratify, groups: as for TableDataLoader.

    Raises UserError for columns that do not exist or do not fit their use.
    """

    def __init__(
        self,
        source: str,
        argument: str,
        target: str,
        task: str,
        numeric: Sequence[str] | None,
        categorical: Sequence[str] | None,
        stratify: str | None = None,
        groups: str | None = None,
    ) -> None:
        self.place, self.data = shown(source), _read_csv(source, argument)
        labels = [column for column in (stratify, groups) if column is not None]
        asked = {"target": [target], "stratify": [stratify], "groups": [groups]}
        asked |= {"numeric": numeric or [], "categorical": categorical or []}
        for name, columns in asked.items():
            for column in columns:
                if column is not None and column not in self.data:
                    hint = did_you_mean(str(column), [*self.data.columns])
                    raise UserError(f"{name}: {self.place} has no column {brief(column)}{hint}")
        if numeric is None and categorical is None:
            features = [column for column in self.data.columns if column not in (target, groups)]
            numeric = [column for column in features if self._holds_numbers(column)]
            categorical = [column for column in features if column not in numeric]
        self.numeric, self.categorical = list(numeric or ()), list(categorical or ())
        used = [target, *self.numeric, *self.categorical]
        for column in used[1:]:
            if used.count(column) > 1:
                raise UserError(f"numeric: column {brief(column)} is named twice among target, numeric and categorical")
        if len(used) == 1:
            raise UserError(f"numeric: {self.place} has no columns to learn from; name some as numeric or categorical")
        text = [*self.categorical, *labels] + ([target] if task == "classification" else [])
        if text:  # read again as text, since 1 and 1.0, or true and True, are one number but two names
            texts = _read_csv(source, argument, usecols=lambda name: name in text, dtype=str)
            self.data = self.data.assign(**texts)
        for column in [target, *labels]:
            self.require(column, self.data[column].notna(), "is missing")

    def __len__(self) -> int:
        return len(self.data)

    def numbers(self, columns: Sequence[str]) -> np.ndarray:
        """Return the columns (N, C) float64, nan for missing values. Raises UserError for text and infinite numbers."""
        values = np.empty((len(self), len(columns)))
        for i, column in enumerate(columns):
            values[:, i] = _as_numbers(self.data[column])
            self.require(column, ~np.isnan(values[:, i]) | self.data[column].isna(), "is not a number")
            self.require(column, ~np.isinf(values[:, i]), "is infinite")
        return values

    def labels(self, column: str | None) -> Any:
        """Return the column's texts (N,), "" for missing ones; None for None."""
        return None if column is None else self.data[column].fillna("").to_numpy(object)

    def require(self, column: str, fits: Any, what: str, do: str = "") -> None:
        """Raise UserError for the first row, counted from 1 after the header, whose entry of fits (N,) is False.

        what: what is wrong with the value. do: what the user could do, after a "; ".
        """
        wrong = np.flatnonzero(~np.asarray(fits))
        if len(wrong):
            value = self.data[column].iloc[wrong[0]]
            given = "a value" if pandas.isna(value) else brief(value) if isinstance(value, str) else value
            more = f" (and in {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise UserError(f"{self.place}: row {wrong[0] + 1}{more}, column {brief(column)}: {given} {what}{do}")

    def _holds_numbers(self, column):
        """Whether all values are numbers. Raises UserError if only some are not, such as "?" for an unknown one."""
        values = self.data[column]
        if pandas.api.types.is_numeric_dtype(values) and not pandas.api.types.is_bool_dtype(values):
            return True
        stray = np.isnan(_as_numbers(values.astype(str))) & values.notna().to_numpy()
        if 0 < stray.sum() < values.notna().sum() / 2:
            row = stray.argmax()
            raise UserError(
                f"numeric: {self.place}: row {row + 1}, column {brief(column)}: {brief(values.iloc[row])} stands among "
                "numbers; fix it, or say with numeric and categorical what each column is"
            )
        return False


class Encoding:
    """How to make features of rows, learned from the training part of a table.

    table: the Table.
    train: (N,) indices of the rows of the training part.
    fill, one_hot: as for TableDataLoader.

    The attribute columns names the features; categories holds the known values of each categorical column.
    """

    def __init__(self, table: Table, train: np.ndarray, fill: str | None, one_hot: bool) -> None:
        self.numeric, self.categorical, self.fill, self.one_hot = table.numeric, table.categorical, fill, one_hot
        numbers = table.numbers(self.numeric)[train]
        for column, values in zip(self.numeric, numbers.T, strict=True):
            if np.isnan(values).all():
                raise UserError(
                    f"numeric: column {brief(column)} of {table.place} is empty in the training part; leave it out"
                )
        self.filled_with = _FILLS[fill](numbers, axis=0)
        numbers = np.where(np.isnan(numbers), self.filled_with, numbers)
        std = numbers.std(axis=0)
        self.mean, self.std = numbers.mean(axis=0), np.where(std > 0, std, 1.0)
        self.categories = [pandas.Index(np.unique(table.labels(column)[train])) for column in self.categorical]
        self.columns = [*self.numeric, *self.categorical]
        if one_hot:
            known = zip(self.categorical, self.categories, strict=True)
            self.columns = [*self.numeric, *(f"{column}={value}" for column, values in known for value in values)]

    def features(self, table: Table) -> np.ndarray:
        """Return the features (N, F) float32. Raises UserError for a missing value that is not to be filled."""
        if self.fill is None:
            for column in (*self.numeric, *self.categorical):
                table.require(column, table.data[column].notna(), "is missing", '; give "fill": "mean" or "median"')
        numbers = table.numbers(self.numeric)
        parts = [(np.where(np.isnan(numbers), self.filled_with, numbers) - self.mean) / self.std]
        for column, known in zip(self.categorical, self.categories, strict=True):
            codes = known.get_indexer(table.labels(column))[:, None] + 1
            parts.append(codes == np.arange(1, len(known) + 1) if self.one_hot else codes)
        return np.concatenate(parts, axis=1, dtype=np.float32)


def _source(path, argument, allow_urls):
    """The path of a file on this machine, or an address if allowed. Raises UserError for anything else."""
    if path.lower().startswith(("http://", "https://")):
        if allow_urls:
            return path
        raise UserError(f'{argument}: {shown(path)}: is an address; to read it all the same, give "allow_urls": true')
    return local_file(path, argument, "the table")


def _read_csv(source, argument, **how):
    place = f"{argument}: {shown(source)}"
    try:
        if "://" not in source:
            require_unpackable(source, argument)
        table = pandas.read_csv(source, **how)
    except UserError:
        raise
    except UNPACK_ERRORS as error:
        reason = getattr(error, "strerror", None) or shortened(error)
        raise UserError(f"{place}: cannot read the table: {reason}") from None
    except ValueError as error:  # the base class of pandas' own errors
        raise UserError(f"{place}: not a CSV table: {shortened(' '.join(str(error).split()))}") from None
    if len(table) == 0:
        raise UserError(f"{place} has no rows")
    return table


def _as_numbers(column: pandas.Series) -> np.ndarray:
    """The column (N,) float64; nan for what is missing or not a number."""
    return pandas.Series(pandas.to_numeric(column, errors="coerce")).to_numpy(np.float64)


def _numbers_first(name):
    """A sort key that puts "9" before "10", and both before "a"."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
