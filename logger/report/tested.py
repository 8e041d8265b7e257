"""The sections of a report on what test.py found: figures, classes, mistakes, values, texts, pictures."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

from logger.details import Classes, Picture, TestDetails, Values
from logger.report.charts import (
    calibration_error,
    confidence_chart,
    confusions,
    reliability_chart,
    scores,
    value_charts,
)
from logger.report.elements import escape, section, short, table
from logger.report.svg import figures
from logger.run_files import RunFiles
from utils.errors import quantity

_MOST_TESTED = 100  # checkpoints and splits
_MOST_IN_TABLE = 200  # classes of a confusion matrix
_MOST_SCORED = 300
_MOST_CONFUSIONS = 20
_SHADES = (0.5, 0.2, 0.1, 0.05, 0.0)  # shares of a row, from the darkest on


def test_sections(run: RunFiles) -> Iterator[str]:
    """Yield the sections, each "" if the run has nothing for it."""
    shown, left_out = run.results[:_MOST_TESTED], len(run.results) - _MOST_TESTED
    more = f'<p class="note">{left_out:,} further results are in test_results.json.</p>' if left_out > 0 else ""
    yield section("Test", *itertools.chain.from_iterable(map(_measured, shown)), more)
    details = run.details
    if details is None:
        return
    what = _tested_on(details.checkpoint, details.split, details.samples)
    if details.classes is not None:
        yield section("Classes", what, _scores(details.classes))
        both = f"<div>{_matrix(details.classes)}</div><div>{_confusions(details.classes)}</div>"
        yield section("Confusion matrix", f'<div class="side">{both}</div>')
        yield section("Calibration", *_calibration(details.classes))
        yield section("Most confident mistakes", _mistakes(details.classes))
    for values in details.values:
        yield section(f"Predictions of {values.name}" if values.name else "Predictions", what, *_values(values))
    yield section("Texts", _texts(details))
    yield section("Inputs and outputs", _images(details))
    yield section("Samples", _drawn(details))


def _measured(result: tuple[str, str, dict[str, Any]]) -> tuple[str, str]:
    """A checkpoint, a split, and what test.py has measured there, as a heading and a table."""
    checkpoint, split, values = result
    numbers = {name: value for name, value in values.items() if isinstance(value, (int, float))}
    samples = numbers.pop("samples", None)
    rows = [(name, f"{value:.6g}") for name, value in numbers.items() if name not in ("epoch", "batch")]
    return (_tested_on(checkpoint, split, samples) if rows else ""), table(rows, kind="figures")


def _tested_on(checkpoint: str, split: str, samples: Any) -> str:
    number = quantity(samples, f"{split} sample") if isinstance(samples, int) else f"{split} samples"
    return f'<p class="note">{escape(checkpoint)} on {escape(number)}.</p>'


# ---- classes


def _scores(classes: Classes) -> str:
    rows = scores(classes)
    parts = [[share for share in column if math.isfinite(share)] for column in list(zip(*rows, strict=True))[2:]]
    means = [sum(part) / max(1, len(part)) for part in parts]
    mean = ("mean", sum(row[1] for row in rows), *means)
    left_out = len(rows) - _MOST_SCORED
    if left_out > 0:
        rows = sorted(rows, key=lambda row: row[4] if math.isfinite(row[4]) else 2.0)[:_MOST_SCORED]
    body = "".join(
        f"<tr><th scope=row>{short(name)}</th><td>{examples:,}</td>{''.join(map(_share, shares))}</tr>\n"
        for name, examples, *shares in [*rows, mean]
    )
    head = "".join(f"<th scope=col>{name}</th>" for name in ("class", "examples", "precision", "recall", "F1"))
    note = f'<p class="note">not shown: {quantity(left_out, "class")} with a higher F1.</p>' if left_out > 0 else ""
    return f'<div class="scroll tall"><table class="scores"><thead><tr>{head}</tr></thead>{body}</table></div>{note}'


def _share(value):
    """A cell with a number in [0, 1] and a bar of its length."""
    if not math.isfinite(value):
        return "<td>-</td>"
    return f'<td style="--share:{100 * value:.1f}%">{value:.4f}</td>'


def _matrix(classes: Classes) -> str:
    """The confusion matrix: counts, on shades of their share of the row, blue if right and orange if wrong."""
    size = len(classes.names)
    if classes.pairs is None or size > _MOST_IN_TABLE:
        return f'<p class="note">A matrix of {size:,} classes is too large to show.</p>'
    counts = {(i, j): count for i, j, count in classes.pairs}
    totals = [max(1, examples) for examples, _, _ in classes.per_class]
    head = "".join(f"<th scope=col><span>{short(name)}</span></th>" for name in classes.names)
    rows = []
    for i, name in enumerate(classes.names):
        cells = "".join(_cell(counts.get((i, j), 0), totals[i], i == j) for j in range(size))
        rows.append(f"<tr><th scope=row>{short(name)}</th>{cells}</tr>\n")
    kind = "matrix" if size <= 25 else "matrix small" if size <= 60 else "matrix small large"
    apart = '<p class="note printed">It is too large to be printed; logger.plots draws it as a picture.</p>'
    return (
        '<p class="note">A row for each target, a column for each prediction; the diagonal is right.</p>'
        f'<div class="scroll tall"><table class="{kind}"><thead>'
        f'<tr><th></th><th class="axis" colspan={size}>prediction</th></tr>\n<tr><th>target</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{apart if size > 60 else ''}"
    )


def _cell(count, total, is_right):
    if not count:
        return "<td>"
    shade = next(number for number, share in enumerate(_SHADES) if count / total >= share)
    return f"<td class={'r' if is_right else 'w'}{shade}>{count}"


def _confusions(classes: Classes) -> str:
    found = confusions(classes)
    rows = [(target, prediction, f"{count:,}", f"{share:.1%}") for target, prediction, count, share in found]
    head = ("target", "prediction", "count", "of the target")
    more = f'<p class="note">{len(rows) - _MOST_CONFUSIONS:,} further pairs are rarer.</p>'
    title = "<h3>Most frequent confusions</h3>" if rows else ""
    return title + table(rows[:_MOST_CONFUSIONS], head, "pairs") + (more if len(rows) > _MOST_CONFUSIONS else "")


def _calibration(classes: Classes) -> Iterator[str]:
    error = calibration_error(classes)
    yield f'<p class="note">Expected calibration error {error:.4f}: how far, on average, the probability is off.</p>'
    yield figures([reliability_chart(classes), confidence_chart(classes)])


def _mistakes(classes: Classes) -> str:
    if not classes.mistakes:
        return '<p class="note">There are none.</p>'
    items = []
    for one in classes.mistakes:
        picture = _img(one.picture, f"target {one.target[:80]}, predicted {one.prediction[:80]}") if one.picture else ""
        items.append(
            f"<figure>{picture}<figcaption><b>{short(one.prediction)}</b> {one.probability:.4f}<br>"
            f"target <b>{short(one.target)}</b><br><small>{escape(one.source)}</small></figcaption></figure>"
        )
    note = f"The {len(items)} most confident of {classes.num_mistakes:,}: prediction, its probability, target, source."
    return f'<p class="note">{note}</p><div class="gallery">{"".join(items)}</div>'


# ---- values, texts, pictures


def _values(values: Values) -> Iterator[str]:
    r_squared = "-" if values.r_squared is None else f"{values.r_squared:.4f}"
    rows = [
        ("examples", f"{values.count:,}"),
        ("mean absolute error", f"{values.mean_absolute_error:.5g}"),
        ("root mean squared error", f"{values.root_mean_squared_error:.5g}"),
        ("mean error", f"{values.mean_error:.5g}"),
        ("R squared", r_squared),
    ]
    yield table(rows, kind="facts")
    yield figures(value_charts(values))
    if len(values.pairs) < values.count:
        yield f'<p class="note">The charts show {len(values.pairs):,} examples, drawn at random.</p>'


def _texts(details: TestDetails) -> str:
    items = []
    for one in details.texts:
        items.append(
            f'<div class="text"><p><b>{_as_text(one.prompt)}</b><mark>{_as_text(one.written)}</mark></p>'
            f"<p><small>in the data: {_as_text(one.prompt + one.data)}</small></p></div>"
        )
    note = '<p class="note">Beginnings from the data in bold, and how the model continues them.</p>'
    return note + "".join(items) if items else ""


def _as_text(text):
    return "<br>".join(escape(line) for line in text.expandtabs().split("\n"))


def _images(details: TestDetails) -> str:
    items = [
        f"<figure>{_img(one, f'input {i}')}{_img(made, f'output {i}')}</figure>"
        for i, (one, made) in enumerate(details.images)
    ]
    note = '<p class="note">Each input, and below it the output.</p>'
    return f'{note}<div class="gallery">{"".join(items)}</div>' if items else ""


def _drawn(details: TestDetails) -> str:
    items = [f"<figure>{_img(one, f'sample {i}')}</figure>" for i, one in enumerate(details.drawn)]
    return f'<div class="gallery">{"".join(items)}</div>' if items else ""


def _img(picture: Picture, text):
    kind = "pixels" if picture.width <= 40 else "photo"
    size = f"width={picture.width} height={picture.height}"
    return f'<img class="{kind}" {size} alt="{escape(text)}" src="{escape(picture.uri)}">'
