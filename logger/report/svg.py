"""Draw a Chart as SVG, in the colours of style.css, so that it follows light, dark and print."""

import math
from collections.abc import Iterable, Iterator, Sequence

from logger.report.charts import Chart, Line, Point
from logger.report.elements import escape

_WIDTH, _HEIGHT = 360, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 10, 26, 40
_BESIDE_TICKS, _DIGIT = 25, 7  # the label of the axis and gaps; a digit
_MOST_MARKED = 30  # points of a line that are drawn one by one
_MOST_POINTS = 400  # of a line
_LARGEST = 1e100


def figures(charts: Iterable[Chart | None]) -> str:
    """Return the charts that have something to show, side by side."""
    drawn = [(chart.title, draw(chart)) for chart in charts if chart is not None]
    parts = [f"<figure>{svg}<figcaption>{escape(title)}</figcaption></figure>" for title, svg in drawn if svg]
    return f'<div class="charts">{"".join(parts)}</div>' if parts else ""


def draw(chart: Chart) -> str:
    """Return the chart as an <svg> element, 360 x 240; "" if it has nothing to show."""
    lines = [Line(line.label, _drawable(line.points), line.kind) for line in chart.lines]
    lines = [Line(line.label, _in_log(line.points), line.kind) for line in lines] if chart.log_y else lines
    points = [point for line in lines for point in line.points if point[1] == point[1]]
    corners = [(x, y) for left, right, height in chart.bars for x, y in ((left, 0.0), (right, height))]
    if not points and not corners:
        return ""
    xs, ys = zip(*points, *corners, strict=True)
    x, y = _padded(*(chart.limits or (min(xs), max(xs)))), _padded(*(chart.limits or (min(ys), max(ys))))
    if corners and not chart.limits:
        x, y = (min(xs), max(xs)), (0.0, max(ys) * 1.05 or 1.0)
    rows = _rows(y, chart.log_y)
    space = _Space(x, y, max([_LEFT, *(_BESIDE_TICKS + _DIGIT * len(text) for _, text in rows)]))
    body = [*_axes(chart, space, rows), *_bars(chart, space)]
    for line in lines:
        body += _line(line, space, chart.log_y)
    body += _legend(lines)
    name = escape(f"{chart.title} over {chart.x_label}")
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">{"".join(body)}</svg>'


class _Space:
    """Where values are drawn. x, y: (lowest, highest). left: column of the vertical axis."""

    def __init__(self, x, y, left) -> None:
        self.x, self.y, self.left = x, y, left

    def at(self, x, y):
        """(column, row) of a point, cut to the picture."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        column = self.left + min(1.02, max(-0.02, across)) * (_WIDTH - self.left - _RIGHT)
        row = _HEIGHT - _BOTTOM - min(1.02, max(-0.02, up)) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{column:.1f}".removesuffix(".0"), f"{row:.1f}".removesuffix(".0")


def _drawable(points):
    """The points, thinned out, with nan for what cannot be drawn."""
    points = [(x, y if abs(y) < _LARGEST else math.nan) for x, y in points]
    if len(points) <= _MOST_POINTS:
        return points
    size = -(-len(points) // (_MOST_POINTS // 2))
    kept = []
    for start in range(0, len(points), size):  # the lowest and the highest of each part, so that no peak is lost
        part = [point for point in points[start : start + size] if point[1] == point[1]] or points[start : start + 1]
        kept += sorted({min(part, key=lambda one: one[1]), max(part, key=lambda one: one[1])})
    return kept


def _in_log(points):
    return [(x, math.log10(y) if y > 0 else math.nan) for x, y in points]


def _padded(low, high):
    pad = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    return low - pad, high + pad


def ticks(low: float, high: float, whole: bool = False, most: int = 6) -> list[float]:
    """Return round numbers between low and high: multiples of 1, 2 or 5 times a power of ten."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= most)
    step = max(1.0, step) if whole else step
    first = math.ceil(low / step)
    return [(first + i) * step for i in range(int(high / step - first) + 1)]


