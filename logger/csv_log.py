"""metrics.csv: one row an epoch."""

import csv
import os
from pathlib import Path


class CsvLog:
    """A table in a CSV file whose first column is the epoch; columns are added as rows bring them."""

    def __init__(self, path):
        self.path = Path(path)

    def rows(self):
        """The rows as a list of {column: text}, empty if there is no file yet."""
        if not self.path.exists():
            return []
        with open(self.path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def append(self, row):
        """Add a row, in place of any of the same epoch or a later one, which a resumed run repeats."""
        kept = [old for old in self.rows() if int(old["epoch"]) < row["epoch"]]
        rows = [*kept, row]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self.path)
