"""Predictor: the examples of many requests in common batches, of which a bad one fails alone."""

import json

import pytest
import torch

from base.data.inputs import ArrayInput
from base.data.outputs import Output
from base.trained_model import TrainedModel
from serving.predictor import Predictor
from utils.errors import UserError


class Doubling(torch.nn.Module):
    """Doubles rows of one number, and cannot compute with negative ones."""

    def forward(self, rows):
        if rows.min() < 0:
            raise ValueError(f"negative: {rows.min():g}")
        return 2 * rows


def answers(*requests):
    """(predictions of each request, or its error; the sizes of the batches) for lists of numbers."""
    sizes = []
    predictor = Predictor(TrainedModel(Doubling(), ArrayInput(), Output(), torch.device("cpu")), sizes.append)
    reads = [lambda rows=rows: [ArrayInput().parse([number]) for number in rows] for rows in requests]
    found = predictor.answers([(read, 1) for read in reads])
    return [one if isinstance(one, Exception) else predictions(one) for one in found], sizes


def predictions(answer):
    return [row["prediction"] for row in json.loads(answer)["predictions"]]


def test_examples_of_several_requests_share_batches_and_keep_their_order():
    found, sizes = answers([1, 2], [3], list(range(70)))
    assert found == [[2, 4], [6], [2 * number for number in range(70)]]
    assert sizes == [64, 9]


def test_a_batch_with_a_bad_example_is_computed_again_in_halves_and_its_request_fails_alone():
    (one, two, bad, three), sizes = answers([1], [2], [-4], [3])
    assert (one, two, three) == ([2], [4], [6])
    assert isinstance(bad, UserError) and "negative: -4" in str(bad)
    assert sizes == [4, 2, 2, 1, 1]


def test_a_request_that_cannot_be_read_fails_alone():
    (bad, good), _ = answers(["x"], [1])
    assert isinstance(bad, UserError) and good == [2]


def test_what_is_left_of_a_bad_request_is_not_computed():
    (bad,), sizes = answers([*[1] * 63, -1, *[2] * 64])
    assert isinstance(bad, UserError) and max(sizes[1:]) <= 32


@pytest.mark.parametrize("number", [3e38])
def test_an_output_that_is_not_finite_is_an_error(number):
    (bad, good), _ = answers([number], [1])
    assert isinstance(bad, UserError) and "not finite" in str(bad) and good == [2]
