"""Predictions on the console, as CSV, as JSON lines, and the model's outputs as a .npy file; written as they come."""

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch

from logger.pictures import EXAMPLES_DRAWN, draw_batches
from utils.errors import UserError, shown
from utils.files import replacing

_ROWS_SHOWN = 20
_NAME_WIDTH = 40
_VALUES_SHOWN = 8  # of an output that is an array


class PredictionWriter:
    """A context that writes predictions, of which only one batch at a time is in memory.

    out: a .csv file; json_lines: print a JSON object for each example; save_outputs: a .npy file of the model's outputs
    (N, ...). Without json_lines, a table of up to 20 rows is printed. Files are complete, or as they were before.

    The attribute num_errors counts the examples that could not be read.
    """

    def __init__(self, out: str | None = None, json_lines: bool = False, save_outputs: str | None = None) -> None:
        for name, path, ending in (("--out", out, ".csv"), ("--save-outputs", save_outputs, ".npy")):
            if path is not None and Path(path).suffix.lower() != ending:
                raise UserError(f"{name}: {shown(path)}: should end in {ending}")
        self._out, self._json_lines, self._save_outputs = out, json_lines, save_outputs
        self._columns: list[str] | None = None
        self.num_errors = self._num_examples = 0
        self._files = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            if self._out is not None:
                binary = stack.enter_context(replacing(self._out, "the predictions"))
                self._text = stack.enter_context(
                    _detached(io.TextIOWrapper(binary, "utf-8", "backslashreplace", newline=""))
                )
                self._csv = csv.writer(self._text)
            if self._save_outputs is not None:
                self._array = ArrayWriter(stack.enter_context(replacing(self._save_outputs, "the outputs")))
            self._files = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None and self._save_outputs is not None:
            self._array.finish()
        self._files.__exit__(*error)
        if error[0] is None and not self._json_lines:
            self._summarize()
        if error[0] is None:
            _say("", end="", flush=True)

    def add(self, rows: Iterable[dict[str, Any]], outputs: torch.Tensor) -> None:
        """Write the rows of a batch, {"source": name, "prediction": ..., ...} or {"source": name, "error": text}.

        outputs: (B, ...) of the model, for the rows without an error.
        """
        for row in rows:
            self.num_errors += "error" in row
            if self._json_lines:
                _say(_json_line(row))
            elif self._num_examples < _ROWS_SHOWN:
                self._print(row)
            if self._out is not None:
                self._write(row)
            self._num_examples += 1
        if self._save_outputs is not None and len(outputs):
            self._array.add(outputs.float().cpu().numpy())

    def _print(self, row):
        if "error" in row:
            _say(shown(f"error: {row['error']}"))
            return
        name = row["source"]
        name = name if len(name) <= _NAME_WIDTH else f"...{name[3 - _NAME_WIDTH :]}"
        ranked = row.get("top") or [[row["prediction"], row.get("probability")]]
        cells = [f"{_text(value)}" + (f" {share:.4f}" if share is not None else "") for value, share in ranked]
        if "target" in row:
            cells.append(f"target {_text(row['target'])}" + ("" if row.get("right", True) else ", wrong"))
        _say(f"{shown(name):{_NAME_WIDTH}}  {shown('  '.join(cells))}")

    def _write(self, row):
        if self._columns is None:
            self._columns = ["source", *_flat(row)] if "error" not in row else None
            if self._columns is None:  # the columns are known once an example could be read
                self._csv.writerow([row["source"], row["error"]])
                return
            self._csv.writerow([*self._columns, "error"])
        cells = _flat(row)
        self._csv.writerow([row["source"], *(cells.get(name, "") for name in self._columns[1:]), row.get("error", "")])

    def _summarize(self):
        if self._num_examples > _ROWS_SHOWN:
            _say(f"... and {self._num_examples - _ROWS_SHOWN:,} more")
        errors = f", {self.num_errors:,} could not be read" if self.num_errors else ""
        _say(f"{self._num_examples:,} example{'s' if self._num_examples != 1 else ''}{errors}")
        for path in (self._out, self._save_outputs):
            if path is not None:
                _say(f"written to {shown(path)}")


