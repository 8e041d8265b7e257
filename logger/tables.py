"""Square tables, such as a confusion matrix: as a picture in TensorBoard, as a CSV file, and as text."""

import csv
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logger.pictures import figure_as_array, plain
from utils.distributed.world import is_main
from utils.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from logger.visualization import TensorboardWriter

_COLUMNS = 80
_LABEL = 16  # characters of a name that are shown
_NUMBERS_DRAWN = 30  # with more classes, drawing them takes seconds
_NAMES_DRAWN = 50  # with more classes the names would be too small, or the picture too large


def show_tables(
    tables: dict[str, list[list[float]]],
    writer: "TensorboardWriter",
    log_dir: Path,
    classes: Sequence[Any] | None = None,
) -> None:
    """Write tables to TensorBoard as pictures, and into log_dir as <mode>_<name>.csv, replacing earlier ones.

    tables: {name: rows}.
    writer: of TensorBoard; its mode is part of the file names.
    log_dir: folder of the CSV files.
    classes: names of the rows, shown at the edges of tables of that size.

    Of several processes the first one writes.
    """
    for name, rows in tables.items() if is_main() else ():
        names = names_for(rows, classes)
        if writer.enabled:
            writer.add_image(name, figure_as_array(table_figure(rows, names)), dataformats="HWC")
        text = io.StringIO(newline="")
        csv.writer(text).writerows(with_names(rows, names) if names else rows)
        write_whole(text.getvalue(), log_dir / f"{writer.mode}_{name}.csv", "the table")


def table_text(rows: list[list[float]], classes: Sequence[Any] | None = None) -> str:
    """Return the table as lines of at most 80 columns, or only its size if it is wider.

    Rows and columns are labelled by the classes' names, cut to the room there is, or by their numbers.
    """
    numbers = [[_short(cell) for cell in row] for row in rows]
    needed = max(len(str(cell)) for cell in [len(rows) - 1, *itertools.chain(*numbers)]) + 2
    names = names_for(rows, classes) or range(len(rows))
    labels = [str(name)[:_LABEL] for name in names]
    wanted, room = 2 + max(map(len, labels)), _COLUMNS - 4
    left = max(needed, min(wanted, room - needed * len(rows)))
    width = min(max(needed, wanted), (room - left) // len(rows))
    if width < needed:
        return f"    {len(rows)} x {len(rows)}, too wide to show"
    lines = zip(["", *labels], [[label[: width - 2] for label in labels], *numbers], strict=True)
    return "\n".join(
        "    " + label[: left - 2].rjust(left) + "".join(str(cell).rjust(width) for cell in cells)
        for label, cells in lines
    )


def names_for(rows: list[list[float]], classes: Sequence[Any] | None) -> list[str] | None:
    """The classes' names as text; None unless there is one for each row."""
    return list(map(str, classes)) if classes and len(classes) == len(rows) else None


def with_names(rows: list[list[float]], names: list[str]) -> list[list[Any]]:
    """The rows with their names in front, below a row of the names."""
    return [["", *names], *([name, *row] for name, row in zip(names, rows, strict=True))]


def _short(number):
    return f"{number:.4g}" if isinstance(number, float) else number


def _shares(rows):
    import numpy as np

    table = np.array(rows, dtype=np.float64)
    return (table / np.maximum(np.abs(table).sum(axis=1, keepdims=True), 1e-12)).clip(0, 1)


def table_figure(rows: list[list[float]], names: Sequence[str] | None = None) -> "Figure":
    """Return a matplotlib figure of a table: targets down, predictions across, and the numbers except 0.

    names: of the rows, by default their indices. Of more than 30 rows no numbers are drawn, of more than 50 no names.

    The larger a cell's share of its row, the darker it is: a perfect confusion matrix has a dark diagonal. Shades of
    one colour can be told apart in print, too.
    """
    from matplotlib.figure import Figure

    size, shares = len(rows), _shares(rows)
    longest = max(len(str(_short(cell))) for row in rows for cell in row) if size <= _NUMBERS_DRAWN else 2
    side = min(16, max(4, (0.12 + 0.08 * longest) * size + 1))  # inches
    figure = Figure(figsize=(side, side), dpi=100, layout="constrained")
    axis = figure.add_subplot(xlabel="prediction", ylabel="target")
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if size <= _NAMES_DRAWN:
        labels = [plain(name[:_LABEL]) for name in names or map(str, range(size))]
        axis.set_xticks(range(size), labels, rotation=90 if max(map(len, labels)) > 3 else 0)
        axis.set_yticks(range(size), labels)
    for (i, row), j in itertools.product(enumerate(rows), range(size)) if size <= _NUMBERS_DRAWN else ():
        if row[j]:
            color = "white" if shares[i, j] > 0.5 else "black"
            axis.text(j, i, str(_short(row[j])), ha="center", va="center", fontsize=9, color=color)
    return figure
