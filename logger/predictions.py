"""Predictions on the console, as CSV, as JSON lines, and the model's outputs as a .npy file; written as they come."""

import contextlib
import dataclasses
import heapq
import io
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from tqdm import tqdm

from logger.pictures import EXAMPLES_DRAWN, draw_batches, outputs_as_images
from logger.prediction_csv import PredictionCsv, finite
from utils.errors import UserError, quantity, shown
from utils.files import replacing
from utils.nested import as_numpy

MOST_ERRORS = 10_000
"""Wrong predictions that errors_first keeps, the most confident ones."""
_ROWS_SHOWN = 20
_ERRORS_SHOWN = 2  # below the table: so many of the first, and the last, which says what was left out
_NAME_WIDTH = 40
_VALUES_SHOWN = 8  # of an output that is an array


class PredictionWriter:
    """A context that writes predictions, of which only one batch at a time is in memory.

    out: a .csv file; json_lines: print a JSON object for each example; save_outputs: a .npy file of the model's outputs
    (N, ...); masks: a folder that a MaskWriter writes, which is named at the end. Without json_lines, a table of up to
    20 rows is printed. Files are complete, or as they were before.

    The attribute num_errors counts the examples that could not be read, of those that counted has seen.
    """

    def __init__(
        self,
        out: str | None = None,
        json_lines: bool = False,
        save_outputs: str | None = None,
        masks: str | None = None,
    ) -> None:
        for name, path, ending in (("--out", out, ".csv"), ("--save-outputs", save_outputs, ".npy")):
            if path is not None and Path(path).suffix.lower() != ending:
                other = ", or in .npz" if ending == ".npy" else ""
                raise UserError(f"{name}: {shown(path)}: should end in {ending}{other}")
        self._out, self._json_lines, self._save_outputs, self._masks = out, json_lines, save_outputs, masks
        self.num_errors = self._num_examples = self._num_right = self._num_targets = self._num_written = 0
        self._unseen: list[str] = []  # errors that the console's table does not show: the first ones, and the last
        self._files = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            if self._out is not None:
                binary = stack.enter_context(replacing(self._out, "the predictions"))
                text = _detached(io.TextIOWrapper(binary, "utf-8", "backslashreplace", newline=""))
                self._csv = PredictionCsv(stack.enter_context(text))
            if self._save_outputs is not None:
                self._array = ArrayWriter(stack.enter_context(replacing(self._save_outputs, "the outputs")))
            self._files = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        is_whole = error[0] is None
        if is_whole and self._save_outputs is not None:
            self._array.finish()
        if is_whole and self._out is not None:
            self._csv.finish()
        self._files.__exit__(*error)
        if is_whole and not self._json_lines:
            self._summarize()
        if is_whole:
            _say("", end="", flush=True)

    def counted(self, parts: Iterable[Any], total: int | None = None) -> Iterator[Any]:
        """Yield the parts, and show a progress bar on a terminal once the console's table is full.

        parts: Predictions of base/trained_model.py. total: number of examples, if it is known.
        """
        silent = not sys.stderr.isatty() or (self._json_lines and sys.stdout.isatty())
        bar = None
        for part in parts:
            self._num_examples += len(part)
            self.num_errors += len(part.examples.errors)
            if part.target is not None:
                right = [one for one in part.columns.get("right", ()) if one is not None]
                self._num_right += sum(right)
                self._num_targets += len(right)
            yield part
            if not silent and self._num_examples > _ROWS_SHOWN:
                if bar is None:
                    bar = tqdm(total=total, unit=" examples", leave=False, dynamic_ncols=True)
                bar.update(self._num_examples - bar.n)
        if bar is not None:
            bar.close()

    def add(self, part: Any) -> None:
        """Write Predictions."""
        if self._json_lines:
            for row in part.rows:
                _say(_json_line(row))
        elif self._num_written < _ROWS_SHOWN:
            for row in part.rows[: _ROWS_SHOWN - self._num_written]:
                self._print(row)
        for place, error in part.examples.errors.items():
            if self._num_written + place >= _ROWS_SHOWN:
                self._unseen = [*self._unseen[:_ERRORS_SHOWN], str(error)]
        self._num_written += len(part)
        if self._out is not None:
            self._csv.add(part)
        if self._save_outputs is not None and len(part.outputs):
            self._array.add(as_numpy(part.outputs))

    def _print(self, row):
        if "error" in row:
            _say(shown(f"error: {row['error']}"))
            return
        name = row["source"]
        name = name if len(name) <= _NAME_WIDTH else f"...{name[3 - _NAME_WIDTH :]}"
        ranked = row.get("top") or [[row["prediction"], row.get("probability")]]
        if row.get("prediction") and "probabilities" in row:
            ranked = [[str(label), row["probabilities"][label]] for label in row["prediction"]]
        cells = [
            f"{_text(value)}" + ("" if probability is None else f" {probability:.4f}") for value, probability in ranked
        ]
        if "target" in row:
            cells.append(f"target {_text_of(row, 'target')}" + ("" if row.get("right", True) else ", wrong"))
        _say(f"{shown(name):{_NAME_WIDTH}}  {shown('  '.join(cells))}")

    def _summarize(self):
        if self._num_written > _ROWS_SHOWN:
            _say(f"... and {self._num_written - _ROWS_SHOWN:,} more")
        for error in self._unseen:
            _say(shown(f"error: {error}"))
        text = quantity(self._num_examples, "example")
        if self._num_targets:
            part = "" if self._num_targets == self._num_examples else f" of the {self._num_targets:,} with a target"
            text += f", {self._num_targets - self._num_right:,}{part} wrong"
        _say(text + (f", {self.num_errors:,} could not be read" if self.num_errors else ""))
        masks = self._masks if self._masks and os.path.isdir(self._masks) else None  # with no masks there is none
        for path in (self._out, self._save_outputs, masks):
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
        """Yield the Predictions. Raises UserError at the first whose data are no images, if they are to be drawn."""
        for part in parts:
            shape = tuple(getattr(part.data, "shape", ()))
            if self._path is not None and len(part.outputs) and (len(shape) != 4 or shape[1] not in (1, 3)):
                what = f"a tensor of shape {shape}" if shape else f"a {type(part.data).__name__}"
                raise UserError(f"--grid: the model is given {what}; images (N, 1 or 3, H, W) can be drawn")
            yield part

    def add(self, part: Any) -> None:
        """Add Predictions. Outputs that are images, or the masks of a segmentation, are drawn below the inputs."""
        if self._path is None or len(self._images) >= EXAMPLES_DRAWN:
            return
        good = [row for row in part.rows if "error" not in row][: EXAMPLES_DRAWN - len(self._images)]
        images, outputs = (_on_cpu(rows[: len(good)]) for rows in (part.data, part.outputs))
        below = outputs_as_images(part.output, images, outputs) if len(good) else None
        for row, image, *output in zip(good, images, *([] if below is None else [below]), strict=True):
            both = [image, *output]
            self._images.append(torch.cat([one.float() for one in both], dim=1))
            self._labels.append(_caption(row))


