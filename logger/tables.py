"""Square tables, such as a confusion matrix: as a picture in TensorBoard, as a CSV file, and as text."""

import csv

from utils.errors import UserError

_PIXELS = 256  # of a picture's side, at least
_COLUMNS = 80


def show_tables(tables, writer, log_dir):
    """Write {name: rows} to TensorBoard, and into log_dir as <mode>_<name>.csv in the place of those before.

    In the picture, each row is in shades of its sum: a perfect confusion matrix has a white diagonal.
    """
    for name, rows in tables.items():
        writer.add_image(name, _picture(rows), dataformats="HW")
        path = log_dir / f"{writer.mode}_{name}.csv"
        try:
            path.unlink(missing_ok=True)  # a link would lead elsewhere
            with open(path, "x", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(rows)
        except OSError as error:
            raise UserError(f"{path}: cannot write the table: {error.strerror}") from error


def table_text(rows):
    """Lines of at most 80 columns, with the numbers of rows and columns; only the size of a table that is wider."""
    cells = [["", *range(len(rows))], *([i, *map(_short, row)] for i, row in enumerate(rows))]
    width = max(len(str(cell)) for row in cells for cell in row) + 2
    if 4 + width * len(cells) > _COLUMNS:
        return f"    {len(rows)} x {len(rows)}, too wide to show"
    return "\n".join("    " + "".join(str(cell).rjust(width) for cell in row) for row in cells)


def _short(number):
    return f"{number:.4g}" if isinstance(number, float) else number


def _picture(rows):
    import numpy as np

    table = np.array(rows, dtype=np.float64)
    shares = table / np.maximum(np.abs(table).sum(axis=1, keepdims=True), 1e-12)
    size = -(-_PIXELS // len(rows))
    return shares.clip(0, 1).repeat(size, axis=0).repeat(size, axis=1).astype(np.float32)
