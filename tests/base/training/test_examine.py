"""What a report shows of predictions is the same for any batch size, and right by hand-computed numbers."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from base.data.outputs import Output
from base.data.texts import TextInput
from base.trained_model import TrainedModel
from base.training import examine
from base.training.examine import Examination
from logger.details import MOST_LETTERS, MOST_MISTAKES, MOST_PAIRS


def examined(output, batches, names=None):
    """TestDetails of batches (data, target, output)."""
    trained = TrainedModel(torch.nn.Identity(), None, output, torch.device("cpu"))
    examination = Examination(trained, object(), "test")
    for batch in batches:
        examination.add(*batch)
    return examination.details("a.pth")


def split_up(size, *tensors):
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


@pytest.fixture(scope="module")
def predicted():
    """(images, targets, logits) of 300 examples of five classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(300, 1, 6, 5, generator=generator)
    targets = torch.randint(5, (300,), generator=generator)
    return images, targets, 2 * torch.randn(300, 5, generator=generator)


def test_counts_and_mistakes_are_those_of_all_examples_for_any_batch_size(predicted):
    _, targets, logits = predicted
    classes, small = (examined(Output(list("abcde")), split_up(size, *predicted)).classes for size in (300, 7))
    assert small.mistakes == classes.mistakes and small.pairs == classes.pairs
    probability, prediction = logits.softmax(1).max(1)
    table = {(i, j): 0 for i in range(5) for j in range(5)}
    for pair in zip(targets.tolist(), prediction.tolist(), strict=True):
        table[pair] += 1
    assert {(i, j): count for i, j, count in classes.pairs} == {pair: n for pair, n in table.items() if n}
    assert [row[0] for row in classes.per_class] == torch.bincount(targets).tolist()
    assert [row[1] for row in classes.per_class] == torch.bincount(prediction).tolist()
    assert sum(row[2] for row in classes.per_class) == int((targets == prediction).sum())
    wrong = (targets != prediction).nonzero()[:, 0]
    first = wrong[probability[wrong].argsort(descending=True)][:MOST_MISTAKES]
    assert [one.source for one in classes.mistakes] == [f"test:{i}" for i in first.tolist()]
    assert classes.mistakes[0].target == "abcde"[targets[first[0]]] and classes.num_mistakes == len(wrong)
    assert (classes.mistakes[0].picture.width, classes.mistakes[0].picture.height) == (5, 6)


def test_predictions_are_counted_in_15_intervals_of_their_probability():
    logits = torch.tensor([[0.81, 0.19], [0.62, 0.38], [1.0, 0.0]]).log()
    classes = examined(Output(["no", "yes"]), [(None, torch.tensor([0, 1, 0]), logits)]).classes
    found = {i: (count, pytest.approx(total), right) for i, (count, total, right) in enumerate(classes.bins) if count}
    assert found == {9: (1, 0.62, 0), 12: (1, 0.81, 1), 14: (1, 1.0, 1)}


def test_memory_does_not_grow_with_the_number_of_examples():
    generator = torch.Generator().manual_seed(0)
    trained = TrainedModel(torch.nn.Identity(), None, Output(list("ab")), torch.device("cpu"))
    of_classes = Examination(trained, object(), "test")
    trained = TrainedModel(torch.nn.Identity(), None, Output(), torch.device("cpu"))
    of_values = Examination(trained, object(), "test")
    for _ in range(40):
        logits = torch.randn(500, 2, generator=generator)
        images = torch.rand(500, 3, 200, 4, generator=generator)
        of_classes.add(images, torch.randint(2, (500,), generator=generator), logits)
        of_values.add(None, torch.rand(500, generator=generator), logits[:, 0])
    kept = of_classes._classes._mistakes
    assert len(kept) == MOST_MISTAKES and all(one[-1].nbytes <= 3 * 96 * 96 for one in kept)
    assert len(of_values._values[0]._sample) == MOST_PAIRS
    assert len(json.dumps(of_classes.details("a").model_dump())) < 500_000


def test_targets_of_no_class_and_probabilities_that_are_nan_are_not_counted():
    logits = torch.tensor([[1.0, 0.0], [float("nan"), 0.0], [0.0, 1.0]])
    classes = examined(Output(["a", "b"]), [(None, torch.tensor([-100, 0, 1]), logits)]).classes
    assert classes.pairs == [(1, 1, 1)] and classes.num_mistakes == 0


def test_one_logit_is_of_two_classes():
    target = torch.tensor([[1.0], [0.0], [0.0]])
    batch = None, target, torch.tensor([[2.0], [-1.0], [3.0]])
    classes = examined(Output(kind="logits"), [batch]).classes
    assert classes.pairs == [(0, 0, 1), (0, 1, 1), (1, 1, 1)]
    assert classes.mistakes[0].probability == pytest.approx(torch.tensor(3.0).sigmoid().item())


