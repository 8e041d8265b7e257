"""How a table's rows become tensors: learned from its training part, and kept with the model that is trained on it."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas
import torch

from base.data.column_kinds import Kinds
from base.data.inputs import Examples, Input
from base.data.outputs import Output
from base.data.table_file import IN_USE, Table, table_source
from base.data.table_format import TableFormat
from base.data.table_parts import examples_in
from base.data.target_encoding import TargetEncoding, is_list, scale_of
from utils.errors import UserError, brief, quantity, shown

FILLS = {None: np.nanmean, "mean": np.nanmean, "median": np.nanmedian}

TRAINED_ON = "which the model is trained on; give it tables that have it, or train a new one"

_LARGEST = float(np.finfo(np.float32).max)
_SHOWN_CATEGORIES = 1000
_NEW_CATEGORIES = 3  # in a message
_MIN_ROWS = 10  # of a table in which a column without a single known category is a mistake


class TableInput(Input):
    """Rows of a table: raw (B, C) float64, numbers and then codes; the model's input is float32 (B, F).

    A file is a CSV file of any number of rows, with at least the columns of the training table that were features.

    numeric, categorical: names of the columns; the features are first these, then those.
    mean, std: of each numeric column; a std of 0 marks a column that is constant, whose feature is 0.
    filled_with: what replaces a missing value of each numeric column, if fill says so.
    categories: of each categorical column the values with the codes 1, 2 and so on. All others have the code 0.
    fill, one_hot: as for TableDataLoader.
    form: how a file is written, the arguments of TableFormat.

    Raises UserError for arguments that do not fit together.
    """

    suffixes = (".csv",)

    def __init__(
        self,
        numeric: list[str],
        categorical: list[str],
        mean: list[float],
        std: list[float],
        filled_with: list[float],
        categories: list[list[str]],
        fill: str | None = None,
        one_hot: bool = False,
        form: dict[str, Any] | None = None,
    ) -> None:
        numbers = {"mean": mean, "std": std, "filled_with": filled_with}
        for name, values in numbers.items():
            if not is_list(values, float) or len(values) != len(numeric):
                raise UserError(
                    f"{name}: should be a list of {quantity(len(numeric), 'number')}, one for each numeric column"
                )
        if not is_list(numeric, str) or not is_list(categorical, str):
            raise UserError("numeric, categorical: should be lists of names")
        is_table = is_list(categories, list) and all(is_list(known, str) for known in categories)
        if not is_table or len(categories) != len(categorical):
            raise UserError("categories: should be a list of texts for each categorical column")
        if fill not in FILLS:
            raise UserError(f"fill: got {brief(fill)}; it should be 'mean' or 'median', or be left out")
        names = {"numeric": numeric, "categorical": categorical, "categories": categories}
        super().__init__(**names, **numbers, fill=fill, one_hot=one_hot, form=form or {})
        self.numeric, self.categorical, self.categories = numeric, categorical, categories
        self.fill, self.one_hot = fill, one_hot
        self.form = TableFormat.of(form or {})
        self.constant = [column for column, number in zip(numeric, std, strict=True) if number == 0]
        self.constant += [column for column, known in zip(categorical, categories, strict=True) if len(known) == 1]
        # Anything divided by inf is 0. These are float64, and no buffers, which float() of a model would round.
        self._scale = np.array([mean, [number or np.inf for number in std]])
        self._constants = torch.tensor([*self._scale.tolist(), filled_with], dtype=torch.float64)

    def spec(self) -> dict[str, Any]:
        """Return {"type": name, "args": arguments}, from which build_input makes an equal one."""
        return {"type": "TableInput", "args": self.arguments}

    def changed(self, **arguments: Any) -> "TableInput":
        """Return an input with some other arguments."""
        return TableInput(**{**self.arguments, **arguments})

    @property
    def example(self) -> dict[str, Any]:
        """A typical example for parse: the mean of each number, and the first category of each column."""
        numbers = dict(zip(self.numeric, self.arguments["mean"], strict=True))
        return numbers | {
            name: next(iter(known), "") for name, known in zip(self.categorical, self.categories, strict=True)
        }

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of what parse takes: an object with a value for each column."""
        number: dict[str, Any] = {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST}
        text: dict[str, Any] = {"type": "string"}
        if self.fill is not None:
            number, text = number | {"type": ["number", "null"]}, {"type": ["string", "null"]}
        properties = dict.fromkeys(self.numeric, number)
        for column, known in zip(self.categorical, self.categories, strict=True):
            properties[column] = text | {"examples": known[:_SHOWN_CATEGORIES]}
        return {"type": "object", "required": [*self.numeric, *self.categorical], "properties": properties}

    @property
    def reads_files(self) -> bool:
        """Whether read takes an open file: rows are sent as objects."""
        return False

    @property
    def columns(self) -> list[str]:
        """The features' names."""
        if not self.one_hot:
            return [*self.numeric, *self.categorical]
        known = zip(self.categorical, self.categories, strict=True)
        return [*self.numeric, *(f"{column}={value}" for column, values in known for value in values)]

    def read(self, file: str) -> np.ndarray:
        """Return the raw example (C,) of a file with one row. Raises UserError for any other."""
        rows = Examples.joined(list(self.examples(file)))
        for error in rows.errors.values():
            raise error
        if len(rows) != 1:
            raise UserError(
                f"{shown(file)}: has {len(rows)} rows, where one example is wanted; predict_files takes any number"
            )
        return rows.raw[0]

    def examples(self, file: str, output: Output | None = None) -> Iterator[Examples]:
        """Yield the rows of a file in parts; the name of each is "file:number", counted from 1.

        output: names the column of the targets, which the file may have. Only some thousand rows are in memory, unless
        the file is compressed. Raises UserError for a file that is no table, lacks a column, or has too many rows that
        cannot be read. Categories that training did not hold are named in a warning at the end.
        """
        source = table_source(file, IN_USE, allow_urls=False)
        column = None if output is None else output.column
        new = {}  # {categorical column: (rows with a category that training did not hold, the first such categories)}

        def check(table):
            self._require_columns(table)
            if column in table.names:
                table.require_columns([column], IN_USE)

        def read(table):
            raw, target = self._unchecked(table), None
            if output is not None and column in table.names:
                encoding = TargetEncoding(output.column or "", output.classes, output.mean, output.std)
                known = "the model does not know; to predict without targets, leave the column out"
                target = encoding.values(table, known, optional=True)
            count(table)  # last, since a table with an error is read again in parts
            return raw, target

        def count(table):
            for name, codes in zip(self.categorical, self.codes(table), strict=True):
                texts = table.texts(name)
                if (is_new := (codes == 0) & (texts != "")).any():
                    number, first = new.get(name, (0, []))
                    first = list(dict.fromkeys([*first, *texts[is_new]]))[: _NEW_CATEGORIES + 1]
                    new[name] = number + int(is_new.sum()), first

        yield from examples_in(source, IN_USE, self.form, read, check)
        for name, (number, first) in new.items():
            rows = f"{number:,} rows hold categories" if number > 1 else "1 row holds a category"
            logging.getLogger("data").warning(
                "%s: column %s: %s that training did not, such as %s; computed as unknown",
                *(shown(file), brief(name), rows, _some(first)),
            )

    def _require_columns(self, table):
        table.require_columns([*self.numeric, *self.categorical], IN_USE, TRAINED_ON)
        self._require_known(table)

    def parse(self, value: Any) -> np.ndarray:
        """Return the raw example (C,) of an object {column: value}; a missing value is null. Raises UserError."""
        columns = [*self.numeric, *self.categorical]
        if not isinstance(value, dict):
            raise UserError(f"an example should be an object with the columns {', '.join(map(brief, columns))}")
        row = []
        for column in columns:
            given = value.get(column, value)  # no value can be the object itself
            if given is value:
                raise UserError(f"column {brief(column)} is missing in the example; null stands for a missing value")
            if given is None and self.fill is None:
                raise UserError(f"column {brief(column)}: null is a missing value, which the model cannot replace")
            if column in self.categorical:
                if not isinstance(given, str | None):
                    raise UserError(f"column {brief(column)}: got {brief(given)}; it should be a text, in quotes")
                known = self.categories[self.categorical.index(column)]
                text = given or ""
                row.append(known.index(text) + 1 if text in known else 0)
            elif given is None:
                row.append(np.nan)
            elif isinstance(given, (int, float)) and not isinstance(given, bool) and abs(given) <= _LARGEST:
                row.append(given)
            else:
                raise UserError(f"column {brief(column)}: got {brief(given)}; it should be a number")
        return np.array(row, np.float64)

    def rows(self, table: Table) -> np.ndarray:
        """Return the raw examples (N, C) float64: numbers, nan for a missing one that is to be filled, and codes.

        Raises UserError for a missing value that is not to be filled, for a number out of all proportion, and for a
        column of a larger table without a single known category.
        """
        found = self._unchecked(table, '; give "fill": "mean" or "median"')
        self._require_known(table)
        return found

    def _unchecked(self, table, do='; put one in, or train a model with "fill", which replaces missing values'):
        """rows(), whatever the categories are. do: what the user could do about a missing value."""
        table.read_texts(self.categorical)
        numbers = table.numbers(self.numeric)
        if self.fill is None:
            missing = [*np.isnan(numbers).T, *(table.texts(column) == "" for column in self.categorical)]
            for column, is_missing in zip([*self.numeric, *self.categorical], missing, strict=True):
                table.require(column, ~is_missing, "is missing", do)
        with np.errstate(over="ignore"):
            scaled = np.abs((numbers - self._scale[0]) / self._scale[1])
        for column, sizes in zip(self.numeric, scaled.T, strict=True):
            table.require(column, ~(sizes > _LARGEST), "is out of all proportion to the training part")
        codes = [codes[:, None] for codes in self.codes(table)]
        return np.concatenate([numbers, *codes], axis=1, dtype=np.float64)

    def _require_known(self, table):
        """Raise UserError for a column of a larger table without a single known category."""
        for column, codes, known in zip(self.categorical, self.codes(table), self.categories, strict=True):
            if len(table) >= _MIN_ROWS and not codes.any():
                names = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
                table.require(
                    column, codes > 0, f"is no category of the training part; its categories are {brief(names)}"
                )

    def codes(self, table: Table) -> list[np.ndarray]:
        """Return the codes (N,) of each categorical column."""
        pairs = zip(self.categorical, self.categories, strict=True)
        return [pandas.Index(known, dtype=object).get_indexer(table.texts(column)) + 1 for column, known in pairs]

    def require(self, raw: torch.Tensor) -> None:
        """Raise UserError unless raw is (B, C)."""
        if raw.ndim != 2 or raw.shape[1] != len(self.numeric) + len(self.categorical):
            columns = len(self.numeric) + len(self.categorical)
            raise UserError(f"the raw examples are {tuple(raw.shape)}; they should be (N, {columns})")

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        """Return the features (B, F) float32 for raw examples (B, C)."""
        self.require(raw)
        mean, std, filled_with = self._constants.to(raw.device)
        numbers, codes = raw[:, : len(self.numeric)].double(), raw[:, len(self.numeric) :]
        if self.fill is not None:
            numbers = torch.where(numbers.isnan(), filled_with, numbers)
        parts = [((numbers - mean) / std).float()]
        if self.one_hot:
            for i, known in enumerate(self.categories):
                parts.append((codes[:, i : i + 1] == torch.arange(1, len(known) + 1, device=raw.device)).float())
        elif self.categorical:
            parts.append(codes.float())
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def _some(names):
    """The first few names, for a message."""
    more = ", ..." if len(names) > _NEW_CATEGORIES else ""
    return ", ".join(map(brief, names[:_NEW_CATEGORIES])) + more


def fit_input(table: Table, train: np.ndarray, kinds: Kinds, fill: str | None, one_hot: bool) -> TableInput:
    """Return the input learned from the rows `train` (indices) of a table.

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
    return TableInput(kinds.numeric, kinds.categorical, *found, fill, one_hot, table.form.arguments())