def _on_cpu(rows):
    return rows.cpu() if isinstance(rows, torch.Tensor) else rows


def errors_first(parts: Iterable[Any]) -> Iterator[Any]:
    """Yield the Predictions that could not be read, and then the wrong ones, the most confident first.

    parts: Predictions. Of wrong ones, the MOST_ERRORS most confident are kept, with the data of as many as are drawn.
    """
    drawn, others, number = [], [], itertools.count()
    for part in parts:
        if errors := part.examples.errors:
            yield _chosen(part, [part.examples.names[place] for place in errors], list(errors.values()))
        good = [row for row in part.rows if "error" not in row]
        if good and (part.target is None or any("target" in row and "right" not in row for row in good)):
            raise UserError("--errors: needs classes and their targets, as --split, a table or class folders give them")
        wrong = [place for place, row in enumerate(good) if not row.get("right", True)]
        is_one = isinstance(part.data, torch.Tensor)  # others, such as dicts, are not drawn
        data = part.data[wrong].cpu() if wrong and is_one else [None] * len(wrong)
        tensors = [part.outputs[wrong], part.target[wrong], data] if wrong else [[], [], []]
        for place, output, target, image in zip(wrong, *tensors, strict=True):
            row = good[place]
            tensors = [one if one is None else one.clone() for one in (output, target, image)]  # a view keeps its batch
            kept = [_confidence(row), -next(number), row["source"], *tensors]
            if left := _push(drawn, kept, EXAMPLES_DRAWN):
                _push(others, [*left[:-1], None], MOST_ERRORS - EXAMPLES_DRAWN)
    for some in (drawn, others):
        if some:
            *_, names, outputs, targets, images = zip(*sorted(some, reverse=True), strict=True)
            yield _chosen(part, list(names), [], torch.stack(outputs), torch.stack(targets), images)


