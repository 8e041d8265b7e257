"""YOURS: tables in CSV files, named in a config as "tables.TableDataLoader"."""

from dataclasses import dataclass

import numpy as np
import pandas

from base import BaseDataLoader, InMemoryDataset
from base.data.local_files import UNPACK_ERRORS, local_file, require_unpackable
from base.data.splits import split_samples
from utils import UserError
from utils.errors import brief, shortened, shown
from utils.nearest import did_you_mean

_TASKS = ("regression", "classification")
_FILLS = {"mean": np.nanmean, "median": np.nanmedian}


class TableDataLoader(BaseDataLoader):
    """Batches of a CSV table's rows: (features (B, F) float32, target).

    The target is (B, 1) float32 for the task "regression", (B,) int64 for "classification", whose classes, in the
    attribute classes, are those of the whole file. The features are first the numeric columns, with the mean 0 and the
    standard deviation 1 over the training part, then the categorical ones as codes: 0 for what the training part does
    not hold, else from 1 on; the attribute columns names them all, and num_codes says how many codes each has.

    numeric, categorical: names of columns. Without both, all are features but the target and the groups, and which are
    numeric is seen from what they hold. one_hot: a 0 or 1 for each code from 1 on, instead of the code. fill: "mean"
    or "median" of the training part for numbers that are missing, while a missing category is one of its own; by
    default they are refused. standardize_target: give the regression target the mean 0 and the deviation 1 as well.
    path: a CSV file, perhaps compressed (.gz, .bz2, .xz, .zip). test_path: the table that training=False serves; it is
    prepared by what the training part of path holds. allow_urls: let both be http:// or https:// addresses too.

    stratify: column of which both parts of a split hold the same shares. groups: column whose equal values stay
    together in a split. fold: "3/5" validates on the third of five parts. balance_classes: draw every class equally
    often. device_resident: keep the table on the GPU.
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
    ):
        _require_choices(task, fill, balance_classes, standardize_target)
        if not training and test_path is None:
            raise UserError("test_path: the config names no table to test on")
        source = _source(path, "path", allow_urls)
        table = Table.read(source, target, task, numeric, categorical, stratify, groups)
        split_by = {"fold": fold, "stratify": table.labels(stratify), "groups": table.labels(groups)}
        train, _ = split_samples(len(table), validation_split, **split_by)
        encoding = Encoding.fit(table, train, fill)
        self.classes = sorted(set(table.labels(target)), key=_numbers_first) if task == "classification" else None
        scale = _scale(table, train) if standardize_target else (0.0, 1.0)
        self.columns, self.num_codes = encoding.columns(one_hot), [len(known) + 1 for known in encoding.categories]
        if not training:
            source = _source(test_path, "test_path", allow_urls)
            table = Table.read(source, target, task, table.numeric, table.categorical, argument="test_path")
        targets = _codes_of(table, self.classes) if self.classes else (table.numbers([target]) - scale[0]) / scale[1]
        super().__init__(
            InMemoryDataset(
                encoding.features(table, one_hot), targets.astype(np.int64 if self.classes else np.float32)
            ),
            batch_size,
            shuffle,
            validation_split if training else 0,
            num_workers,
            device_resident=device_resident,
            balance_classes=targets if balance_classes else None,
            **(split_by if training else {}),
        )


@dataclass
class Table:
    """A CSV file's columns: numbers as such, and categories, classes and groups as the text that stands there."""

    place: str
    data: pandas.DataFrame
    target: str
    numeric: list
    categorical: list

    @classmethod
    def read(cls, path, target, task, numeric, categorical, stratify=None, groups=None, argument="path"):
        """Raises UserError for columns that are not there, and numbers that are none."""
        data, place = _read_csv(path, argument), shown(path)
        asked = {"target": [target], "stratify": [stratify], "groups": [groups]}
        asked |= {"numeric": numeric or [], "categorical": categorical or []}
        for name, columns in asked.items():
            for column in columns:
                if column is not None and column not in data.columns:
                    raise UserError(
                        f"{name}: {place} has no column {brief(column)}{did_you_mean(str(column), [*data.columns])}"
                    )
        if numeric is None and categorical is None:
            features = [column for column in data.columns if column not in (target, groups)]
            numeric = [column for column in features if _holds_numbers(data[column])]
            categorical = [column for column in features if column not in numeric]
            for column in categorical:
                _refuse_stray_text(place, data[column])
        numeric, categorical = list(numeric or ()), list(categorical or ())
        for column in (*numeric, *categorical):
            if [target, *numeric, *categorical].count(column) > 1:
                raise UserError(f"numeric: column {brief(column)} is named twice among target, numeric and categorical")
        if not numeric and not categorical:
            raise UserError(f"numeric: {place} has no columns to learn from; name some as numeric or categorical")
        text = [*categorical, *(column for column in (stratify, groups) if column)]
        text += [target] if task == "classification" else []
        if text:  # read again, since 1 and 1.0, or true and True, are one number and two names
            data = data.assign(**_read_csv(path, argument, usecols=lambda name: name in text, dtype=str))
        table = cls(place, data, target, numeric, categorical)
        for column in (column for column in (target, stratify, groups) if column):
            table.require(column, data[column].notna(), "is missing")
        return table

    def __len__(self):
        return len(self.data)

    def numbers(self, columns):
        """(N, number of columns) float64; nan where one is missing. Raises UserError for text and infinite numbers."""
        values = np.empty((len(self), len(columns)))
        for i, column in enumerate(columns):
            values[:, i] = pandas.to_numeric(self.data[column], errors="coerce")
            self.require(column, ~np.isnan(values[:, i]) | self.data[column].isna(), "is no number")
            self.require(column, ~np.isinf(values[:, i]), "is infinite")
        return values

    def labels(self, column):
        """(N,) the column's texts; None for None. A missing one is ""."""
        return None if column is None else self.data[column].fillna("").to_numpy(object)

    def require(self, column, fits, what, do=""):
        """Raise UserError, naming the first row, counted from 1 behind the header, in which the column does not fit."""
        wrong = np.flatnonzero(~np.asarray(fits))
        if len(wrong):
            value = self.data[column].iloc[wrong[0]]
            given = "a value" if pandas.isna(value) else brief(value) if isinstance(value, str) else value
            more = f" (and in {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise UserError(f"{self.place}: row {wrong[0] + 1}{more}, column {brief(column)}: {given} {what}{do}")


