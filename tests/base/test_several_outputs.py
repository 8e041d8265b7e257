"""Models of several outputs in use: an array for each, by name."""

import argparse
import dataclasses
from collections import namedtuple

import numpy as np
import pytest
import torch

import predict
from base.data.inputs import ArrayInput
from base.data.outputs import Output
from base.trained_model import TrainedModel
from utils import UserError

Pair = namedtuple("Pair", ["a", "b"])


@dataclasses.dataclass
class Found:
    a: torch.Tensor
    b: list[torch.Tensor]
    unused: torch.Tensor | None = None


class Returns(torch.nn.Module):
    """A model that returns what a function makes of its input."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, data):
        return self.function(data)


def made(function):
    return TrainedModel(Returns(function), ArrayInput(), Output(), torch.device("cpu"))


ROWS = torch.arange(10.0).reshape(5, 2)


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda x: {"a": x, "b": x[:, 0]}, ["a", "b"]),
        (lambda x: {"a": x, "b": {"c": x[:, 0], "d": None}}, ["a", "b.c"]),
        (lambda x: (x, [x[:, 0]]), ["0", "1.0"]),
        (lambda x: Pair(x, x[:, 0]), ["a", "b"]),
        (lambda x: Found(x, [x[:, 0]]), ["a", "b.0"]),
    ],
)
def test_a_loader_gives_an_array_for_each_output_and_target_by_name(function, names):
    batches = [(rows, {"y": rows[:, 1].long(), "z": rows}) for rows in ROWS.split(2)]
    outputs, targets = made(function).predict_loader(batches)
    first, second = names
    assert list(outputs) == names and list(targets) == ["y", "z"]
    assert np.array_equal(outputs[first], ROWS) and np.array_equal(outputs[second], ROWS[:, 0])
    assert targets["y"].dtype == np.int64 and targets["y"].tolist() == [1, 3, 5, 7, 9]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda x: {"a": x, "loss": x.mean()},
            r"^Returns returns tensors of which 'a' is .*'loss' is \(\); each should",
        ),
        (lambda x: {"a": x, "b": x[:1]}, r"'b' is \(1, 2\); each should have a row for each example"),
        (lambda x: (x.sum(0), x.sum(0)), r"^Returns returns a tensor \(2,\) for a batch of 5; it should keep"),
        (lambda x: [{"boxes": x}], r"^Returns returns a list of dict of boxes: .* fits; it is none"),
        (lambda x: {"a": x, "b": "text"}, r"; 'b' is a str$"),
        (lambda x: {"a.b": x, "a": {"b": x}}, r"; two of them have the name 'a\.b'$"),
        (lambda x: {}, r"which holds no tensor$"),
    ],
)
def test_outputs_without_a_row_for_each_example_are_refused_in_one_line(function, message):
    with pytest.raises(UserError, match=message):
        made(function).predict_loader([(ROWS, ROWS)])


def test_batches_whose_outputs_differ_in_names_or_shapes_are_refused():
    batches = [(ROWS, ROWS), (ROWS[:, :1], ROWS)]
    with pytest.raises(UserError, match=r"^data_loader: batches have outputs 'a' of shape .*\(2,\), \(1,\)"):
        made(lambda x: {"a": x}).predict_loader(batches)
    with pytest.raises(UserError, match=r"^data_loader: batches have outputs of names .*'2'.*'1'"):
        made(lambda x: {str(x.shape[1]): x}).predict_loader(batches)


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda x: {"file": x, "b": (x[:, 0],)}, {"file": ROWS, "b.0": ROWS[:, 0]}),
        (lambda x: x, {"outputs": ROWS}),
    ],
)
def test_the_command_saves_an_array_for_each_output(function, wanted, tmp_path):
    np.save(tmp_path / "x.npy", ROWS)
    out = tmp_path / "o.npz"
    flags = argparse.Namespace(split=None, sources=[str(tmp_path / "x.npy")], batch_size=2, save_outputs=str(out))
    assert predict.save_named(made(function), flags) == 0
    with np.load(out) as saved:
        assert {name: saved[name].tolist() for name in saved.files} == {n: one.tolist() for n, one in wanted.items()}
