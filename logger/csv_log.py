"""metrics.csv: one row an epoch."""

import csv
import io
from pathlib import Path

from utils.distributed.world import is_main
from utils.errors import UserError, shown
from utils.files import read_beside, set_aside_damaged, write_whole


class CsvLog:
    """A table in a CSV file whose first column is the epoch; columns are added as rows bring them.

    Of several processes the first one writes.
    """

    def __init__(self, path):
        self.path = Path(path)

    def rows(self):
        """The rows as a list of {column: text}, empty if there is no file yet. Raises UserError for another file."""
        try:
            rows = list(csv.DictReader(io.StringIO(read_beside(self.path), newline="")))
            if any(None in row or None in row.values() for row in rows):
                raise ValueError("it has rows of another length than its header")
            return rows
        except FileNotFoundError:
            return []
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"{shown(self.path)}: cannot read the table: {error}; mend or move the file") from None

    def epochs(self):
        """The epochs that have a row. Raises UserError for a table that is not ours."""
        try:
            return [int(float(row["epoch"])) for row in self.rows()]
        except (KeyError, OverflowError, ValueError):
            place = shown(self.path)
            raise UserError(f"{place}: has rows without an epoch's number; mend or move the file") from None

    def append(self, row):
        """Add a row, in place of any of the same epoch or a later one, which a resumed run repeats."""
        if not is_main():
            return
        rows = [*(old for old, epoch in zip(self.rows(), self.epochs(), strict=True) if epoch < row["epoch"]), row]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(text.getvalue(), self.path, "the table")

    def set_aside_if_damaged(self):
        """The new place of a file that is not such a table, moved so that a run goes on without its rows; else None."""
        if is_main():
            try:
                self.epochs()
            except UserError:
                return set_aside_damaged(self.path)
        return None
