"""Predictor: from requests to their answers in JSON, with the model computing in batches."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from base.generate import Prompt, continuations
from base.trained_model import TrainedModel
from utils.errors import UserError

MAX_BATCH = 64  # examples


class Predictor:
    """Answers requests, each a pair (a function that returns its raw examples, number of classes to list).

    observe: called with the number of examples of each batch.
    """

    def __init__(self, model: TrainedModel, observe: Callable[[int], object]) -> None:
        self._model, self._observe = model, observe

    def answers(self, requests: list[tuple[Callable[[], list[Any]], int]]) -> list[bytes | Exception]:
        """Return for each request the JSON of its predictions, or the error of its first example that has one."""
        found: list[list[dict[str, Any]] | Exception] = [[] for _ in requests]
        waiting: list[tuple[int, Any, int]] = []  # number of the request, raw example, classes to list
        for number, (read, top) in enumerate(requests):
            try:
                waiting += [(number, raw, top) for raw in read()]
            except Exception as error:
                found[number] = error
            while len(waiting) >= MAX_BATCH:
                self._compute(waiting[:MAX_BATCH], found)
                del waiting[:MAX_BATCH]
        self._compute(waiting, found)
        return [rows if isinstance(rows, Exception) else _json(rows) for rows in found]

    def _compute(self, batch, found):
        """Append the rows of a batch of examples to those of their requests."""
        batch = [one for one in batch if not isinstance(found[one[0]], Exception)]  # the rest of a bad one is not asked
        if not batch:
            return
        for (number, _, _), row in zip(batch, self._rows(batch), strict=True):
            rows = found[number]
            if isinstance(row, Exception) and not isinstance(rows, Exception):
                found[number] = row
            elif not isinstance(rows, Exception):
                rows.append(row)

    def _rows(self, batch):
        """A prediction or an exception for each example; a batch that fails is computed again in halves."""
        try:
            return self._predictions(batch)
        except Exception as error:
            if len(batch) == 1:
                return [error]
            half = len(batch) // 2
            return self._rows(batch[:half]) + self._rows(batch[half:])

    def _predictions(self, batch):
        self._observe(len(batch))
        _, raw, tops = zip(*batch, strict=True)
        if isinstance(raw[0], Prompt):
            return [{"prediction": text} for text in continuations(self._model, raw)]
        if len({np.shape(one) for one in raw}) > 1:
            raise UserError("examples of unequal shapes")
        outputs = self._model.outputs(np.stack(raw)).cpu()  # in one read
        if not bool(outputs.isfinite().all()):
            raise UserError("the model's output is not finite for this example")
        rows = self._model.output.describe(outputs, max(tops))
        for row, top in zip(rows, tops, strict=True):
            if top == 1:
                row.pop("top", None)
            elif "top" in row:
                row["top"] = row["top"][:top]
        return rows


def _json(rows):
    return json.dumps({"predictions": rows}, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
