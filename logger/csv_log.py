"""metrics.csv: one row an epoch."""

import contextlib
import csv
import io
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.distributed.world import is_main
from utils.errors import UserError, shown
from utils.files import read_beside, set_aside_damaged, write_whole

_MOST_VALUES = 1_000_000


class DamagedTable(UserError):
    """A file that this program did not write as it is now."""


class CsvLog:
    """A table in a CSV file whose first column is the epoch; columns are added as rows bring them.

    Of several processes the first one writes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def rows(self) -> list[dict[str, str]]:
        """The rows as a list of {column: text}, empty without a file. Raises UserError for any other file."""
        try:
            text = read_beside(self.path)
            if sum(map(text.count, ",\n\r")) > _MOST_VALUES:
                raise ValueError(f"it holds more than {_MOST_VALUES:,} values")
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
            if any(None in row or None in row.values() for row in rows):
                raise ValueError("it has rows of another length than its header")
            return rows
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"{shown(self.path)}: cannot read the table: {error.strerror or error}") from None
        except (ValueError, csv.Error) as error:
            raise DamagedTable(f"{shown(self.path)}: cannot read the table: {error}; mend or move the file") from None

    def numbers(self) -> list[dict[str, float]]:
        """The rows as {column: number}, without entries that are no numbers. Raises UserError as rows() does."""
        rows = []
        for row in self.rows():
            rows.append({})
            for key, text in row.items():
                with contextlib.suppress(ValueError):
                    rows[-1][key] = float(text)
        return rows

    def epochs(self) -> list[int]:
        """The epochs that have a row. Raises UserError for a table of something else."""
        return [epoch for epoch, _ in self.rows_of_epochs()]

    def rows_of_epochs(self) -> list[tuple[int, dict[str, str]]]:
        """The rows as [(epoch, {column: text}), ...]. Raises UserError for a table of something else."""
        rows = self.rows()
        try:
            epochs = [int(float(row["epoch"])) for row in rows]
            if not all(0 <= epoch < 2**53 for epoch in epochs):
                raise ValueError
            return list(zip(epochs, rows, strict=True))
        except (KeyError, OverflowError, ValueError):
            place = shown(self.path)
            raise DamagedTable(f"{place}: has rows without an epoch's number; mend or move the file") from None

    def append(self, row: dict[str, Any]) -> None:
        """Add a row, and remove those of the same epoch or a later one, which a resumed run repeats."""
        if not is_main():
            return
        rows = [*(old for epoch, old in self.rows_of_epochs() if epoch < row["epoch"]), row]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(text.getvalue(), self.path, "the table")

    def resume(self, last: dict[str, Any], logger: logging.Logger) -> None:
        """Rename a damaged file, and append the last epoch's row if a kill came between its checkpoint and the row."""
        if not is_main():
            return
        try:
            self.epochs()
        except DamagedTable:
            logger.warning("metrics.csv is damaged and was renamed to %s", set_aside_damaged(self.path))
        if "epoch" in last and last["epoch"] not in self.epochs():
            self.append(last)


def best_row(rows: Sequence[dict[str, float]], monitor: str) -> dict[str, float] | None:
    """Return the first row with the best value of the monitor, or the last row if it is "off"; None without any."""
    mode, _, name = monitor.partition(" ")
    if mode == "off":
        return rows[-1] if rows else None
    rows = [row for row in rows if math.isfinite(row.get(name, math.nan))]
    return (min if mode == "min" else max)(rows, key=lambda row: row[name], default=None)
