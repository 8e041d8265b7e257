"""What each column of a table is, found by what it holds, where a config does not say it."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas

from base.data.table_file import NULLS, Table
from base.data.table_format import as_json, how_to_read
from utils.errors import UserError, brief, shown

_LINE = 100  # letters
_SHOWN = 8  # columns in a message
_SAMPLE = 1000  # different texts of a column to look at
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
_ID_NAME = re.compile(
    r"(?:.*[\W_])?(?i:id|index|idx|uid|uuid|guid|row|no|nr\.?|key)|.*[a-z](?:ID|Id|Nr\.?)"
    r"|.*(?i:nummer|num[eé]ro|número)"
    r"|(?:.*[\W_])?(?i:(?:lfd|artikel|auftrags?|beleg|bestell|chargen|fall|haus|konto|kunden|matrikel|mitglieds"
    r"|patienten|personal|proben|rechnungs|serien|teile|vertrags|vorgangs)nr\.?)"  # SNR and PSNR are none
)


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

    Raises UserError, with the remedy, for a column that is hardly meant as it stands, and as kinds_and_odd does.
    """
    kinds, odd = kinds_and_odd(table, others)
    if odd:
        found = [f"column {brief(column)} {what}" for column, what in odd.items()]
        listed = ", ".join(found[:_SHOWN]) + (f" and {len(odd) - _SHOWN} more" * (len(odd) > _SHOWN))
        raise UserError(
            f'leave_out: {table.place}: {listed}; give "leave_out": {as_json(list(odd))}, '
            "or name the columns to use as numeric and categorical"
        )
    return given_kinds(table, kinds.numeric, kinds.categorical, [])


def kinds_and_odd(table: Table, others: Sequence[str]) -> tuple[Kinds, dict[str, str]]:
    """Return the kinds of the columns that are not odd, and {column: what is odd} of those hardly meant as features.

    These are a column without a name, identifiers and dates. `others` and columns without any value are in neither.
    Raises UserError, with the remedy, for texts that are numbers but for their signs, and if the header is missing.
    """
    _require_header(table)
    features = [column for column in table.names if column not in others]
    table.require_columns(features, "path")
    table.read_numbers(features)
    numeric, categorical, odd = [], [], {}
    for column in features:
        kind, what = _kind(table, column)
        if kind is not None and column in table.unnamed:
            what = "has no name and may number the rows"
        if what is not None:
            odd[column] = what
        elif kind is not None:
            (numeric if kind == "numeric" else categorical).append(column)
    return Kinds(numeric, categorical), odd


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
    """("numeric" or "categorical", what is odd about that or None); (None, None) for a column without any value."""
    is_number, missing = table.are_numbers(column)
    if is_number.any() and (is_number | missing).all():
        return "numeric", "numbers the rows, or names them" if _numbers_rows(table, column) else None
    texts = pandas.Series(table.texts(column))
    counts = texts.where(texts != "").value_counts()
    if len(counts) == 0:
        return None, None
    present = counts.drop(list(NULLS), errors="ignore")
    if _share(present, lambda text: _is_like_a_number(text, table.form)) > 0.5:
        _refuse_stray(table, column, is_number | missing)
    what = _no_category(counts)
    return "categorical", what and f"{what}, such as {brief(counts.index[0])}"


def _is_like_a_number(text, form):
    return not np.isnan(form.number(text)) or bool(how_to_read([text], form))


def _share(counts, fits):
    """The share of the values that fit, of the most frequent ones. counts: how often each text occurs."""
    some = counts.iloc[:_SAMPLE]
    return sum(number for text, number in some.items() if fits(text)) / max(1, some.sum())


def _refuse_stray(table, column, fits):
    row = int((~fits).argmax())
    text = table.texts(column)[row]
    remedy = how_to_read(table.texts(column)[~fits], table.form) or (
        f'; if it stands for a missing value, give "missing": {as_json([text])}; else fix it, or say with numeric and '
        "categorical what each column is"
    )
    raise UserError(
        f"numeric: {table.place}: row {row + 1}, column {brief(column)}: {brief(text)} stands among numbers{remedy}"
    )


def _no_category(counts):
    """Why texts are hardly categories; None if they may be. counts: how often each occurs."""
    if _share(counts, _DATE.fullmatch) > _NEARLY_ALL:
        return "holds dates or times"
    if len(counts) > _MANY and _share(counts, _UNIT.fullmatch) > _NEARLY_ALL:
        return "holds numbers with a unit"
    if counts.sum() >= _FEW and len(counts) > _NEARLY_ALL * counts.sum():
        return f"holds {len(counts)} different texts in {counts.sum()} rows"
    return None


def _numbers_rows(table, column):
    """Whether a column of numbers is one of identifiers: whole, all different, and called so."""
    numbers = table.numbers([column])[:, 0]
    present = numbers[~np.isnan(numbers)]
    if column in table.unnamed or not _ID_NAME.fullmatch(column) or len(present) < _FEW:
        return False
    return (present % 1 == 0).all() and len(np.unique(present)) == len(present)


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
