"""TableDataLoader: batches of the rows of a CSV file."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from base import BaseDataLoader, InMemoryDataset
from base.data.column_kinds import found_kinds, given_kinds, kind_lines
from base.data.encoding import FILLS, TRAINED_ON, TableInput, fit_input
from base.data.inputs import build_input
from base.data.splits import samples_to_serve, split_samples
from base.data.table_file import Table, table_source
from base.data.table_format import TableFormat
from base.data.target_encoding import TargetEncoding
from utils.errors import UserError, brief, quantity


class TableDataLoader(BaseDataLoader):
    """Batches of a CSV table's rows: (features (B, F) float32, target).

    The features are first the numeric columns, with mean 0 and standard deviation 1 over the training part, then the
    categorical columns as codes: from 1 on for the values in the training part, 0 for all others. A column that is
    constant over the training part is 0. The attribute columns names the features, num_codes counts the codes of each
    categorical column, and classes holds the class names of the whole file.

    These means, deviations, codes and classes are the loader's state: they are in every checkpoint, and what is made of
    a row later, in another run of the program, is a function of them and not of today's training table. Beside a
    TableDataLoader to train on, one to validate uses the state of that one.

    path: a CSV file, perhaps compressed (.gz, .bz2, .xz, .zip).
    target: column to predict.
    task: "regression" for targets (B, 1) float32, "classification" for targets (B,) int64.
    test_path: the table to serve if training is False, prepared with the statistics of the training part of `path`,
        which is read only if no state is loaded.
    numeric, categorical: columns to use as features. Without both, all columns but the target, the groups and empty
        columns are used, and those that hold only numbers are numeric.
    leave_out: columns not to use, if numeric and categorical are not given.
    one_hot: give a column of 0 and 1 for each code from 1 on, instead of the code.
    fill: "mean" or "median" of the training part to replace missing numbers; a missing category becomes a category of
        its own. By default a missing value is refused.
    standardize_target: scale the regression target like the features.
    stratify: column; both parts of a split get the same share of each of its values.
    groups: column; a split keeps rows with the same value together.
    test_split: share of the rows, or their number, to set aside as test data, if test_path names none.
    balance_classes: draw every class equally often in training.
    allow_urls: let path and test_path be http:// or https:// addresses too.
    separator: the character between two values.
    decimal, thousands: the characters at the decimal point and between groups of three digits.
    missing: texts that stand for a missing value, in all columns. An empty cell always does; NA, NULL, None and nan do
        so in columns of numbers, and are values in columns of texts.
    encoding: of the file's text, such as "latin-1".

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
        leave_out: list[str] | None = None,
        separator: str = ",",
        decimal: str = ".",
        thousands: str | None = None,
        missing: list[str] | None = None,
        encoding: str = "utf-8",
        drop_last: bool = False,
        test_split: float = 0.0,
    ) -> None:
        if task not in ("regression", "classification"):
            raise UserError(f"task: got {brief(task)}; it should be 'regression' or 'classification'")
        if fill not in FILLS:
            raise UserError(f"fill: got {brief(fill)}; it should be 'mean' or 'median', or be left out")
        if balance_classes and task == "regression":
            raise UserError("balance_classes: a regression target has no classes; leave it out")
        if standardize_target and task == "classification":
            raise UserError("standardize_target: is for regression; leave it out")
        form = TableFormat(separator, decimal, thousands, tuple(missing or ()), encoding)
        self._task, self._standardize_target = task, standardize_target
        self._numeric, self._categorical, self._leave_out = numeric, categorical, leave_out or []
        self._fill, self._one_hot = fill, one_hot
        self._target, self._stratify, self._groups = target, stratify, groups
        self._split = {"validation_split": validation_split, "fold": fold}
        self._test_split, self._test_path = test_split, test_path
        self._read_training = functools.partial(_read, path, "path", form, allow_urls)
        self._read = self._read_training
        if not training and not test_split:
            if test_path is None:
                raise UserError("test_path: the config names no table to test on")
            self._read = functools.partial(_read, test_path, "test_path", form, allow_urls)
        self._form = form
        self._input: TableInput | None = None
        self._output: TargetEncoding | None = None
        self._known_to = "the training table does not hold"
        self._lines: list[str] = []
        self._served: Table | None = self._read()
        rows, split_by, classes = _Rows(len(self._served), self._encoded), {}, None
        if training:
            self._fit(self._served)
            split_by = {"fold": fold, **self._labels(self._served)}
            classes = rows.arrays[1] if balance_classes else None
        if training or test_split:
            split_by["samples"] = self._part(self._served, training)
        super().__init__(
            rows,
            batch_size,
            shuffle,
            validation_split if training else 0,
            num_workers,
            device_resident=device_resident,
            drop_last=drop_last,
            balance_classes=classes,
            **split_by,
        )
        if training:
            self._rows.read()

    @property
    def columns(self) -> list[str]:
        """The features' names."""
        return self.input.columns

    @property
    def num_codes(self) -> list[int]:
        """The number of codes of each categorical column, with the code 0."""
        return [len(known) + 1 for known in self.input.categories]

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes; None for regression."""
        return self._target_encoding.classes

    def describe_data(self) -> list[str]:
        """Return up to three lines on how the table's columns are read."""
        self._rows.read()
        return list(self._lines)

    def state_dict(self) -> dict[str, Any]:
        """Return the base class's state, with the input that makes the features, and what the targets are."""
        return super().state_dict() | {"output": self._target_encoding.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make features and targets as a state says; a state of an earlier version says nothing of them.

        Raises UserError if the table lacks a column of the state or holds a class that it does not know, and if an
        argument of the loader asks for something else.
        """
        if "input" in state or "output" in state:
            given = build_input(state.get("input") or {})
            if not isinstance(given, TableInput):
                raise UserError(f"the checkpoint's input is a {type(given).__name__}, and not that of a table")
            target = TargetEncoding.from_state(state.get("output"))
            self._require_same(given, target)
            given = given.changed(form=self._form.arguments(), fill=given.fill or self._fill)
            self._known_to = "the model does not know; train a new one on this table"
            if self._input is None or (given.spec(), target) != (self._input.spec(), self._output):
                self._input, self._output = given, target
                self._rows.replace(*self._encoded())
        super().load_state_dict(state)

    def validation_loader(self, sampler: Sampler) -> DataLoader:
        """Return a validation DataLoader over the samples of a sampler."""
        self._rows.read()
        return super().validation_loader(sampler)

    def __iter__(self) -> Any:
        self._rows.read()
        return super().__iter__()

    @property
    def input(self) -> TableInput:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How the features are made of a row."""
        if self._input is None:
            self._fit(self._read_training())
        assert self._input is not None
        return self._input

    @property
    def _target_encoding(self) -> TargetEncoding:
        assert self.input and self._output is not None
        return self._output

    def _fit(self, table: Table) -> None:
        """Learn the encodings from the training part of a table."""
        labels = [column for column in (self._stratify, self._groups) if column is not None]
        asked = {"target": [self._target], "stratify": [self._stratify], "groups": [self._groups]}
        asked |= {"numeric": self._numeric, "categorical": self._categorical, "leave_out": self._leave_out}
        for argument, columns in asked.items():
            table.require_columns([column for column in columns or () if column is not None], argument)
        others = [self._target, *self._leave_out]
        if self._numeric is None and self._categorical is None:
            kinds = found_kinds(table, [*others, *([] if self._groups is None else [self._groups])])
        else:
            kinds = given_kinds(table, self._numeric, self._categorical, others)
        table.read_texts([*kinds.categorical, *labels, *([self._target] if self._task == "classification" else [])])
        for column in labels:
            table.require(column, table.texts(column) != "", "is missing")
        how = {**self._split, **self._labels(table), "samples": self._part(table, training=True)}
        train, _ = split_samples(len(table), **how)
        self._input = fit_input(table, train, kinds, self._fill, self._one_hot)
        self._output = TargetEncoding.fit(table, train, self._target, self._task, self._standardize_target)

    def _labels(self, table: Table) -> dict[str, Any]:
        return {"stratify": table.texts(self._stratify), "groups": table.texts(self._groups)}

    def _part(self, table: Table, training: bool) -> np.ndarray | None:
        table.require_columns([column for column in (self._stratify, self._groups) if column is not None], "path")
        how = self._test_split, training, ("test_path", self._test_path)
        return samples_to_serve(len(table), *how, **self._labels(table))

    def _encoded(self) -> tuple[TableInput, np.ndarray, np.ndarray]:
        """Return the input, and the raw examples and the targets of the table that is served."""
        target = self._target_encoding
        table = self._served or self._read()
        self._served = None
        table.require_columns([target.column, *self.input.numeric, *self.input.categorical], table.argument, TRAINED_ON)
        targets = target.values(table, self._known_to)
        rows = self.input.rows(table)
        self._lines = _described(table, self.input, target)
        return self.input, rows, targets

    @property
    def _rows(self) -> "_Rows":
        rows = self.dataset
        assert isinstance(rows, _Rows)
        return rows

    def _require_same(self, input: TableInput, target: TargetEncoding) -> None:
        """Raise UserError if an argument asks for something else than that of the model."""
        task = "regression" if target.classes is None else "classification"
        scaled = (target.mean, target.std) != (0.0, 1.0)
        asked = [("target", self._target, target.column), ("task", self._task, task)]
        asked += [
            ("standardize_target", self._standardize_target, scaled),
            ("one_hot", self._one_hot, input.one_hot),
        ]
        if (self._fill, input.fill) != ("mean", None):  # means are always found
            asked += [("fill", self._fill, input.fill)]
        if self._numeric is not None or self._categorical is not None:
            asked += [("numeric", sorted(self._numeric or ()), sorted(input.numeric))]
            asked += [("categorical", sorted(self._categorical or ()), sorted(input.categorical))]
        for argument, value, trained in asked:
            if value not in (None, False, trained):
                raise UserError(
                    f"{argument}: is {brief(value)}, but the model is trained with {brief(trained)}; train a new one"
                )


class _Rows(InMemoryDataset):
    """The rows of a table, served as (features, target); they are read when they are first needed.

    length: number of rows.
    make: returns the input, its raw examples (N, C) and the targets.

    arrays holds the raw examples and the targets. The input is applied to all rows once, and not to each batch.
    """

    def __init__(self, length: int, make: Callable[[], tuple[TableInput, np.ndarray, np.ndarray]]) -> None:
        super().__init__(np.empty((length, 0)))
        del self.arrays
        self._length, self._served = length, InMemoryDataset(np.empty((length, 0)))
        self._make: Callable[[], Any] | None = make

    @functools.cached_property
    def arrays(self) -> list[Any]:
        """The raw examples (N, C) and the targets."""
        assert self._make is not None
        self.replace(*self._make())
        return self.arrays

    def read(self) -> None:
        """Read the rows, if that has not been done."""
        _ = self.arrays

    def __len__(self) -> int:
        return self._length

    def __getitems__(self, indices: Sequence[int], seeder: Any = None) -> tuple[torch.Tensor, ...]:
        """Return the batch of these rows: (features (B, F), target)."""
        self.read()
        return self._served.__getitems__(indices, seeder)

    def to(self, device: torch.device | str) -> Self:
        """Move what is served to the device. Returns the dataset."""
        self.read()
        self._served.to(device)
        return self

    def __getstate__(self) -> dict[str, Any]:
        self.read()
        return {**super().__getstate__(), "_make": None}

    def replace(self, input: TableInput, raw: np.ndarray, targets: np.ndarray) -> None:
        """Replace the rows and their input. What is served stays on its device."""
        if len(raw) != self._length:
            raise UserError(f"path: the table had {self._length} rows when the run began, and now has {len(raw)}")
        served = InMemoryDataset(input(torch.from_numpy(raw)), targets)
        before = self._served.arrays[0]
        if isinstance(before, torch.Tensor):
            served.to(before.device)
        self.arrays, self._served = [raw, targets], served
        self._make = None  # a reference to the loader, whose worker processes end when nothing refers to it


def _read(path: str, argument: str, form: TableFormat, allow_urls: bool) -> Table:
    return Table(table_source(path, argument, allow_urls), argument, form)


def _described(table, input, target):
    """Up to three lines on how the columns of a table are read."""
    used = {target.column, *input.numeric, *input.categorical}
    unknown = {column: (codes == 0).sum() for column, codes in zip(input.categorical, input.codes(table), strict=True)}
    sizes = zip(input.categorical, input.categories, strict=True)
    return kind_lines(
        {
            "numeric columns": input.numeric,
            "categorical columns": [f"{column} ({quantity(len(known), 'value')})" for column, known in sizes],
        },
        {
            "constant": input.constant,
            "left out": [column for column in table.names if column not in used],
            "unknown to the training part": [
                f"{column} in {quantity(number, 'row')}" for column, number in unknown.items() if number
            ],
        },
    )
