"""Draw the plots of a run's report as PNGs: python -m logger.plots saved/log/<name>/<run> --what curves."""

import argparse
import base64
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logger.pictures import save_figure
from logger.report.charts import Chart, confidence_chart, curve_charts, reliability_chart, value_charts
from logger.run_files import RunFiles
from utils.errors import UserError, clean_exit, in_one_line, shown
from utils.runs.run_folder import folders_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WHAT = ("curves", "confusion", "reliability", "mistakes", "residuals")
_MOST_PANELS = 50
_PER_ROW = 3
_MOST_COUNTED = 30  # classes of a confusion matrix whose counts fit
_MOST_NAMED = 200
_COLORS = {"first": "#0072b2", "second": "#d55e00", "dots": "#d55e00", "guide": "#57606a"}
_STYLES: dict[str, dict[str, Any]] = {
    "first": {"marker": "o"},
    "second": {"marker": "s", "linestyle": "--"},
    "dots": {"marker": ".", "linestyle": "", "alpha": 0.7},
    "guide": {"linestyle": ":"},
}


def plot(run: RunFiles, what: str, picture: Path) -> None:
    """Draw a plot of a run into a PNG. what: one of WHAT. Raises UserError if the run has nothing for it."""
    figures = _figures(run)
    if what not in figures:
        there = f"; it has {', '.join(figures)}" if figures else ""
        problem = "no epochs to draw" if what == "curves" else f"nothing to draw as {what}, which test.py finds{there}"
        raise UserError(next(iter(run.problems), f"{shown(run.log_dir)}: {problem}"))
    save_figure(figures[what](), picture)


def _figures(run) -> dict[str, Callable[[], "Figure"]]:
    """{what: how to draw it} of what the run has."""
    found: dict[str, Callable[[], Figure]] = {}
    if columns := run.columns():
        found["curves"] = lambda: _panels(curve_charts(list(run.rows), columns))
    classes = run.details and run.details.classes
    if classes is not None:
        found["reliability"] = lambda: _panels([reliability_chart(classes), confidence_chart(classes)])
        if classes.pairs:
            found["confusion"] = lambda: _confusion(classes)
        if mistakes := [one for one in classes.mistakes if one.picture]:
            found["mistakes"] = lambda: _mistakes(mistakes)
    if values := run.details and run.details.values:
        found["residuals"] = lambda: _panels([chart for one in values for chart in value_charts(one)])
    return found


def _panels(charts: Sequence[Chart]) -> "Figure":
    """The charts as panels, up to three in a row."""
    from matplotlib.figure import Figure

    if len(charts) > _MOST_PANELS:
        raise UserError(f"there are {len(charts)} charts to draw; up to {_MOST_PANELS} can be drawn")
    across, down = min(_PER_ROW, len(charts)), -(-len(charts) // _PER_ROW)
    figure = Figure(figsize=(3.6 * across, 3 * down), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for panel in panels[len(charts) :]:
        panel.remove()
    for panel, chart in zip(panels, charts, strict=False):
        _draw(panel, chart)
    return figure


def _draw(panel, chart):
    for left, right, height in chart.bars:
        panel.bar(left, height, right - left, align="edge", color="#0072b2", alpha=0.4, edgecolor="#0072b2")
    for line in chart.lines:
        points = [(x, y if abs(y) < 1e100 else math.nan) for x, y in line.points]  # matplotlib has limits
        style = {key: value for key, value in _STYLES[line.kind].items() if key != "marker" or len(points) <= 60}
        style = _STYLES["dots"] if line.kind == "dots" else style
        panel.plot(*zip(*points, strict=True), markersize=4, color=_COLORS[line.kind], label=line.label, **style)
    if chart.log_y:
        panel.set_yscale("log")
    panel.set(title=_plain(chart.title), xlabel=_plain(chart.x_label), ylabel=_plain(chart.y_label))
    if chart.whole_x:
        panel.xaxis.get_major_locator().set_params(integer=True)
    panel.grid(alpha=0.3)
    if any(line.label for line in chart.lines):
        panel.legend()


def _confusion(classes):
    from matplotlib.figure import Figure

    size = len(classes.names)
    table = [[0.0] * size for _ in range(size)]
    for i, j, count in classes.pairs:
        table[i][j] = count / max(1, classes.per_class[i][0])
    counted = size <= _MOST_COUNTED
    side = max(4.0, 0.45 * size + 1.5 if counted else min(24.0, 0.12 * size + 2))
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.add_subplot()
    axis.imshow(table, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="prediction", ylabel="target")
    if size <= _MOST_NAMED:
        font = 9 if counted else 6
        names = [_plain(name if len(name) <= 20 else f"{name[:19]}…") for name in classes.names]
        turned = max(map(len, names)) > 2
        axis.set_xticks(range(size), names, rotation=90 if turned else 0, fontsize=font)
        axis.set_yticks(range(size), names, fontsize=font)
    for i, j, count in classes.pairs if counted else ():
        color = "white" if table[i][j] > 0.5 else "black"
        axis.text(j, i, f"{count}", ha="center", va="center", fontsize=8, color=color)
    return figure


def _mistakes(found):
    from matplotlib.figure import Figure
    from PIL import Image

    across = min(10, len(found))
    down = -(-len(found) // across)
    figure = Figure(figsize=(1.2 * across, 1.55 * down), layout="constrained")
    for i, panel in enumerate(figure.subplots(down, across, squeeze=False).flat):
        panel.axis("off")
        if i < len(found):
            content = base64.b64decode(found[i].picture.uri.partition(",")[2])
            try:
                picture = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
                panel.imshow(picture.convert("RGB"))
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                raise UserError(f"a picture of a mistake is damaged: {shown(error)}; test again") from None
            texts = (found[i].prediction[:14], f"not {found[i].target[:12]}", f"{found[i].probability:.3f}")
            panel.set_title("\n".join(map(_plain, texts)), fontsize=7)
    return figure


def _plain(text):
    """The text for matplotlib, in which two $ would enclose a formula."""
    return shown(text).replace("$", r"\$")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw a plot of a run as a PNG in its log folder.")
    parser.add_argument("run", help="folder of a run: saved/log/<name>/<run> or saved/models/<name>/<run>")
    parser.add_argument("--what", choices=WHAT, default="curves", help="what to draw (curves); the rest needs test.py")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the PNG, by default <what>.png in the log folder")
    flags = in_one_line(parser).parse_args()
    with clean_exit():
        run = RunFiles(*folders_of(flags.run))
        path = flags.out or run.log_dir / f"{flags.what}.png"
        plot(run, flags.what, path)
        print(shown(path))
