"""Predictions on the console, as CSV, as JSON lines, and the model's outputs as a .npy file; written as they come."""

import contextlib
import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch

from logger.pictures import EXAMPLES_DRAWN, draw_batches
from utils.errors import UserError, shown
from utils.files import replacing

_ROWS_SHOWN = 20
_NAME_WIDTH = 40


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
                self._text = stack.enter_context(_detached(io.TextIOWrapper(binary, "utf-8", newline="")))
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

    def add(self, rows: Iterable[dict[str, Any]], outputs: torch.Tensor) -> None:
        """Write the rows of a batch, {"source": name, "prediction": ..., ...} or {"source": name, "error": text}.

        outputs: (B, ...) of the model, for the rows without an error.
        """
        for row in rows:
            self.num_errors += "error" in row
            if self._json_lines:
                print(json.dumps(row, ensure_ascii=False))
            elif self._num_examples < _ROWS_SHOWN:
                self._print(row)
            if self._out is not None:
                self._write(row)
            self._num_examples += 1
        if self._save_outputs is not None and len(outputs):
            self._array.add(outputs.float().cpu().numpy())

    def _print(self, row):
        if "error" in row:
            print(shown(f"error: {row['error']}"))
            return
        name = row["source"]
        name = name if len(name) <= _NAME_WIDTH else f"...{name[3 - _NAME_WIDTH :]}"
        ranked = row.get("top") or [[row["prediction"], row.get("probability")]]
        cells = [f"{_text(value)}" + (f" {share:.4f}" if share is not None else "") for value, share in ranked]
        if "target" in row:
            cells.append(f"target {_text(row['target'])}" + ("" if row.get("right", True) else ", wrong"))
        print(f"{shown(name):{_NAME_WIDTH}}  {'  '.join(cells)}")

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
            print(f"... and {self._num_examples - _ROWS_SHOWN:,} more")
        errors = f", {self.num_errors:,} could not be read" if self.num_errors else ""
        print(f"{self._num_examples:,} examples{errors}")
        for path in (self._out, self._save_outputs):
            if path is not None:
                print(f"written to {shown(path)}")


class PredictionGrid:
    """A context that draws the first 32 examples with their predictions into a PNG; None for path draws nothing."""

    def __init__(self, path: str | None) -> None:
        if path is not None and Path(path).suffix.lower() != ".png":
            raise UserError(f"--grid: {shown(path)}: should end in .png")
        self._path, self._images, self._labels = path, [], []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._path is not None and error[0] is None and self._images:
            draw_batches(Path(self._path), {"predictions": (torch.stack(self._images), self._labels)})
            print(f"drawn in {shown(self._path)}")

    def add(self, rows: Iterable[dict[str, Any]], data: Any) -> None:
        """Add the rows of a batch. data: (B, 1 or 3, H, W), the model's input for the rows without an error."""
        if self._path is None or len(self._images) >= EXAMPLES_DRAWN:
            return
        good = [row for row in rows if "error" not in row]
        for row, image in zip(good, data, strict=True):
            if len(self._images) < EXAMPLES_DRAWN:
                self._images.append(image.float().cpu())
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
        wrong.sort(key=lambda one: -one[0]["probability"])
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
    share = f" {row['probability']:.2f}" if "probability" in row else ""
    given = f" not {_text(row['target'])[:12]}" if not row.get("right", True) else ""
    return f"{_text(row['prediction'])[:12]}{given}{share}"


def _text(value):
    return f"{value:.6g}" if isinstance(value, float) else str(value)
