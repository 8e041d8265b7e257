"""What each column of a table is, found by what it holds, where a config does not say it."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas

from base.data.table_file import Table
from base.data.table_format import how_to_read
from utils.errors import UserError, brief, shown

_LINE = 100  # letters
_FEW = 10  # rows; with fewer, nothing is said about a column whose values are all different
_NEARLY_ALL = 0.9  # share of the values
_MANY = 20  # different values that are numbers with a unit; fewer may be categories, such as "3 rooms"

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATE = re.compile(
    r"(?:(?:19|20)\d\d([-/.])(?:0?[1-9]|1[0-2])(?:\1(?:0?[1-9]|[12]\d|3[01]))?"  # 2020-01-31, 2020-01
    r"|(?:0?[1-9]|[12]\d|3[01])([-/.])(?:0?[1-9]|[12]\d|3[01])\2(?:\d\d)?\d\d"  # 31.1.2020, 1/31/20
    rf"|\d{{1,2}}[- ]{_MONTH}[- ](?:\d\d)?\d\d|{_MONTH} \d{{1,2}},? \d{{4}}|{_MONTH}[- ]\d{{4}})"
    r"(?:[ T,]+\d{1,2}:\d\d.*)?|\d{1,2}:\d\d(?::\d\d(?:\.\d+)?)?(?: ?[ap]m)?",
    re.ASCII | re.IGNORECASE,
)
_UNIT = re.compile(r"[-+]?\d+(?:[.,]\d+)? ?[a-zµ°/²³]+\.?", re.IGNORECASE)
_ID_NAME = re.compile(r"(?:.*[\W_])?(?i:id|index|idx|uid|uuid|guid|row|no|nr|key)|.*[a-z](?:ID|Id)")


@dataclasses.dataclass(frozen=True)
class Kinds:
    """The columns of a table that become features."""

    numeric: list[str]
    categorical: list[str]


def given_kinds(
    table: Table, numeric: Sequence[str] | None, categorical: Sequence[str] | None, others: Sequence[str]
) -> Kinds:
    """Return the kinds that the config names, after some checks. others: the columns that are not features.

    Raises UserError for a column that is named twice, and if there is none.
    """
    kinds = Kinds(list(numeric or ()), list(categorical or ()))
    used = [*others, *kinds.numeric, *kinds.categorical]
    for column in [*kinds.numeric, *kinds.categorical]:
        if used.count(column) > 1:
            raise UserError(
                f"numeric: column {brief(column)} is named twice among target, numeric, categorical and leave_out"
            )
    if not kinds.numeric and not kinds.categorical:
        raise UserError(f"numeric: {table.place} has no columns to learn from; name some as numeric or categorical")
    return kinds


def found_kinds(table: Table, others: Sequence[str]) -> Kinds:
    """Return the kinds of all columns but `others`; columns without any value are left out.

    Raises UserError, with the remedy, for a column that is hardly meant as it stands: one without a name, identifiers,
    dates, and texts that are numbers but for their signs.
    """
    _require_header(table)
    features = [column for column in table.names if column not in others]
    table.require_columns(features, "path")
    table.read_numbers(features)
    numeric, categorical = [], []
    for column in features:
        kind = _kind(table, column)
        if kind is not None and column in table.unnamed:
            raise UserError(
                f"numeric: {table.place}: column {brief(column)} has no name; it may hold the rows' numbers; "
                f"{_leave_out(column)}"
            )
        if kind is not None:
            (numeric if kind == "numeric" else categorical).append(column)
    return given_kinds(table, numeric, categorical, [])


def kind_lines(kinds: Mapping[str, Sequence[str]], rest: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a line for each of the kinds {title: items}, and one for the rest, each of at most 100 letters."""
    rest = {title: items for title, items in rest.items() if items}
    letters = _LINE // len(rest) - 2 if rest else 0
    lines = [_line(title, items, _LINE) for title, items in kinds.items() if items]
    return lines + (["; ".join(_line(title, items, letters) for title, items in rest.items())] if rest else [])