def _rows(y, log_y):
    """[(place, text), ...] of the ticks between y = (lowest, highest)."""
    if not log_y:
        return [(value, f"{value:.6g}") for value in ticks(*y)]
    low, high = math.floor(y[0]), math.ceil(y[1])
    rows = [(math.log10(f) + e, f * 10.0**e) for e in range(low, high + 1) for f in (1, 2, 5)]
    rows = [(place, f"{value:.6g}") for place, value in rows if y[0] <= place <= y[1]]
    return rows if len(rows) <= 7 else [row for row in rows if row[0] == round(row[0])]


def _axes(chart, space, rows) -> Iterator[str]:
    """The frame, the ticks with a grid, and the labels."""
    bottom, right, left = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT, space.left
    for place, text in rows:
        _, y = space.at(space.x[0], place)
        yield f'<path class="grid" d="M{left} {y}H{right}"/>'
        yield f'<text x="{left - 5}" y="{y}" dy=".35em" class="end">{text}</text>'
    for value in ticks(*space.x, whole=chart.whole_x):
        x, _ = space.at(value, space.y[0])
        yield f'<path class="grid" d="M{x} {_TOP}V{bottom}"/>'
        yield f'<text x="{x}" y="{bottom + 14}" class="middle">{value:.6g}</text>'
    yield f'<path class="axis" d="M{left} {_TOP}V{bottom}H{right}"/>'
    yield f'<text x="{(left + right) // 2}" y="{_HEIGHT - 8}" class="middle">{escape(chart.x_label)}</text>'
    if chart.y_label:
        turned = f'transform="translate(11 {(_TOP + bottom) // 2}) rotate(-90)"'
        yield f'<text {turned} class="middle">{escape(chart.y_label)}</text>'


def _bars(chart, space) -> Iterator[str]:
    for left, right, height in chart.bars:
        (x, y), (end, bottom) = space.at(left, height), space.at(right, 0.0)
        title = f"<title>{left:.3g} to {right:.3g}: {height:.4g}</title>"
        yield f'<path class="bar" d="M{x} {bottom}V{y}H{end}V{bottom}z">{title}</path>'


def _line(line, space, in_log) -> Iterator[str]:
    if line.kind == "dots":
        dots = "".join(f"M{x} {y}h0" for x, y in (space.at(*point) for point in line.points if point[1] == point[1]))
        yield f'<path class="dots" d="{dots}"/>'
        return
    path, is_apart = [], True
    for point in line.points:
        if point[1] == point[1]:
            path.append(("M" if is_apart else "L") + " ".join(space.at(*point)))
        is_apart = point[1] != point[1]
    yield f'<path class="line {line.kind}" d="{"".join(path)}"/>'
    if line.kind != "guide" and len(line.points) <= _MOST_MARKED:
        for x, y in line.points:
            if y == y:
                value, (column, row) = 10**y if in_log else y, space.at(x, y)
                yield _marker(line.kind, column, row, f"<title>{escape(line.label)} {x:g}: {value:.6g}</title>")


def _marker(kind, x, y, title=""):
    """A disc, or a square for the second line, so that they differ without their colours."""
    if kind == "second":
        return f'<path class="mark second" d="M{x} {y}m-3-3h6v6h-6z">{title}</path>'
    return f'<circle class="mark first" cx="{x}" cy="{y}" r="3">{title}</circle>'


def _legend(lines: Sequence[Line]) -> Iterator[str]:
    x = _LEFT
    for line in lines:
        if not line.label:
            continue
        kind, length = ("dots", 0) if line.kind == "dots" else (f"line {line.kind}", 22)
        yield f'<path class="{kind}" d="M{x + (22 - length) // 2} 11h{length}"/>'
        if line.kind in ("first", "second"):
            yield _marker(line.kind, str(x + 11), "11")
        last = _last(line.points) if line.kind in ("first", "second") else ""
        text = f"{line.label}{last}"
        yield f'<text x="{x + 28}" y="11" dy=".35em">{escape(text)}</text>'
        x += 46 + 6 * len(text)


def _last(points: Sequence[Point]):
    values = [y for _, y in points if y == y]
    return f" {values[-1]:.4g}" if values else ""
