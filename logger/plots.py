"""Draw a run's curves: python -m logger.plots saved/log/<name>/<run> writes curves.png beside metrics.csv."""

import argparse
import math
from pathlib import Path

from logger.csv_log import CsvLog
from logger.pictures import save_figure
from utils.errors import UserError, clean_exit, in_one_line, shown

_MOST_PANELS = 50
_LARGEST = 1e100  # matplotlib cannot draw an axis beyond it


def plot_curves(table: Path, picture: Path) -> None:
    """Draw each value of metrics.csv over the epochs, training and validation in one panel, into a PNG."""
    from matplotlib.figure import Figure

    rows, epochs = CsvLog(table).rows(), CsvLog(table).epochs()
    if not rows or len(rows[0]) == 1:
        raise UserError(f"{shown(table)}: no epochs to draw; give the log folder of a run, saved/log/<name>/<run>")
    names = [name for name in rows[0] if name != "epoch" and not name.startswith("val_")]
    if len(names) > _MOST_PANELS:
        raise UserError(f"{shown(table)}: has {len(names)} columns; up to {_MOST_PANELS} can be drawn")
    figure = Figure(figsize=(3.6 * len(names), 3), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for column, label in ((name, "train"), (f"val_{name}", "valid")):
            if column in rows[0]:
                panel.plot(epochs, [_number(row[column]) for row in rows], marker=".", label=label)
        panel.set(title=shown(name).replace("$", r"\$"), xlabel="epoch")  # two of them would enclose a formula
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.3)
        panel.legend()
    save_figure(figure, picture)


def _number(text):
    """The number in the text; nan for anything that cannot be drawn."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if abs(number) < _LARGEST else math.nan


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw a run's curves into curves.png beside its metrics.csv.")
    parser.add_argument("log_dir", type=Path, help="log folder of a run: saved/log/<name>/<run>")
    log_dir = in_one_line(parser).parse_args().log_dir
    with clean_exit():
        plot_curves(log_dir / "metrics.csv", log_dir / "curves.png")
        print(shown(log_dir / "curves.png"))