def _confidence(row):
    """The probability of a wrong prediction: of several labels, of that which is wrong with the most confidence.

    0 where the outputs are nan, or no probabilities, so that nothing is predicted.
    """
    if row["prediction"] is None:
        return 0.0
    if "probability" in row:
        return row["probability"]
    has = {label: label in row["prediction"] for label in row["probabilities"]}
    wrong = [label for label in has if has[label] != (label in row["target"])]
    return max(one if has[label] else 1 - one for label, one in row["probabilities"].items() if label in wrong)


def _chosen(part, names, errors, outputs=None, target=None, data=()):
    """Predictions of the same kind as part for other examples."""
    examples = dataclasses.replace(
        part.examples, names=names, raw=np.empty(0), errors=dict(enumerate(errors)), target=None
    )
    outputs = torch.empty(0) if outputs is None else outputs
    return dataclasses.replace(part, examples=examples, outputs=outputs, data=data, target=target)


def _push(heap, entry, most):
    """Add an entry to a heap of at most so many entries; return the smallest one if it has to go."""
    if len(heap) < most:
        return heapq.heappush(heap, entry)
    return heapq.heappushpop(heap, entry)


class ArrayWriter:
    """Writes arrays (B, ...) of one shape and type into a .npy file (N, ...), whose N is known only at the end."""

    _HEADER_BYTES = 128

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._rows, self._like = file, 0, None
        file.write(bytes(self._HEADER_BYTES))

    def add(self, rows: np.ndarray) -> None:
        """Append rows (B, ...). Raises UserError if they have another shape than those before."""
        self._like = rows[:0] if self._like is None else self._like
        if rows.shape[1:] != self._like.shape[1:]:
            shapes = f"{self._like.shape[1:]} for some examples and {rows.shape[1:]} for others"
            raise UserError(f"--save-outputs: the outputs are {shapes}, and an array has one shape; --out takes all")
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


def _caption(row):
    if isinstance(row["prediction"], list) and "probabilities" not in row:
        return ""
    probability = f" {row['probability']:.2f}" if "probability" in row else ""
    given = f" not {_text_of(row, 'target')[:12]}" if not row.get("right", True) else ""
    return f"{_text_of(row, 'prediction')[:12]}{given}{probability}"


def _text_of(row, key):
    """The prediction or target of a row; names of labels may be numbers, too."""
    is_labels = "probabilities" in row and row[key] is not None
    return _text([str(label) for label in row[key]] if is_labels else row[key])


def _text(value):
    if isinstance(value, list) and all(isinstance(one, str) for one in value):  # labels
        return ", ".join(value) or "none"
    if isinstance(value, list):
        array = np.array(value)
        if array.size > _VALUES_SHOWN:
            return f"values {array.shape} from {array.min():.6g} to {array.max():.6g}"
        return " ".join(f"{one:.6g}" for one in array.flat)
    return f"{value:.6g}" if isinstance(value, float) else "nan" if value is None else str(value)


def _json_line(row):
    """The row as JSON, with null for numbers that are not finite, and escapes for bytes of a name that are no text."""
    return json.dumps(finite(row), ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace").decode()


def _say(text, **how):
    """Print the text. Raises UserError if standard output takes nothing more, as a full disk does."""
    try:
        print(text, **how)
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the rest of the buffer would fail again at the exit
        raise UserError(f"standard output: cannot be written: {error.strerror or error}") from None
