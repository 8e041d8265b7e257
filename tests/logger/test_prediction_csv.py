"""Predictions as CSV."""

import csv
import gc
import io
import weakref

import pytest
import torch

from base.data.inputs import Examples
from base.data.outputs import Output
from base.trained_model import Predictions
from logger.prediction_csv import PredictionCsv, csv_lines
from utils.errors import UserError


@pytest.mark.parametrize(
    "columns",
    [
        [["a.png", "b.png"], [0.1, 1e-30], [True, False]],
        [["a,b", 'say "no"', "two\nlines", "\r", "", " "], [1, None, float("nan"), -0.5, "[1, 2]", "é"]],
    ],
)
def test_lines_are_those_of_the_csv_module(columns):
    text = io.StringIO(newline="")
    csv.writer(text).writerows(zip(*columns, strict=True))
    assert csv_lines(columns) == text.getvalue()


def written(parts):
    text = io.StringIO(newline="")
    table = PredictionCsv(text)
    for part in parts:
        table.add(part)
    table.finish()
    return list(csv.reader(io.StringIO(text.getvalue(), newline="")))


def predictions(names, outputs, target=None, errors=(), output=None, top=1):
    examples = Examples(names, errors={names.index(name): UserError(f"{name}: no") for name in errors})
    return Predictions(examples, outputs, outputs, target, output or Output(["no", "yes"]), top)


BROKEN = predictions(["x", "y"], torch.empty(0), errors=["x", "y"])


def test_the_header_comes_first_even_if_the_first_examples_cannot_be_read():
    part = predictions(["a", "b"], torch.tensor([[0.0, 5.0]]), torch.tensor([0]), errors=["a"])
    header, *rows = written([BROKEN, part])
    assert header == ["source", "prediction", "probability", "target", "right", "error"]
    assert [[row[0], row[1], row[-1]] for row in rows] == [
        ["x", "", "x: no"],
        ["y", "", "y: no"],
        ["a", "", "a: no"],
        ["b", "yes", ""],
    ]
    assert rows[3][3:5] == ["no", "False"]
    assert written([BROKEN]) == [["source", "error"], ["x", "x: no"], ["y", "y: no"]]


def test_probabilities_give_the_same_float32_again():
    outputs = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) * 5
    part = predictions([str(number) for number in range(200)], outputs, top=2)
    header, *rows = written([part])
    assert header == ["source", "prediction", "probability", "prediction_2", "probability_2", "error"]
    for column, place in ((2, 0), (4, 1)):
        read = torch.tensor([float(row[column]) for row in rows])
        assert torch.equal(read, outputs.softmax(1).topk(2).values[:, place])
    assert all(len(row[2]) <= 12 for row in rows)


def test_arrays_are_json_and_what_is_unknown_is_empty():
    images = predictions(["a", "b"], torch.tensor([[[1.0, 2.0]]]), errors=["a"], output=Output())
    assert written([images])[1:] == [["a", "", "a: no"], ["b", "[[1.0, 2.0]]", ""]]
    unknown = predictions(["a", "b"], torch.tensor([[0.0, float("nan")], [0.0, 1.0]]), torch.tensor([1, -1]))
    assert [row[1:5] for row in written([unknown])[1:]] == [["", "nan", "yes", "False"], ["yes", "0.731058598", "", ""]]


def test_batches_that_are_held_and_written_together_are_as_if_alone(monkeypatch):
    outputs = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    names, target = [f"{number}" for number in range(40)], torch.arange(40) % 2
    parts = [predictions(names[i : i + 4], outputs[i : i + 4], target[i : i + 4]) for i in range(0, 40, 4)]
    parts.insert(3, BROKEN)
    parts.insert(5, predictions(["a", "b"], torch.tensor([[0.0, 5.0]]), torch.tensor([0]), errors=["a"]))
    together = written(parts)
    monkeypatch.setattr("logger.prediction_csv._EXAMPLES_AT_ONCE", 1)
    assert together == written(parts) and len(together) == 45


def test_labels_have_a_column_each():
    output = Output(["red", "row"], kind="logits")
    part = predictions(
        ["a", "b"], torch.tensor([[0.0, 5.0], [-9.0, -9.0]]), torch.tensor([[1.0, 1.0], [0, 0]]), output=output
    )
    header, *rows = written([part])
    assert header == ["source", "prediction", "probability_red", "probability_row", "target", "right", "error"]
    assert rows[0] == ["a", '["row"]', "0.5", "0.993307173", '["red", "row"]', "False", ""]
    assert rows[1][1] == "[]" and rows[1][4:6] == ["[]", "True"]


VALUES = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    ("first", "second", "column"),
    [
        ({"box": VALUES}, {"box": VALUES}, None),
        ((VALUES, VALUES), (VALUES, VALUES), None),
        (["a", "b"], ["c", "d"], None),
        (torch.tensor(1.0), torch.tensor(2.0), None),  # not one for each example
        (torch.ones(2, 2), torch.ones(2, 3), ["[1.0, 1.0]"] * 2 + ["[1.0, 1.0, 1.0]"] * 2),
        (torch.ones(2), torch.ones(2, dtype=torch.int64), ["1.0"] * 4),
    ],
)
def test_targets_that_are_no_tensor_or_vary_in_size_are_written_as_far_as_they_can(first, second, column):
    output = Output()
    parts = [predictions([f"{i}a", f"{i}b"], VALUES, one, output=output) for i, one in enumerate((first, second))]
    header, *rows = written(parts)
    assert [row[:2] for row in rows] == [
        [f"{i}{x}", f"[{v}, {v + 1}]"] for i in (0, 1) for x, v in (("a", 1.0), ("b", 3.0))
    ]
    assert ("target" in header) == (column is not None)
    assert column is None or [row[2] for row in rows] == column


def test_large_targets_are_not_held():
    table = PredictionCsv(io.StringIO())
    table.add(predictions(["a", "b"], VALUES, torch.zeros(2, 256, 512), output=Output()))
    assert not table._held


def test_predictions_without_data_keep_nothing_that_an_error_has_seen():
    def read():
        image = torch.ones(3)
        seen.append(weakref.ref(image))
        raise UserError(f"a: no image of {len(image)}")

    seen = []
    try:
        try:
            read()
        except UserError as error:
            raise UserError(f"b: {error}") from error
    except UserError as error:
        kept = Predictions(Examples(["a"], errors={0: error}), torch.empty(0), None, None, Output()).without_data()
    gc.collect()
    assert seen[0]() is None and kept.columns["error"] == ["b: a: no image of 3"]


def test_lists_of_numbers_are_json_also_where_some_are_not_finite():
    outputs = torch.tensor([[0.5, -torch.inf], [torch.nan, 2.0]])
    header, *rows = written([predictions(["a", "b"], outputs, output=Output())])
    assert header[1] == "prediction" and [row[1] for row in rows] == ["[0.5, null]", "[null, 2.0]"]