def _line(title, items, letters):
    """ "title (9): a, b and 7 more", in a number of letters if that is possible."""
    items = [shown(item) for item in items]
    for number in range(min(len(items), _LINE), 0, -1):
        more = f" and {len(items) - number} more" if number < len(items) else ""
        line = f"{title} ({len(items)}): {', '.join(items[:number])}{more}"
        if len(line) <= letters:
            return line
    return f"{title}: {len(items)} columns"


def _kind(table, column):
    """ "numeric" or "categorical"; None for a column without any value."""
    is_number, missing = table.are_numbers(column)
    present = ~missing
    if is_number.any() and (is_number | missing).all():
        _refuse_row_numbers(table, column)
        return "numeric"
    texts = pandas.Series(table.texts(column))
    counts = texts.where(texts != "").value_counts()
    if len(counts) == 0:
        return None
    readable = {text: bool(how_to_read([str(text)], table.form)) for text in counts.index}
    alike = is_number | texts.map(readable).fillna(False).to_numpy(bool)
    if 2 * (alike & present).sum() > present.sum():
        _refuse_stray(table, column, is_number | missing)
    _refuse_dates_and_names(table, column, counts)
    return "categorical"


def _refuse_stray(table, column, fits):
    row = int((~fits).argmax())
    text = table.texts(column)[row]
    remedy = how_to_read(table.texts(column)[~fits], table.form)
    if not remedy:
        remedy = (
            f'; if it stands for a missing value, give "missing": ["{text}"]; else fix it, or say with numeric and '
        )
        remedy += "categorical what each column is"
    raise UserError(
        f"numeric: {table.place}: row {row + 1}, column {brief(column)}: {brief(text)} stands among numbers{remedy}"
    )


def _refuse_dates_and_names(table, column, counts):
    """counts: how often each text occurs."""

    def share(pattern):
        return sum(number for text, number in counts.items() if pattern.fullmatch(text)) / counts.sum()

    what = None
    if share(_DATE) > _NEARLY_ALL:
        what = "holds dates or times"
    elif len(counts) > _MANY and share(_UNIT) > _NEARLY_ALL:
        what = "holds numbers with a unit"
    elif counts.sum() >= _FEW and len(counts) > _NEARLY_ALL * counts.sum():
        what = f"holds {len(counts)} different texts in {counts.sum()} rows"
    if what is not None:
        raise UserError(
            f"categorical: {table.place}: column {brief(column)} {what}, such as {brief(counts.index[0])}, which make "
            f"no categories; {_leave_out(column)}"
        )


def _refuse_row_numbers(table, column):
    numbers = table.numbers([column])[:, 0]
    present = numbers[~np.isnan(numbers)]
    named_so = column not in table.unnamed and _ID_NAME.fullmatch(column)
    if named_so and len(present) >= _FEW and (present % 1 == 0).all() and len(np.unique(present)) == len(present):
        raise UserError(
            f"numeric: {table.place}: column {brief(column)} numbers the rows, or names them; {_leave_out(column)}"
        )


def _require_header(table):
    """Refuse a first row that holds values.

    Numbers are names if they rise or fall, as those of pixels, years and wavelengths do, unless all could be values of
    their columns and are not whole.
    """
    names = [name for name in table.names if not np.isnan(table.form.number(name)) and table.names.count(name) == 1]
    numbers = np.array([table.form.number(name) for name in names])
    steps = np.diff(numbers)
    if len(steps) == 0:
        return
    are_values = False
    if (numbers % 1 != 0).any() and all(table.are_numbers(name)[0].all() for name in names):
        values = table.numbers(names)
        are_values = ((values.min(axis=0) <= numbers) & (numbers <= values.max(axis=0))).all()
    if are_values or not ((steps > 0).all() or (steps < 0).all()):
        raise UserError(
            f"path: {table.place}: its first row looks like values, not names of columns: "
            f"{brief(', '.join(table.names))}; put a row of names before it"
        )


def _leave_out(column):
    return f'give "leave_out": ["{column}"], or name the columns to use as numeric and categorical'
