"""Output: models of labels, any of which an example may have, and of classes, one of which it has."""

import pytest
import torch

from base.data.outputs import Output

NAMES = {"classes": ["red", "row", "white"]}
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-3.0, -2.0, -1.0], [1.0, float("nan"), 1.0]])


@pytest.mark.parametrize(
    "loss, expects",
    [
        ("torch.nn.BCEWithLogitsLoss", None),
        ("{'type': 'torch.nn.BCEWithLogitsLoss', 'args': {'pos_weight': [1, 2, 3]}}", None),
        ("torch.nn.MultiLabelSoftMarginLoss", None),
        ("asymmetric_loss", "logits"),
    ],
)
def test_each_label_has_its_own_probability(loss, expects):
    output = Output.from_state(NAMES, loss, expects)
    first, second, third = output.describe(LOGITS)
    assert first["prediction"] == ["red", "white"] and second["prediction"] == [] and third["prediction"] is None
    assert first["probabilities"] == pytest.approx(
        dict(zip(NAMES["classes"], LOGITS[0].sigmoid().tolist(), strict=True))
    )
    assert "probability" not in first


def test_probabilities_of_labels_are_taken_as_they_are():
    found = Output.from_state(NAMES, "torch.nn.BCELoss").describe(torch.tensor([[0.25, 0.75, 0.5]]))
    assert found == [{"prediction": ["row"], "probabilities": {"red": 0.25, "row": 0.75, "white": 0.5}}]


def test_labels_are_right_if_all_are():
    target = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, float("nan")]])
    first, second, third = Output.from_state(NAMES, "torch.nn.BCEWithLogitsLoss").describe(LOGITS, target=target)
    assert (first["target"], first["right"]) == (["red", "white"], True)
    assert (second["target"], second["right"]) == (["white"], False)
    assert "target" not in third


@pytest.mark.parametrize("loss, expects", [("torch.nn.CrossEntropyLoss", None), ("focal_loss", "classes"), ("x", None)])
def test_one_of_several_classes_is_chosen(loss, expects):
    (found,) = Output.from_state(NAMES, loss, expects).describe(LOGITS[:1])
    assert found["prediction"] == "red" and found["probability"] == pytest.approx(LOGITS[0].softmax(0)[0].item())


def test_one_output_for_two_classes():
    (found,) = Output.from_state({"classes": ["no", "yes"]}, "own_loss", "logits").describe(torch.tensor([[2.0]]))
    assert found["prediction"] == "yes" and found["probability"] == pytest.approx(0.880797)


def test_class_maps_are_predicted_as_class_numbers():
    outputs = torch.zeros(2, 3, 2, 2)
    outputs[0, 1, 0, 0] = outputs[1, 2] = 1
    output = Output.from_state(NAMES, "torch.nn.CrossEntropyLoss")
    target = torch.full((2, 2, 2), 255)
    first, second = output.describe(outputs, target=target)
    assert first == {"prediction": [[1, 0], [0, 0]], "target": [[255, 255], [255, 255]]}
    assert second["prediction"] == [[2, 2], [2, 2]]
    assert output.class_maps(outputs[:, :2]) is None  # of other classes
    assert Output.from_state(NAMES, "torch.nn.MSELoss").class_maps(outputs) is None  # images of three channels


def test_class_maps_are_drawn_in_shades_of_the_images():
    images = torch.tensor([-1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    outputs = torch.zeros(1, 3, 2, 2)
    outputs[0, 1, 0, 0] = outputs[0, 2, 1, 1] = 1
    drawn = Output.from_state(NAMES, "torch.nn.CrossEntropyLoss").pictures(images, outputs)
    assert drawn is not None and drawn.shape == images.shape and drawn[0, 0].tolist() == [[0, -1], [-1, 1]]
    assert Output().pictures(images, outputs) is outputs
    assert Output().pictures(images, outputs[:, :2]) is None
