"""Predictions as CSV: a line for each example, written many at a time."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from utils.errors import UserError, shown

_EXAMPLES_AT_ONCE = 1024
_BYTES_AT_ONCE = 1 << 20  # of outputs and targets


class PredictionCsv:
    """Writes Predictions of base/trained_model.py into an open text file.

    The columns are known, and the header is written, once an example could be read. Batches are held until there are
    1,024 examples: in between, the model drives this code out of the processor's caches, and half the time is lost.
    """

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._held: list[Any] = []  # of one kind
        self._kind: tuple[Any, ...] = ()
        self._num_examples = self._num_bytes = 0
        self._names: list[str] = []
        self._unread: list[dict[str, list[Any]]] = []  # the examples before the header

    def add(self, part: Any) -> None:
        """Write Predictions. Raises UserError, now or later, if they have targets, and those before them have none."""
        part = part.without_data()
        target = None if part.target is None else (part.target.shape[1:], part.target.dtype, part.target.device)
        kind = (part.output, part.top, target, part.outputs.shape[1:])
        if self._held and kind != self._kind:
            self._write_held()
        self._kind = kind
        self._held.append(part)
        self._num_examples += len(part)
        self._num_bytes += part.outputs.nbytes + (0 if part.target is None else part.target.nbytes)
        if self._num_examples >= _EXAMPLES_AT_ONCE or self._num_bytes >= _BYTES_AT_ONCE:
            self._write_held()

    def _write_held(self):
        if self._held:
            self._add(self._held[0].joined(self._held))
        self._held, self._num_examples, self._num_bytes = [], 0, 0

    def _add(self, part):
        columns = _flat(part.columns)
        if not self._names and "prediction" not in columns:
            self._unread.append(columns)
            return
        if not self._names:
            targets = ["target", "right"] if any(name.startswith("probability") for name in columns) else ["target"]
            names = [name for name in columns if name not in (*targets, "error")]
            self._begin([*names, *([] if part.target is None else targets), "error"])
        if part.target is not None and "target" not in self._names:
            place = shown(columns["source"][0])
            raise UserError(f"--out: {place} has a target, and those before it have none; give it first, or by itself")
        self._write(columns)

    def finish(self) -> None:
        """Write the examples that are left."""
        self._write_held()
        if self._unread:
            self._begin(["source", "error"])

    def _begin(self, names):
        self._names = names
        self._text.write(csv_lines([name] for name in names))
        for columns in self._unread:
            self._write(columns)
        self._unread = []

    def _write(self, columns):
        nothing = [""] * len(columns["source"])
        self._text.write(csv_lines(columns.get(name, nothing) for name in self._names))


def csv_lines(columns: Iterable[Sequence[Any]]) -> str:
    """Return two columns or more as lines of CSV, as csv.writer writes them, in a quarter of its time."""
    lines = list(map(",".join, zip(*map(_cells, columns), strict=True)))
    return "\r\n".join([*lines, ""])


def _cells(values):
    try:
        texts, joined = values, "".join(values)
    except TypeError:  # not all are texts
        texts = ["" if value is None else str(value) for value in values]
        joined = "".join(texts)
    if not _is_quoted(joined):
        return texts
    return ['"' + text.replace('"', '""') + '"' if _is_quoted(text) else text for text in texts]


def _is_quoted(text):
    return any(sign in text for sign in ',"\r\n')


def _flat(columns):
    """{column: cells} of columns; lists as JSON.

    Classes beyond the first are prediction_2, probability_2, ..., and probabilities of labels are probability_<label>.
    """
    flat = {}
    for name, values in columns.items():
        first = next((value for value in values if value is not None), None)
        if name == "top":
            for place in range(1, len(first or ())):
                for title, part in (("prediction", 0), ("probability", 1)):
                    flat[f"{title}_{place + 1}"] = [ranked and ranked[place][part] for ranked in values]
        elif isinstance(first, dict):  # of labels
            for label in first:
                flat[f"probability_{label}"] = [value and value[label] for value in values]
        elif isinstance(first, list):
            flat[name] = [None if value is None else _json_of(value) for value in values]
        else:
            flat[name] = values
    for name in flat:
        if name.startswith("probability"):  # 9 digits give the same float32 again, in a third of the time of all 17
            flat[name] = [None if value is None else f"{value:.9g}" for value in flat[name]]
    return flat


def _json_of(value):
    text = json.dumps(value)
    return json.dumps(finite(value)) if "N" in text or "I" in text else text  # of NaN and Infinity, which are no JSON


def finite(value: Any) -> Any:
    """Return plain values, in lists and dicts, with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
