"""The charts of a run as plain data, which svg.py draws into the report and logger/plots.py into PNGs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from logger.details import NUM_BINS, Classes, Values

Point = tuple[float, float]
Kind = Literal["first", "second", "dots", "guide"]


@dataclass(frozen=True)
class Line:
    """A line through points, in their order; a nan interrupts it. kind "guide" is where points should be."""

    label: str
    points: Sequence[Point]
    kind: Kind = "first"


@dataclass(frozen=True)
class Chart:
    """Lines and bars over common axes. bars: [(left, right, height), ...]. limits: of both axes, if they are equal."""

    title: str
    x_label: str
    lines: Sequence[Line] = ()
    bars: Sequence[tuple[float, float, float]] = ()
    y_label: str = ""
    log_y: bool = False
    whole_x: bool = False
    limits: Point | None = None


def curve_charts(epochs: Sequence[int], columns: dict[str, list[float]]) -> list[Chart]:
    """Return a chart for each value of metrics.csv, training and validation in one; the learning rates are the last.

    columns: {name: a number for each epoch, or nan}.
    """
    names = [name for name in columns if not name.startswith("val_") or name.removeprefix("val_") not in columns]
    names.sort(key=lambda name: name == "lr" or name.startswith("lr_"))
    charts = []
    for name in names:
        is_rate = name == "lr" or name.startswith("lr_")
        both: list[tuple[str, str, Kind]] = [(name, "train", "first"), (f"val_{name}", "valid", "second")]
        if is_rate:
            both = [(name, "", "first")]
        elif name.startswith("val_"):
            both = [(name, "valid", "second")]
        lines = [
            Line(label, list(zip(epochs, columns[column], strict=True)), kind)
            for column, label, kind in both
            if column in columns
        ]
        values = [value for value in columns[name] if math.isfinite(value)]
        spans = is_rate and bool(values) and min(values) > 0 and max(values) > 20 * min(values)
        charts.append(Chart(name, "epoch", lines, log_y=spans, whole_x=True))
    return charts


def pace_chart(pace: dict[int, tuple[float, int]]) -> Chart | None:
    """Return the chart of the throughput; None without numbers. pace: {epoch: (seconds, batches)}, as of read_pace.

    The unit is batches per second, or seconds per epoch if the batches are unknown.
    """
    whole = {epoch: row for epoch, row in pace.items() if row[0] > 0 and math.isfinite(row[0])}
    if not whole:
        return None
    if not all(batches for _, batches in whole.values()):
        points = [(epoch, seconds) for epoch, (seconds, _) in whole.items()]
        return Chart("seconds in an epoch", "epoch", [Line("", points)], whole_x=True)
    points = [(epoch, batches / seconds) for epoch, (seconds, batches) in whole.items()]
    return Chart("batches per second, with validation", "epoch", [Line("", points)], whole_x=True)


def reliability_chart(classes: Classes) -> Chart:
    """Return the reliability diagram: the share of right predictions for each interval of their probability."""
    bars = [
        (i / NUM_BINS, (i + 1) / NUM_BINS, right / count) for i, (count, _, right) in enumerate(classes.bins) if count
    ]
    means = [(total / count, right / count) for count, total, right in classes.bins if count]
    lines = [Line("perfectly calibrated", [(0, 0), (1, 1)], "guide"), Line("mean of an interval", means, "dots")]
    return Chart("reliability", "probability", lines, bars, "share that is right", limits=(0, 1))


def confidence_chart(classes: Classes) -> Chart:
    """Return the histogram of the predictions' probabilities."""
    bars = [(i / NUM_BINS, (i + 1) / NUM_BINS, count) for i, (count, _, _) in enumerate(classes.bins)]
    return Chart("how confident the predictions are", "probability", bars=bars, y_label="examples")


def calibration_error(classes: Classes) -> float:
    """Return the expected calibration error: Naeini et al. 2015, as in Guo et al. 2017, over 15 equal intervals."""
    samples = sum(count for count, _, _ in classes.bins)
    return sum(abs(right - total) for _, total, right in classes.bins) / max(1, samples)


def value_charts(values: Values) -> list[Chart]:
    """Return the charts of a regression: predictions against targets, and the histogram of the residuals."""
    if not values.pairs:
        return []
    name = f" of {values.name}" if values.name else ""
    low, high = min(map(min, values.pairs)), max(map(max, values.pairs))
    lines = [Line("prediction = target", [(low, low), (high, high)], "guide"), Line("", values.pairs, "dots")]
    residuals = [prediction - target for target, prediction in values.pairs]
    by_target = [(target, prediction - target) for target, prediction in values.pairs]
    zero = Line("prediction = target", [(low, 0.0), (high, 0.0)], "guide")
    return [
        Chart(f"predictions{name}", "target", lines, y_label="prediction", limits=(low, high)),
        Chart(f"residuals{name}", "target", [zero, Line("", by_target, "dots")], y_label="prediction - target"),
        Chart(f"distribution of residuals{name}", "prediction - target", bars=histogram(residuals), y_label="examples"),
    ]


def histogram(numbers: Sequence[float], num_bins: int = 24) -> list[tuple[float, float, float]]:
    """Return [(left, right, count), ...] of equal intervals over the numbers."""
    low, high = min(numbers), max(numbers)
    width = (high - low) / num_bins or 1.0
    counts = [0] * num_bins
    for number in numbers:
        counts[min(num_bins - 1, int((number - low) / width))] += 1
    return [(low + i * width, low + (i + 1) * width, float(count)) for i, count in enumerate(counts)]


def scores(classes: Classes) -> list[tuple[str, int, float, float, float]]:
    """Return (name, examples, precision, recall, F1) of each class; nan where nothing is divided by."""
    found = []
    for name, (examples, predictions, right) in zip(classes.names, classes.per_class, strict=True):
        precision = right / predictions if predictions else math.nan
        recall = right / examples if examples else math.nan
        f1 = 2 * right / (examples + predictions) if examples + predictions else math.nan
        found.append((name, examples, precision, recall, f1))
    return found


def confusions(classes: Classes) -> list[tuple[str, str, int, float]]:
    """Return (target, prediction, count, share of the target's examples) of wrong pairs, the most frequent first."""
    wrong = [pair for pair in classes.pairs or () if pair[0] != pair[1]]
    wrong.sort(key=lambda pair: (-pair[2], pair[:2]))
    totals = [examples for examples, _, _ in classes.per_class]
    return [(classes.names[i], classes.names[j], count, count / max(1, totals[i])) for i, j, count in wrong]
