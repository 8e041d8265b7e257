"""metrics.csv: one row an epoch."""

import csv
import os
from pathlib import Path

from utils.distributed.world import is_main
from utils.errors import UserError


class CsvLog:
    """A table in a CSV file whose first column is the epoch; columns are added as rows bring them.

    Of several processes the first one writes.
    """

    def __init__(self, path):
        self.path = Path(path)

    def rows(self):
        """The rows as a list of {column: text}, empty if there is no file yet. Raises UserError for another file."""
        try:
            with open(self.path, newline="", encoding="utf-8") as file:
                return list(csv.DictReader(file))
        except FileNotFoundError:
            return []
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"{self.path}: cannot read the table: {error}; mend or move the file") from None

    def epochs(self):
        """The epochs that have a row. Raises UserError for a table that is not ours."""
        try:
            return [int(float(row["epoch"])) for row in self.rows()]
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{self.path}: has rows without an epoch's number; mend or move the file") from None

    def append(self, row):
        """Add a row, in place of any of the same epoch or a later one, which a resumed run repeats."""
        if not is_main():
            return
        rows = [*(old for old, epoch in zip(self.rows(), self.epochs(), strict=True) if epoch < row["epoch"]), row]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns, restval="")
                writer.writeheader()
                writer.writerows(rows)
            temporary.replace(self.path)
        except OSError as error:
            raise UserError(f"{self.path}: cannot write the table: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)