@dataclass
class Encoding:
    """What the training part says of how to prepare rows."""

    numeric: list
    categorical: list
    fill: str | None
    filled_with: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    categories: list

    @classmethod
    def fit(cls, table, train, fill):
        """The encoding of the rows `train` of the table."""
        numbers = table.numbers(table.numeric)[train]
        for column, is_there in zip(table.numeric, ~np.isnan(numbers).all(axis=0), strict=True):
            if not is_there:
                raise UserError(
                    f"numeric: column {brief(column)} of {table.place} is empty in the training part; leave it out"
                )
        filled_with = _FILLS[fill or "mean"](numbers, axis=0)
        numbers = np.where(np.isnan(numbers), filled_with, numbers)
        std = numbers.std(axis=0)
        categories = [pandas.Index(np.unique(table.labels(column)[train])) for column in table.categorical]
        return cls(
            table.numeric,
            table.categorical,
            fill,
            filled_with,
            numbers.mean(axis=0),
            np.where(std > 0, std, 1.0),
            categories,
        )

    def features(self, table, one_hot):
        """(N, F) float32. Raises UserError for a value that is missing, unless it is to be filled."""
        if self.fill is None:
            for column in (*self.numeric, *self.categorical):
                table.require(column, table.data[column].notna(), "is missing", '; give "fill": "mean" or "median"')
        numbers = table.numbers(self.numeric)
        parts = [(np.where(np.isnan(numbers), self.filled_with, numbers) - self.mean) / self.std]
        for column, known in zip(self.categorical, self.categories, strict=True):
            codes = known.get_indexer(table.labels(column)) + 1
            parts.append(codes[:, None] == np.arange(1, len(known) + 1) if one_hot else codes[:, None])
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def columns(self, one_hot):
        """Names of the features."""
        categorical = zip(self.categorical, self.categories, strict=True)
        if not one_hot:
            return [*self.numeric, *self.categorical]
        return [*self.numeric, *(f"{column}={value}" for column, known in categorical for value in known)]


def _require_choices(task, fill, balance_classes, standardize_target):
    if task not in _TASKS:
        raise UserError(f"task: got {brief(task)}; it should be 'regression' or 'classification'")
    if fill is not None and fill not in _FILLS:
        raise UserError(f"fill: got {brief(fill)}; it should be 'mean' or 'median', or be left out")
    if balance_classes and task == "regression":
        raise UserError("balance_classes: a regression target has no classes; leave it out")
    if standardize_target and task == "classification":
        raise UserError("standardize_target: is for regression; leave it out")


def _source(path, argument, allow_urls):
    """The path of a table on this machine, or an address where that is allowed. Raises UserError for anything else."""
    if path.lower().startswith(("http://", "https://")):
        if allow_urls:
            return path
        raise UserError(f'{argument}: {shown(path)}: is an address; to read it all the same, give "allow_urls": true')
    return local_file(path, argument, "the table")


def _read_csv(path, argument, **how):
    place = f"{argument}: {shown(path)}"
    try:
        if "://" not in path:
            require_unpackable(path, argument)
        table = pandas.read_csv(path, **how)
    except UserError:
        raise
    except UNPACK_ERRORS as error:
        reason = getattr(error, "strerror", None) or shortened(error)
        raise UserError(f"{place}: cannot read the table: {reason}") from None
    except ValueError as error:  # pandas' own errors are such
        raise UserError(f"{place}: not a CSV table: {shortened(' '.join(str(error).split()))}") from None
    if len(table) == 0:
        raise UserError(f"{place} has no rows")
    return table


def _holds_numbers(column):
    return pandas.api.types.is_numeric_dtype(column) and not pandas.api.types.is_bool_dtype(column)


def _refuse_stray_text(place, column):
    """Raise UserError for a column of numbers with a text among them, as "?" for one that is not known."""
    stray = pandas.to_numeric(column.astype(str), errors="coerce").isna() & column.notna()
    if 0 < stray.sum() < column.notna().sum() / 2:
        row = int(stray.to_numpy().argmax())
        raise UserError(
            f"numeric: {place}: row {row + 1}, column {brief(column.name)}: {brief(column.iloc[row])} stands among "
            "numbers; mend it, or say with numeric and categorical what each column is"
        )


def _scale(table, train):
    """(mean, standard deviation) of the training part's target."""
    values = table.numbers([table.target])[train]
    return values.mean(), values.std() or 1.0


def _codes_of(table, classes):
    """(N,) number of each row's class."""
    codes = pandas.Index(classes).get_indexer(table.labels(table.target))
    table.require(table.target, codes >= 0, "is a class that the training table does not hold")
    return codes


def _numbers_first(name):
    """Orders "9" before "10", and both before "a"."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
