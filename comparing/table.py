"""A comparison as text of 80 columns or the terminal's, as CSV and as JSON."""

import csv
import datetime
import io
import json
import math
import unicodedata
from collections.abc import Sequence

from comparing.choose import short_names
from comparing.rows import Row, Spread, as_text, differing_keys, keys_shown
from utils.errors import quantity, shortened, shown
from utils.files import without_nan

_WIDEST = 40  # characters of a cell
_MOST_NOTES = 5
_ENDED_EARLY = ("stopped", "died", "failed", "died?")


def default_columns(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Return (names of the columns that a comparison shows by itself, further keys in which the runs differ)."""
    monitors = {row.cells.get("monitor") for row in rows if row.cells.get("best") is not None}
    test = _test_columns(rows, monitors)
    unmonitored = [] if monitors else _last_value(rows)
    keys, further = keys_shown(rows)
    names = [*labels(rows), "state", "epoch"]
    names += [*(["monitor"] if len(monitors) > 1 else []), *(["best", "best_epoch"] if monitors else unmonitored)]
    return [*names, *test, "time", *keys], further


def labels(rows: Sequence[Row]) -> list[str]:
    """Return the names of the columns that tell runs apart."""
    return ["name", "run"] if len({row.cells["name"] for row in rows}) > 1 else ["run"]


def _test_columns(rows, monitors):
    """[name, "test_epoch"] of the result of test.py that goes with the monitored value; [] if nothing was measured."""
    measured = dict.fromkeys(name for row in rows for run in row.runs for name in run.test)
    wanted = [monitor.partition(" ")[2].removeprefix("val_") for monitor in monitors]
    found = [name for name in [*wanted, *measured] if name in measured]
    return [f"test_{found[0]}", "test_epoch"] if found else []


def _last_value(rows):
    """[name] of a value to show of runs that monitor nothing."""
    logged = list(dict.fromkeys(name for row in rows for run in row.runs for name in run.values))
    return [name for name in ("val_loss", "loss", *logged) if name in logged][:1]


# ---- text


def table_text(rows: Sequence[Row], names: Sequence[str], width: int, known: Sequence[str] = ()) -> str:
    """Return a table as text, split into blocks of columns that each begin with the names of the runs.

    names: of the columns. width: of a line. known: names of all values, among which the headers are to be unique.
    """
    short = headers(rows, names, known)
    columns = []
    for name in names:
        cells = [short[name], *(_cut(cell_text(name, row)) for row in rows)]
        wide = max(map(_width, cells))
        right = name not in ("name", "run", "state", "monitor") and all(map(_is_short_number, cells[1:]))
        columns.append([" " * (wide - _width(c)) + c if right else c + " " * (wide - _width(c)) for c in cells])
    fixed = sum(name in ("name", "run") for name in names)
    blocks = [columns[:fixed]]
    for column in columns[fixed:]:
        if sum(_width(cells[0]) + 2 for cells in [*blocks[-1], column]) - 2 > width and len(blocks[-1]) > fixed:
            blocks.append(columns[:fixed])
        blocks[-1] = [*blocks[-1], column]
    return "\n\n".join("\n".join("  ".join(line).rstrip() for line in zip(*block, strict=True)) for block in blocks)


def headers(rows: Sequence[Row], names: Sequence[str], known: Sequence[str] = ()) -> dict[str, str]:
    """Return {name: header of its column}."""
    short = {name: shown(text) for name, text in short_names(names, [*known, *names]).items()}
    monitors = {str(row.cells.get("monitor")) for row in rows if row.cells.get("best") is not None}
    best = monitors.pop().partition(" ")[2] if len(monitors) == 1 else "best"
    titles = {"best": best, "best_epoch": "at", "test_epoch": "tested"}
    titles["epoch"] = "epochs" if "epochs" not in names else "epoch"
    return {name: titles.get(name, short[name]) for name in names}


def cell_text(name: str, row: Row) -> str:
    """Return the text of a cell; "-" if there is no value."""
    value = row.cells.get(name)
    if name == "state":
        return _state_text(row)
    if name == "epoch" and value is not None:
        planned = row.cells.get("epochs")
        return f"{value}/{planned}" if planned and value <= planned else str(value)  # a resume may set fewer epochs
    if name == "changed" and value is not None:
        return datetime.datetime.fromtimestamp(value).isoformat(" ", "seconds")
    if name == "time" and value is not None:
        return _duration(value.mean if isinstance(value, Spread) else value)
    return _value_text(value)


def _value_text(value):
    if value is None:
        return "-"
    if isinstance(value, Spread):
        return f"{value.mean:.5g} ± {value.std:.2g}"
    if type(value) is float:
        return f"{value:.5g}"
    return shown(as_text(value))


def _state_text(row):
    """The state; with the place, as "died 3:120", if the run has ended before its time."""
    cells = row.cells
    if len(row.runs) > 1 or cells["state"] not in _ENDED_EARLY:
        return cells["state"]
    return f"{cells['state']} {cells['epoch'] + 1}{':' + str(cells['batch']) if cells['batch'] else ''}"


def _duration(seconds):
    return "-" if not math.isfinite(seconds) else str(datetime.timedelta(seconds=round(seconds)))


def _cut(text):
    room = _WIDEST if text.isascii() else _WIDEST // 2  # letters that may take two columns each
    return text if len(text) <= room else f"{text[: room - 14]}...{text[-11:]}"


def _width(text):
    """Columns of a terminal that a text takes: wide letters, as of Chinese, take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _is_short_number(text):
    return text == "-" or text[:1].isdigit() or text[:1] in "-." or text in ("nan", "inf")


def notes(rows: Sequence[Row], further: Sequence[str], width: int, by_best: bool = True) -> list[str]:
    """Return lines to print below a table: why runs failed, what "3:120" means, and keys that are not shown.

    by_best: whether they are sorted by their best value, which may be a loss that only some of them have.
    """
    lines = []
    told = [row.note for row in rows if row.note]
    lines += [_fitted(note, width) for note in told[:_MOST_NOTES]]
    if len(told) > _MOST_NOTES:
        lines.append(f"{len(told) - _MOST_NOTES} more have a reason: --columns state,reason")
    placed = [text for row in rows if " " in (text := _state_text(row)) and len(row.runs) == 1]
    if placed:
        example = next((text for text in placed if ":" in text), placed[0])
        state, _, place = example.rpartition(" ")
        epoch, _, batch = place.partition(":")
        lines.append(f"{example}: {state} in epoch {epoch}{f'; it is saved up to batch {batch}' if batch else ''}")
    if further:
        names = ", ".join(map(shown, further[:3]))
        lines.append(f"the runs differ in {quantity(len(further), 'more key')}, as {names}; show them with --columns")
    return lines + (_of_different_losses(rows) if by_best else [])


def _of_different_losses(rows):
    """A line if the runs are judged by their loss, and their configs name different ones, whose values differ in scale.

    So a Huber loss is below a squared error, whichever model is better.
    """
    judged = [row for row in rows if row.cells.get("best") is not None]
    monitors = {str(row.cells.get("monitor")).partition(" ")[2] for row in judged}
    keys = [key for key in differing_keys(judged) if key.partition(".")[0] == "loss"]
    if not keys or not monitors <= {"loss", "val_loss"}:
        return []
    logged = [set(run.values) for row in judged for run in row.runs]
    metrics = [name for name in judged[0].runs[0].values if name.startswith("val_") and name not in monitors]
    shared = [name for name in metrics if all(name in names for names in logged)]
    remedy = f"; sort by a metric, as --sort {shared[0]}" if shared else ""
    return [
        f"the runs differ in {shown(keys[0])}, so {' and '.join(sorted(monitors))} does not say which is better{remedy}"
    ]


def _fitted(text, width):
    text = shown(text)
    return text if len(text) <= width else f"{text[: width - 3]}..."


# ---- CSV, JSON


def csv_text(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Return the rows as CSV with exact numbers; a group has its standard deviations in columns "<name>_std"."""
    spread = [name for name in names if any(isinstance(row.cells.get(name), Spread) for row in rows)]
    columns = [column for name in names for column in ([name, f"{name}_std"] if name in spread else [name])]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = {name: row.cells.get(name) for name in names}
        for name in spread:
            if isinstance(value := cells[name], Spread):
                cells |= {name: value.mean, f"{name}_std": value.std}
        texts = ("" if cells.get(name) is None else as_text(cells.get(name)) for name in columns)
        writer.writerow([shown(text, keep="\n\t") for text in texts])
    return text.getvalue()


_encoded = json.JSONEncoder(allow_nan=False).encode


def json_text(rows: Sequence[Row], order: str) -> str:
    """Return the rows as JSON, one a line: {"order": ..., "rows": [...]}; docs/compare.md describes a row."""
    lines = []
    for row in rows:
        record = _record(row)
        try:
            lines.append(_encoded(record))
        except ValueError:  # nan and inf, which JSON does not have
            lines.append(_encoded(without_nan(record)))
    return f'{{"order": {_encoded(order)}, "rows": [\n' + ",\n".join(lines) + "\n]}"


def _record(row):
    if len(row.runs) == 1:
        return vars(row.runs[0])
    spread = {name: value for name, value in row.cells.items() if isinstance(value, Spread)}
    return {
        "name": row.cells["name"],
        "config": row.config,
        "mean": {name: value.mean for name, value in spread.items()},
        "std": {name: value.std for name, value in spread.items()},
        "counted": [member.folder for member in row.counted],
        "runs": [vars(member) for member in row.runs],
    }


def heading(rows: Sequence[Row], order: str) -> str:
    """Return a line that says what a table shows: how many runs, of which job, in which order."""
    names = list(dict.fromkeys(row.cells["name"] for row in rows))
    number = sum(len(row.runs) for row in rows)
    jobs = shortened(names[0]) if len(names) == 1 else f"{len(names)} jobs"
    rows_told = "" if number == len(rows) else f" in {len(rows)} row{'s' if len(rows) > 1 else ''}"
    return f"{number} run{'s' if number > 1 else ''} of {jobs}{rows_told}, {order}"
