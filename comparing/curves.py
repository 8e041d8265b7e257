"""Curves of one logged value for many runs, drawn over each other into a PNG."""

import math
from collections.abc import Sequence
from pathlib import Path

from comparing.choose import names_in, short_names
from comparing.rows import Row, as_text, differing_keys, spread_of
from logger.pictures import save_figure
from logger.run_summary import read_history
from utils.errors import UserError, shortened, shown
from utils.nearest import did_you_mean

_MOST_CURVES = 20  # that a legend tells apart
_IN_A_LABEL = 60  # characters
_LARGEST = 1e100  # matplotlib cannot draw an axis beyond it


def plot_runs(path: Path, rows: Sequence[Row], metric: str | None) -> None:
    """Draw a curve over the epochs for each row into a PNG; of a group, the mean and one standard deviation around it.

    metric: the logged name; None draws what the runs monitor. Raises UserError if nothing of that name is logged.
    """
    from matplotlib.figure import Figure

    if path.suffix.lower() != ".png":
        raise UserError(f"--plot {shown(path)}: give the name of a .png file")
    name = metric or _monitored(rows)
    curves = {i: curve for i, row in enumerate(rows) if (curve := _curve(row, name))}
    if not curves:
        logged = {other for row in rows for run in row.runs for other in run.values}
        raise UserError(f"--metric {shown(name)}: no run logs it{did_you_mean(name, logged)}")
    if len(curves) > _MOST_CURVES:
        raise UserError(f"--plot: {len(curves)} curves; up to {_MOST_CURVES} can be told apart; give --top or --where")
    labels = _labels([rows[i] for i in curves])
    figure = Figure(figsize=(9, 4.5 + 0.2 * max(0, len(curves) - 8)), layout="constrained")
    axis = figure.add_subplot()
    for number, (label, curve) in enumerate(zip(labels, curves.values(), strict=True)):
        style = ("-", "--")[number // 10 % 2]  # there are ten colours
        epochs, means, deviations = zip(*curve, strict=True)
        marker = "." if len(epochs) < 50 else None
        (line,) = axis.plot(epochs, means, style, marker=marker, color=f"C{number % 10}", label=label)
        low, high = ([m + sign * d for m, d in zip(means, deviations, strict=True)] for sign in (-1, 1))
        axis.fill_between(epochs, low, high, color=line.get_color(), alpha=0.2, linewidth=0)  # nothing where it is nan
    axis.set(xlabel="epoch", ylabel=_plain(name))
    axis.locator_params(axis="x", integer=True)
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    save_figure(figure, path)


def _monitored(rows):
    names = {row.cells["monitor"].partition(" ")[2] for row in rows if row.cells.get("best") is not None}
    if len(names) == 1:
        return names.pop()
    why = f"the runs monitor {' and '.join(sorted(names))}" if names else "the runs monitor nothing"
    raise UserError(f"--plot: {shown(why)}; say what to draw with --metric, such as --metric val_loss")


def _curve(row, metric):
    """[(epoch, mean, standard deviation)] over those runs of a row that have the epoch."""
    values: dict[int, list[float]] = {}
    for run in row.counted:
        for logged in read_history(run.folder):  # of a damaged table nothing, which the run's row says
            if abs(logged.get(metric, math.nan)) < _LARGEST:
                values.setdefault(int(logged["epoch"]), []).append(logged[metric])
    return [(epoch, *spread_of(numbers)[:2]) for epoch, numbers in sorted(values.items())]


def _labels(rows):
    """A text for each row: the values of the config in which the rows differ, and the run where that is not enough."""
    keys = differing_keys(rows)
    short = short_names(keys, names_in(rows))
    texts = [", ".join(f"{short[key]} {as_text(row.config[key])}" for key in keys if key in row.config) for row in rows]
    labels = []
    for row, text in zip(rows, texts, strict=True):
        alone = bool(text) and texts.count(text) == 1 and len(text) <= _IN_A_LABEL
        label = text if alone else f"{row.cells['name']}/{row.cells['run']} {text}".strip()
        labels.append(_plain(label if len(label) <= _IN_A_LABEL else f"{label[: _IN_A_LABEL - 3]}..."))
    return labels


def _plain(text):
    return shortened(text).replace("$", r"\$")  # two of them would enclose a formula