class PredictionGrid:
    """A context that draws the first 32 examples with their predictions into a PNG; None for path draws nothing."""

    def __init__(self, path: str | None) -> None:
        if path is not None and Path(path).suffix.lower() != ".png":
            raise UserError(f"--grid: {shown(path)}: should end in .png")
        if path is not None and not Path(path).parent.is_dir():
            raise UserError(f"--grid: {shown(Path(path).parent)}: there is no such folder")
        self._path, self._images, self._labels = path, [], []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._path is not None and error[0] is None and self._images:
            draw_batches(Path(self._path), {"predictions": (torch.stack(self._images), self._labels)})
            _say(f"drawn in {shown(self._path)}")

    def drawable(self, parts: Iterable[Any]) -> Iterator[Any]:
        """Yield the parts. Raises UserError at the first whose data are no images, if they are to be drawn.

        parts: objects with rows, outputs and data, as Predictions of base/trained_model.py.
        """
        for part in parts:
            shape = tuple(getattr(part.data, "shape", ()))
            if self._path is not None and len(part.outputs) and (len(shape) != 4 or shape[1] not in (1, 3)):
                what = f"a tensor of shape {shape}" if shape else f"a {type(part.data).__name__}"
                raise UserError(f"--grid: the model is given {what}; images (N, 1 or 3, H, W) can be drawn")
            yield part

    def add(self, rows: Iterable[dict[str, Any]], data: Any, outputs: torch.Tensor) -> None:
        """Add the rows of a batch. data: (B, 1 or 3, H, W), the model's input for the rows without an error.

        outputs: (B, ...) of the model for them. Outputs of the same shape are images, and are drawn below the inputs.
        """
        if self._path is None or len(self._images) >= EXAMPLES_DRAWN:
            return
        good = [row for row in rows if "error" not in row]
        for row, image, output in zip(good, data, outputs, strict=True):
            if len(self._images) < EXAMPLES_DRAWN:
                both = [image, output] if image.shape == output.shape else [image]
                self._images.append(torch.cat([one.float().cpu() for one in both], dim=1))
                self._labels.append(_caption(row))


def errors_first(parts: Iterable[Any]) -> list[Any]:
    """Return one batch of the examples whose prediction is wrong, the most confident first.

    parts: objects with rows, outputs and data, as Predictions of base/trained_model.py. Data are kept of as many
    examples as a PredictionGrid draws.
    """
    wrong, kind = [], None
    for part in parts:
        kind = type(part)
        if any("right" not in row for row in part.rows):
            raise UserError("--errors: needs classes and their targets, as --split gives them")
        found = zip(part.rows, part.outputs.cpu(), part.data, strict=True)
        wrong += [[row, output, image.cpu()] for row, output, image in found if not row["right"]]
        wrong.sort(key=lambda one: -np.nan_to_num(one[0]["probability"]))
        for one in wrong[EXAMPLES_DRAWN:]:
            one[2] = None
    if not wrong or kind is None:
        return []
    rows, outputs, images = zip(*wrong, strict=True)
    parts = [slice(0, EXAMPLES_DRAWN), slice(EXAMPLES_DRAWN, None)]
    return [kind(list(rows[part]), torch.stack(outputs[part]), images[part]) for part in parts if rows[part]]


class ArrayWriter:
    """Writes arrays (B, ...) of one shape and type into a .npy file (N, ...), whose N is known only at the end."""

    _HEADER_BYTES = 128

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._rows, self._like = file, 0, None
        file.write(bytes(self._HEADER_BYTES))

    def add(self, rows: np.ndarray) -> None:
        """Append rows (B, ...)."""
        self._like = rows[:0] if self._like is None else self._like
        self._file.write(np.ascontiguousarray(rows, self._like.dtype).tobytes())
        self._rows += len(rows)

    def finish(self) -> None:
        """Write the header; nothing can be added then."""
        like = np.empty((0,), np.float32) if self._like is None else self._like
        header = {"descr": like.dtype.str, "fortran_order": False, "shape": (self._rows, *like.shape[1:])}
        text = repr(header).encode("latin1")
        start = b"\x93NUMPY\x01\x00" + (self._HEADER_BYTES - 10).to_bytes(2, "little")
        self._file.seek(0)
        self._file.write(start + text.ljust(self._HEADER_BYTES - 11) + b"\n")
        self._file.seek(0, 2)


@contextlib.contextmanager
def _detached(text: io.TextIOWrapper):
    """The text file, which leaves its binary file open at the end."""
    yield text
    text.flush()
    text.detach()


def _flat(row):
    """{column: cell} of a row's prediction; classes beyond the first as prediction_2, probability_2, ..."""
    cells = {key: row[key] for key in ("prediction", "probability", "target", "right") if key in row}
    for place, (name, share) in enumerate(row.get("top", [])[1:], start=2):
        cells |= {f"prediction_{place}": name, f"probability_{place}": share}
    return {key: json.dumps(cell) if isinstance(cell, list) else cell for key, cell in cells.items()}


def _caption(row):
    if isinstance(row["prediction"], list):
        return ""
    share = f" {row['probability']:.2f}" if "probability" in row else ""
    given = f" not {_text(row['target'])[:12]}" if not row.get("right", True) else ""
    return f"{_text(row['prediction'])[:12]}{given}{share}"


def _text(value):
    if isinstance(value, list):
        array = np.array(value)
        if array.size > _VALUES_SHOWN:
            return f"values {array.shape} from {array.min():.6g} to {array.max():.6g}"
        return " ".join(f"{one:.6g}" for one in array.flat)
    return f"{value:.6g}" if isinstance(value, float) else "nan" if value is None else str(value)


def _json_line(row):
    """The row as JSON, with null for numbers that are not finite, and escapes for bytes of a name that are no text."""
    return json.dumps(_finite(row), ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace").decode()


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _say(text, **how):
    """Print the text. Raises UserError if standard output takes nothing more, as a full disk does."""
    try:
        print(text, **how)
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the rest of the buffer would fail again at the exit
        raise UserError(f"standard output: cannot be written: {error.strerror or error}") from None
