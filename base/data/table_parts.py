"""A CSV file in parts of some thousand rows, so that predictions for a file larger than memory need little of it."""

import csv
import dataclasses
import io
import itertools
import os
from collections.abc import Callable, Iterator

import numpy as np

from base.data.inputs import Examples
from base.data.table_file import Table
from base.data.table_format import TableFormat
from utils.errors import UserError, shortened, shown

_ROWS_AT_ONCE = 4096
_MAX_ERRORS = 100  # rows of a file that cannot be read, after which the others are hardly worth it
_END = "\x00\x01\x00"  # put after the last line


@dataclasses.dataclass(frozen=True)
class TablePart:
    """Some successive rows of a CSV file.

    source, argument, form: as for Table.
    header: names of the columns. rows: values of each row. first: number of the first row, from 1 after the header.
    """

    source: str
    argument: str
    form: TableFormat
    header: list[str]
    rows: list[list[str]]
    first: int

    def table(self) -> Table:
        """Return the rows as a Table. Raises UserError as it does, with the numbers of the rows in the whole file."""
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=self.form.separator).writerows([self.header, *self.rows])
        return Table(self.source, self.argument, self.form, text.getvalue().encode(), self.first)

    def halves(self) -> "list[TablePart]":
        """Return two parts of half the rows."""
        middle = len(self.rows) // 2
        pieces = (self.rows[:middle], self.first), (self.rows[middle:], self.first + middle)
        return [dataclasses.replace(self, rows=rows, first=first) for rows, first in pieces]


def examples_in(
    source: str,
    argument: str,
    form: TableFormat,
    read: Callable[[Table], tuple[np.ndarray, np.ndarray | None]],
    check: Callable[[Table], None],
) -> Iterator[Examples]:
    """Yield the rows of a CSV file in parts; their names are "source:number", counted from 1.

    source, argument, form: as for Table.
    read: returns the raw examples and the targets, or None, of a table. Only some thousand rows are in memory, unless
        the file is compressed.
    check: raises UserError if the file as a whole does not fit; it is given the first rows.

    Raises UserError for a file that is no table, does not fit, or has too many rows that cannot be read.
    """
    if _is_packed(source):
        table = Table(source, argument, form)
        check(table)
        raw, target = read(table)
        yield Examples([f"{source}:{number}" for number in range(1, len(raw) + 1)], raw, {}, target)
        return
    num_errors = 0
    for part in _table_parts(source, argument, form):
        if part.first == 1:
            fitting = [row for row in part.rows if len(row) == len(part.header)]
            check(dataclasses.replace(part, rows=fitting or part.rows).table())
        for examples in _examples_of(part, read):
            num_errors += len(examples.errors)
            yield examples
            if num_errors > _MAX_ERRORS:
                raise UserError(f"{shown(source)}: more than {_MAX_ERRORS} rows cannot be read; the rest is left out")


def _examples_of(part, read):
    """The rows of a part, in parts. Halves find the few that cannot be read."""
    names = [f"{part.source}:{number}" for number in range(part.first, part.first + len(part.rows))]
    try:
        raw, target = read(part.table())
        yield Examples(names, raw, {}, target)
    except UserError as error:
        if len(part.rows) <= 1:
            yield Examples(names, errors={0: error})
            return
        for half in part.halves():
            yield from _examples_of(half, read)


def _table_parts(source, argument, form):
    """The rows of a CSV file that is not compressed, part by part."""
    encoding = "utf-8-sig" if form.encoding.lower() in ("utf-8", "utf8") else form.encoding
    try:
        with open(source, encoding=encoding, newline="") as file:
            yield from _parts(file, source, argument, form)
    except UnicodeError:
        Table(source, argument, form)  # raises an error that says more
        raise
    except csv.Error as error:
        reason = shortened(" ".join(str(error).split()))
        raise UserError(
            f"{argument}: {shown(source)}: not a CSV table: {reason}; is a quotation mark not closed?"
        ) from None
    except OSError as error:
        raise UserError(f"{argument}: {shown(source)}: cannot read the table: {error.strerror or error}") from None


def _parts(file, source, argument, form):
    rows = csv.reader(itertools.chain(file, [_END]), delimiter=form.separator, skipinitialspace=True)
    rows = _closed(row for row in rows if len(row) > 1 or (row and row[0].strip()))
    header, first, pending = next(rows, None), 1, []
    if header is None:
        raise UserError(f"{argument}: {shown(source)} is empty")
    mistake = None
    try:
        for row in rows:
            pending.append(row)
            if len(pending) == _ROWS_AT_ONCE:
                yield TablePart(source, argument, form, header, pending, first)
                first, pending = first + len(pending), []
    except csv.Error as error:  # the rows before it are read
        mistake = error
    if pending or (first == 1 and mistake is None):
        yield TablePart(source, argument, form, header, pending, first)
    if mistake is not None:
        row = first + len(pending)
        raise csv.Error(f"row {row:,} and what follows are left out: {mistake}")


def _closed(rows):
    """The rows before the one that holds _END alone; if that is a part of another, it is within quotation marks."""
    for row in rows:
        if row == [_END]:
            return
        if row[-1].endswith(_END):
            raise csv.Error("it ends within a value")
        yield row


def _is_packed(source):
    """Whether the file is compressed, by its ending, or a spreadsheet or an archive, by its first bytes."""
    with open(source, "rb") as file:
        return os.path.splitext(source)[1].lower() in (".gz", ".bz2", ".xz", ".zip") or file.read(4) == b"PK\x03\x04"
