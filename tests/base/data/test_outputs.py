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
