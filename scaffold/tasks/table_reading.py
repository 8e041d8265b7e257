"""How a CSV file is written, found by trying: its separator, encoding, decimal point and missing values."""

import re
from collections import Counter
from typing import Any

import numpy as np

from base.data.local_files import local_file
from base.data.table_file import Table
from base.data.table_format import TableFormat
from scaffold.tasks.looking import MIN_SAMPLES
from utils.errors import UserError, brief, quantity

MAX_COLUMNS = 5_000
_MARKS = {"?", "-", "--", "---", ".", "*", "#", "N.A.", "n.a.", "n/d", "missing", "unknown"}
_LOOKED_AT = 1_000  # rows whose texts are looked at for thousands separators
_WAYS_TO_WRITE = [  # decimal point and thousands separator, the usual ones first
    (",", None), (".", ","), (",", "."), *((decimal, sign) for sign in " '\u00a0\u202f\u2019_" for decimal in ".,")
]  # fmt: skip


def read_table(path: str) -> Table:
    """Return the table, read with the separator, the encoding and the decimal point that fit it best."""
    local_file(path, "--data", "the table")
    first_error = None
    for encoding in ("utf-8", "utf-16", "cp1252"):
        for separator in (",", ";", "\t", "|"):
            try:
                table = Table(path, "--data", TableFormat(separator=separator, encoding=encoding))
            except UserError as error:
                if first_error is None or '"separator"' in str(first_error):  # another one may come further
                    first_error = error
                continue
            if table.names[0].lower() == "sep=":
                raise UserError(f"--data: {table.place}: its first line, sep={separator}, is for Excel; take it out")
            if len(table.names) > MAX_COLUMNS:
                raise UserError(
                    f"--data: {table.place}: has {len(table.names):,} columns; a table may have {MAX_COLUMNS:,}. "
                    "Save so many numbers as an array, for --task arrays"
                )
            if len(table.names) > 1:
                return _with_decimals(_large_enough(table))
            if encoding != "utf-16":  # as which any file can be read that is none
                alone = f"has a single column, {brief(table.names[0])}"
                raise UserError(f"--data: {table.place}: {alone}; a table has one to predict, and one to learn from")
    raise UserError(re.sub('; give its "encoding".*', "; save it as UTF-8", str(first_error)))


def _large_enough(table: Table) -> Table:
    if len(table) < MIN_SAMPLES:
        raise UserError(
            f"--data: {table.place}: has {quantity(len(table), 'row')}; parts to train, validate and test on need "
            f"{MIN_SAMPLES}"
        )
    return table


def _with_decimals(table: Table) -> Table:
    """The table with the decimal point and the thousands separator with which most columns are numbers."""
    best, most = table, _num_numeric(table)
    written = [name for name in _once(table) if not table.are_numbers(name)[0].all()]
    for decimal, thousands in _WAYS_TO_WRITE:
        if most == len(table.names):
            break
        form = _changed(table.form, decimal=decimal, thousands=thousands)
        if thousands is not None and not any(are_grouped(table.texts(name), form) for name in written):
            continue
        other = Table(table.place, "--data", form)
        if (number := _num_numeric(other)) > most:
            best, most = other, number
    return best


def are_grouped(texts: np.ndarray, form: TableFormat) -> bool | None:
    """Return whether the thousands separator groups the digits of most texts that hold it; None if none does.

    texts (N,). In "030 123 000" it does not: a number does not begin with 0, while that of a phone may.
    """
    assert form.thousands is not None
    number = rf"[-+]?[1-9]\d{{0,2}}(?:{re.escape(form.thousands)}\d{{3}})+(?:{re.escape(form.decimal)}\d*)?"
    held = [bool(re.fullmatch(number, text, re.ASCII)) for text in texts[:_LOOKED_AT] if form.thousands in text]
    return sum(held) > 0.5 * len(held) if held else None


def _num_numeric(table: Table) -> int:
    table.read_numbers(_once(table))
    return sum(table.are_numbers(name)[0].mean() > 0.5 for name in _once(table))


def _once(table: Table) -> list[str]:
    """The columns whose name no other has."""
    counts = Counter(table.names)
    return [name for name in table.names if counts[name] == 1]


def _changed(form: TableFormat, **changes: Any) -> TableFormat:
    return TableFormat.of({**form.arguments(), **changes})


def with_marks(table: Table, others: list[str]) -> tuple[Table, list[str]]:
    """Return the table, read with the texts that stand among its numbers for missing ones, and these texts.

    others: columns that are not features.
    """
    marks = set()
    columns = [name for name in _once(table) if name not in others]
    table.read_numbers(columns)
    for column in columns:
        numbers, missing = table.are_numbers(column)
        if numbers.mean() > 0.5 and not (numbers | missing).all():
            strays = set(table.texts(column)[~(numbers | missing)].tolist())
            marks |= strays if strays <= _MARKS else set()
    if not marks:
        return table, []
    found = sorted(marks)
    return Table(table.place, "--data", _changed(table.form, missing=found)), found


def form_text(form: TableFormat, marks: list[str]) -> str:
    """Return how the file is written, where that is not as usual. marks: texts for missing values."""
    usual = TableFormat()
    said = [f"{key} {getattr(form, key)!r}" for key in ("separator", "encoding", "decimal", "thousands")
            if getattr(form, key) != getattr(usual, key)]  # fmt: skip
    if marks:
        said.append(f"{' and '.join(map(repr, marks))} for missing values")
    return f", with {', '.join(said)}" if said else ""