@pytest.mark.parametrize("shape", [(60,), (60, 1), (60, 2)])
def test_averages_over_values_are_in_the_unit_of_the_target(shape):
    generator = torch.Generator().manual_seed(0)
    target, output = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    details = examined(Output(mean=5.0, std=2.0), split_up(7, target, target, output))
    wanted, made = (part.reshape(60, -1).numpy() * 2 + 5 for part in (target, output))
    assert len(details.values) == wanted.shape[1] and details.classes is None
    for i, values in enumerate(details.values):
        error = made[:, i] - wanted[:, i]
        spread = ((wanted[:, i] - wanted[:, i].mean()) ** 2).sum()
        assert values.r_squared == pytest.approx(1 - (error**2).sum() / spread)
        assert values.mean_error == pytest.approx(error.mean())
        assert values.root_mean_squared_error == pytest.approx((error**2).mean() ** 0.5)
        assert values.mean_absolute_error == pytest.approx(np.abs(error).mean())
        assert np.allclose(sorted(values.pairs), sorted(zip(wanted[:, i], made[:, i], strict=True)))


def test_values_that_are_not_finite_are_left_out():
    target, output = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.5, float("nan"), float("inf")])
    (values,) = examined(Output(), [(None, target, output)]).values
    assert values.count == 1 and values.mean_error == 0.5 and values.r_squared is None


class NextByte(torch.nn.Module):
    def forward(self, tokens):
        return torch.zeros(len(tokens), 256, tokens.shape[1])


def test_long_texts_are_cut():
    trained = TrainedModel(NextByte(), TextInput(3000), Output(), torch.device("cpu"))
    examination = Examination(trained, object(), "test")
    tokens = torch.arange(3000)[None] % 26 + ord("a")
    examination.add(tokens, tokens, trained(tokens))
    (text,) = examination.details("a.pth").texts
    assert text.prompt + text.data == bytes(tokens[0, : len(text.prompt) + MOST_LETTERS].tolist()).decode()


def test_images_that_are_made_of_images_are_shown_beside_them():
    images = torch.rand(20, 3, 300, 200)
    details = examined(Output(), [(images, images, images * 2)])
    assert len(details.images) == 8 and not details.values
    assert (details.images[0][1].width, details.images[0][1].height) == (64, 96)
    assert details.images[0][0].uri.startswith("data:image/jpeg;")


def drawn(pair):
    """The pixels (H, W) of the second picture of a pair."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(pair[1].uri.partition(",")[2]))))


def test_images_that_are_made_have_a_range_of_their_own_and_masks_that_of_the_image():
    ramp = torch.linspace(0, 1, 12).view(1, 1, 3, 4)
    details = examined(Output(), [(ramp, ramp, 40 * ramp - 20)])
    assert np.abs(drawn(details.images[0]).flatten() - np.linspace(0, 255, 12)).max() <= 1
    logits = torch.zeros(2, 3, 3, 4)
    logits[:, 1, 1] = 1
    images = torch.stack([ramp[0], torch.ones(1, 3, 4)])
    details = examined(Output(["a", "b", "c"], kind="classes"), [(images, logits.argmax(1), logits)])
    assert [drawn(pair)[1].tolist() for pair in details.images] == [[128] * 4, [128] * 4]  # of a blank image, too


def test_no_masks_are_made_once_all_images_are_kept(monkeypatch):
    sizes = []
    made = examine.outputs_as_images
    monkeypatch.setattr(examine, "outputs_as_images", lambda *given: sizes.append(len(given[1])) or made(*given))
    batch = torch.rand(6, 3, 4, 4), torch.zeros(6, 4, 4).long(), torch.rand(6, 3, 4, 4)
    assert len(examined(Output(["a", "b", "c"], kind="classes"), [batch] * 4).images) == 8
    assert sizes == [6, 2]


@pytest.mark.parametrize(
    "batch",
    [
        ({"a": torch.zeros(3)}, {"b": torch.zeros(3)}, {"c": torch.zeros(3)}),
        (torch.zeros(2, 3), torch.zeros(2, 3, 3), torch.zeros(2, 4, 3, 3)),  # segmentation
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 5)),
        (torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 3)),
        (torch.zeros(2, 3), None, torch.tensor(3.0)),
    ],
)
def test_what_cannot_be_shown_is_left_out(batch):
    details = examined(Output(["a", "b", "c"]), [batch])
    assert details.classes is None and not details.values and not details.images


@pytest.mark.parametrize("meaning", [Output(["a", "b", "c"]), Output(kind="logits")])
def test_several_classes_at_once_are_not_taken_for_values(meaning):
    assert not examined(meaning, [(torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(2, 3))]).values
