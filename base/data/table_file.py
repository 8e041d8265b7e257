"""A CSV file, read for TableDataLoader: its columns as numbers and as texts, with errors that name column and row."""

import bz2
import csv
import gzip
import http.client
import io
import itertools
import lzma
import os
import re
import urllib.request
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas

from base.data.local_files import UNPACK_ERRORS, local_file, require_unpackable
from base.data.table_format import TableFormat, as_json, how_to_read
from utils.errors import UserError, brief, quantity, shortened, shown
from utils.nearest import did_you_mean

NULLS = ("NA", "N/A", "n/a", "#N/A", "<NA>", "NULL", "null", "None", "nan", "NaN", "NAN", "-nan", "-NaN")
"""What other programs write among numbers for a missing one. Among texts, they are texts like any other."""

IN_USE = "source"
"""The argument that names a file to predict for, which is to be written as the training table was."""

_UNPACK = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
_FETCH_SECONDS = 60
_LOOKED_AT = 1000  # bytes
_NOT_A_NUMBER = "is not a number"
_TRUTH = {"true": 1.0, "True": 1.0, "TRUE": 1.0, "false": 0.0, "False": 0.0, "FALSE": 0.0}


class Table:
    """The columns of a CSV file, each read as numbers or as texts when it is asked for.

    source: path or address of the file, from table_source().
    argument: the loader's argument that names it, for messages.
    form: how it is written.
    content: its text in UTF-8, if it has been read. first: number of the first row for messages, if it is a part.

    names: the columns' names. Spaces around a name or a text are no part of it.
    unnamed: those without a name, which are called "Unnamed: 2", counted from 0, as pandas does.
    place: the file's name for messages.

    Raises UserError for a file that is not a table, and for a row that is longer or shorter than the header.
    """

    def __init__(
        self, source: str, argument: str, form: TableFormat, content: bytes | None = None, first: int = 1
    ) -> None:
        self.place, self.argument, self.form, self._first = shown(source), argument, form, first
        self._where = f"{argument}: {self.place}"
        if content is not None:
            self._content = content
        else:
            self._content: Any = _decoded(_content(source, argument, self._where), form, argument, self._where)
        self._numbers, self._missing, self._texts = {}, {}, {}
        header = next(self._rows(), None)
        if header is None:
            raise UserError(f"{self._where} is empty")
        self.names = [name.strip() or f"Unnamed: {i}" for i, name in enumerate(header)]
        self.unnamed = [name for name in self.names if re.fullmatch(r"Unnamed: \d+[.\d]*", name)]
        self._require_separator()
        self._length = self._count_rows()
        if self._length == 0:
            raise UserError(f"{self._where} has no rows")

    def __len__(self) -> int:
        return self._length

    def require_columns(self, columns: Iterable[str], argument: str, why: str | None = None) -> None:
        """Raise UserError for a column that the file lacks, or has twice. why: instead of a similar name."""
        for column in columns:
            if column not in self.names:
                hint = did_you_mean(str(column), self.names) if why is None else f", {why}"
                raise UserError(f"{argument}: {self.place} has no column {brief(column)}{hint}")
            if self.names.count(column) > 1:
                raise UserError(f"{self._where}: its header names two columns {brief(column)}; rename one")

    def numbers(self, columns: Sequence[str], do: str = "") -> np.ndarray:
        """Return the columns (N, C) float64, nan for missing values; true and false are 1 and 0.

        do: as for require(). Raises UserError for text and infinite numbers.
        """
        self.read_numbers(columns)
        for column in columns:
            numbers, missing = self._numbers[column], self._missing[column]
            self.require(column, missing | ~np.isnan(numbers), _NOT_A_NUMBER, do)
            self.require(column, ~np.isinf(numbers), "is infinite")
        return np.stack([self._numbers[column] for column in columns], axis=1) if columns else np.empty((len(self), 0))

    def are_numbers(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Return for each row whether its value is a number, and whether it is missing if the column holds numbers.

        True and false are no numbers here.
        """
        self.read_numbers([column])
        is_truth = np.isin(self._texts.get(column, np.zeros(1)), list(_TRUTH))
        return ~np.isnan(self._numbers[column]) & ~is_truth, self._missing[column]

    def read_numbers(self, columns: Iterable[str]) -> None:
        """Read columns as numbers, for numbers() and are_numbers(). Several in one pass are faster than one by one."""
        columns = [column for column in dict.fromkeys(columns) if column not in self._numbers]
        if not columns:
            return
        nulls = ["", *NULLS, *self.form.missing]
        frame = self._parsed(columns, decimal=self.form.decimal, keep_default_na=False, na_values=nulls)
        kinds = {column: frame.dtypes[self.names.index(column)] for column in columns}
        texts = [column for column, kind in kinds.items() if kind.kind not in "iuf"]
        self.read_texts(texts)
        for column in columns:
            if column in texts:
                codes, uniques = pandas.factorize(self._texts[column])
                self._missing[column] = np.isin(uniques.astype(str), nulls)[codes]
                numbers = [_TRUTH[text] if text in _TRUTH else self.form.number(text) for text in uniques]
                self._numbers[column] = np.array(numbers, float)[codes]
                self._numbers[column][self._missing[column]] = np.nan
            else:
                self._numbers[column] = frame[self.names.index(column)].to_numpy(np.float64)
                self._missing[column] = np.isnan(self._numbers[column])

    def read_texts(self, columns: Iterable[str]) -> None:
        """Read columns as texts, for texts(). Several in one pass are faster than one by one."""
        columns = [column for column in dict.fromkeys(columns) if column not in self._texts]
        if not columns:
            return
        frame = self._parsed(columns, dtype=str, keep_default_na=False, na_values=[])
        for column in columns:
            texts = frame[self.names.index(column)].str.strip()
            self._texts[column] = texts.mask(texts.isin(list(self.form.missing)), "").to_numpy(object)

    def texts(self, column: str | None) -> Any:
        """Return the column's texts (N,), "" for missing ones; None for None."""
        if column is None:
            return None
        self.read_texts([column])
        return self._texts[column]

    def require(self, column: str, fits: Any, what: str, do: str = "") -> None:
        """Raise UserError for the first row, counted from 1 after the header, whose entry of fits (N,) is False.

        what: what is wrong with the value. do: what the user could do, after a "; ".
        """
        wrong = np.flatnonzero(~np.asarray(fits))
        if len(wrong):
            text = self.texts(column)[wrong[0]]
            given = "a value" if text == "" else text if self.form.number(text) in (np.inf, -np.inf) else brief(text)
            more = f" (and in {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            if what == _NOT_A_NUMBER:
                do = self._do(how_to_read(self.texts(column)[wrong], self.form)) or do
            raise UserError(
                f"{self.place}: row {wrong[0] + self._first}{more}, column {brief(column)}: {given} {what}{do}"
            )

    def _parsed(self, columns, **how):
        """The columns as a DataFrame whose columns are called by their places in the file."""
        places = [self.names.index(column) for column in columns]
        how |= {"sep": self.form.separator, "skipinitialspace": True, "header": 0, "names": range(len(self.names))}
        try:
            frame = pandas.read_csv(io.BytesIO(self._content), usecols=places, index_col=False, low_memory=False, **how)
        except ValueError as error:  # the base class of pandas' own errors
            raise UserError(f"{self._where}: not a CSV table: {_in_one_line(error)}") from None
        if len(frame) != self._length:
            raise UserError(
                f"{self._where}: not a CSV table: it has {quantity(self._length, 'row')} or {len(frame)}, after how "
                "its quotation marks are read"
            )
        return frame

    def _rows(self):
        """The values of each row that is not blank, beginning with the header."""
        lines = io.TextIOWrapper(io.BytesIO(self._content), "utf-8", newline="")
        try:
            for row in csv.reader(lines, delimiter=self.form.separator, skipinitialspace=True):
                if len(row) > 1 or (row and row[0].strip()):
                    yield row
        except csv.Error as error:
            raise UserError(
                f"{self._where}: not a CSV table: {_in_one_line(error)}; is a quotation mark not closed?"
            ) from None

    def _do(self, remedy):
        """What would do about how the file is written: the remedy in training, and another one in use."""
        return self.form.as_trained() if remedy and self.argument == IN_USE else remedy

    def _require_separator(self):
        if len(self.names) == 1:
            for other in (";", "\t", "|", ","):
                if other in self.names[0]:
                    do = self._do(f'; give "separator": {as_json(other)}')
                    raise UserError(f"{self._where}: its header is one name, {brief(self.names[0])}{do}")

    def _count_rows(self):
        """The number of rows. Raises UserError for one that is longer or shorter than the header."""
        width, content = len(self.names), self._content
        if b'"' not in content and content.count(b"\r") == content.count(b"\r\n"):  # the fast way, if it finds no fault
            separator = self.form.separator.encode()
            counts = [line.count(separator) for line in io.BytesIO(content) if line.strip(b" \r\n")]
            if all(count == width - 1 for count in counts):
                return len(counts) - 1
        length = 0
        for length, row in enumerate(itertools.islice(self._rows(), 1, None), 1):
            if len(row) != width:
                raise UserError(
                    f"{self._where}: row {length + self._first - 1} has {quantity(len(row), 'value')}, but the header "
                    f"has {width}; each column takes one name, and each row one value for it, perhaps an empty one"
                    f"{_extra(row, width)}"
                )
        return length


def table_source(path: str, argument: str, allow_urls: bool) -> str:
    """Return the path of a file on this machine, or an address if allowed. Raises UserError for anything else."""
    if path.lower().startswith(("http://", "https://")):
        if allow_urls:
            return path
        raise UserError(f'{argument}: {shown(path)}: is an address; to read it all the same, give "allow_urls": true')
    return local_file(path, argument, "the table")


def _extra(row, width):
    if len(row) == width + 1 and row[-1].strip() == "":
        return "; the row ends with a separator"
    return ""


def _content(source, argument, where):
    """The file's bytes, unpacked."""
    try:
        if "://" in source:
            with urllib.request.urlopen(source, timeout=_FETCH_SECONDS) as answer:
                content = answer.read()
        else:
            require_unpackable(source, argument)
            with open(source, "rb") as file:
                content = file.read()
        ending = os.path.splitext(source)[1].lower()
        if ending == ".zip":
            return _only_file(content, where)
        return _UNPACK.get(ending, bytes)(content)
    except UserError:
        raise
    except (*UNPACK_ERRORS, http.client.HTTPException, ValueError) as error:  # the last for an odd address
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
        raise UserError(f"{where}: cannot read the table: {shortened(reason)}") from None


def _only_file(content, where):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
        if len(names) != 1:
            raise UserError(f"{where}: holds {len(names)} files; unpack it, and give the path of the table")
        return archive.read(names[0])


def _decoded(content, form, argument, where):
    """The content in UTF-8, without a byte order mark."""
    if content.startswith(b"PK\x03\x04"):
        raise UserError(f"{where}: is a spreadsheet or an archive; save the table as CSV")
    try:
        text = content.decode(form.encoding)
    except UnicodeError as error:
        line = content.count(b"\n", 0, getattr(error, "start", 0)) + 1
        likely = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
        do = f'; give its "encoding", such as "{likely}", or save it as UTF-8'
        do = form.as_trained() if argument == IN_USE else do
        if likely != "utf-16" and b"\0" in content[:_LOOKED_AT]:
            raise UserError(f"{where}: is not a text file; save the table as CSV") from None
        raise UserError(f"{where}: line {line} is not {brief(form.encoding)} text{do}") from None
    if form.encoding.lower() in ("utf-8", "utf8") and not text.startswith("\ufeff"):
        return content
    return text.removeprefix("\ufeff").encode()


def _in_one_line(error):
    return shortened(" ".join(str(error).split()))
