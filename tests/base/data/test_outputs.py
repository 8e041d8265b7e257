"""Output: models of labels, any of which an example may have, and of classes, one of which it has."""

import pytest
import torch

from base.data.outputs import Output, spec_in, spec_of

NAMES = {"classes": ["red", "row", "white"]}
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-3.0, -2.0, -1.0], [1.0, float("nan"), 1.0]])


def output_of(loss, expects=None, state=NAMES):
    """The Output of a model that was trained by a loss."""
    criterion = torch.nn.Module()
    if expects is not None:
        criterion.expects = expects
    return Output.from_state(state, spec_of(loss, criterion))


@pytest.mark.parametrize(
    "loss, expects",
    [
        ("torch.nn.BCEWithLogitsLoss", None),
        ({"type": "torch.nn.BCEWithLogitsLoss", "args": {"pos_weight": [1, 2, 3]}}, None),
        ("torch.nn.MultiLabelSoftMarginLoss", None),
        ("asymmetric_loss", "logits"),
        ({"type": "asymmetric_loss", "args": {"base": "cross_entropy"}}, "logits"),
        ("per_label_cross_entropy", "logits"),
    ],
)
def test_each_label_has_its_own_probability(loss, expects):
    output = output_of(loss, expects)
    first, second, third = output.describe(LOGITS)
    assert first["prediction"] == ["red", "white"] and second["prediction"] == [] and third["prediction"] is None
    assert first["probabilities"] == pytest.approx(
        dict(zip(NAMES["classes"], LOGITS[0].sigmoid().tolist(), strict=True))
    )
    assert "probability" not in first


def test_probabilities_of_labels_are_taken_as_they_are():
    found = output_of("torch.nn.BCELoss").describe(torch.tensor([[0.25, 0.75, 0.5]]))
    assert found == [{"prediction": ["row"], "probabilities": {"red": 0.25, "row": 0.75, "white": 0.5}}]


def test_labels_are_right_if_all_are():
    target = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, float("nan")]])
    first, second, third = output_of("torch.nn.BCEWithLogitsLoss").describe(LOGITS, target=target)
    assert (first["target"], first["right"]) == (["red", "white"], True)
    assert (second["target"], second["right"]) == (["white"], False)
    assert "target" not in third


@pytest.mark.parametrize("loss, expects", [("torch.nn.CrossEntropyLoss", None), ("focal_loss", "classes"), ("x", None)])
def test_one_of_several_classes_is_chosen(loss, expects):
    (found,) = output_of(loss, expects).describe(LOGITS[:1])
    assert found["prediction"] == "red" and found["probability"] == pytest.approx(LOGITS[0].softmax(0)[0].item())


def test_one_output_for_two_classes():
    (found,) = output_of("own_loss", "logits", {"classes": ["no", "yes"]}).describe(torch.tensor([[2.0]]))
    assert found["prediction"] == "yes" and found["probability"] == pytest.approx(0.880797)


def test_class_maps_are_predicted_as_class_numbers():
    outputs = torch.zeros(2, 3, 2, 2)
    outputs[0, 1, 0, 0] = outputs[1, 2] = 1
    output = output_of("torch.nn.CrossEntropyLoss")
    target = torch.full((2, 2, 2), 255)
    first, second = output.describe(outputs, target=target)
    assert first == {"prediction": [[1, 0], [0, 0]], "target": [[255, 255], [255, 255]]}
    assert second["prediction"] == [[2, 2], [2, 2]]
    assert output.class_maps(outputs[:, :2]) is None  # of other classes
    assert output_of("torch.nn.MSELoss").class_maps(outputs) is None  # images of three channels


def test_a_mask_of_nan_is_no_prediction():
    outputs = torch.zeros(3, 3, 2, 2)
    outputs[0, :, 0, 0] = float("nan")
    outputs[1, 0] = -float("inf")  # of a class that is ruled out
    first, second, third = output_of("torch.nn.CrossEntropyLoss").describe(outputs)
    assert first["prediction"] is None and second["prediction"] == [[1, 1], [1, 1]]
    assert third["prediction"] == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    "loss, expects, shape, is_segmentation",
    [
        ("cross_entropy_of_tokens", None, (2, 3, 3), False),  # tokens and classes, in an unknown order
        ("cross_entropy_of_tokens", "anything", (2, 3, 3), False),
        ("cross_entropy_of_tokens", "classes", (2, 3, 3), True),
        ("torch.nn.CrossEntropyLoss", None, (2, 3, 3), True),
        ("my_cross_entropy", None, (2, 3, 4, 4), True),
        ("my_cross_entropy", None, (2, 3, 3, 3), False),  # the classes may be last
        ("my_cross_entropy", None, (2, 3, 4, 3), False),
        ("torch.nn.PoissonNLLLoss", None, (2, 3, 4, 4), False),
        ("torch.nn.functional.poisson_nll_loss", None, (2, 3, 4, 4), False),
        ("torch.nn.GaussianNLLLoss", None, (2, 3, 4, 4), False),
        ("torch.nn.NLLLoss", None, (2, 3, 4, 4), True),
        ({"type": "dice", "args": {"with": "cross_entropy"}}, None, (2, 3, 4, 4), False),
    ],
)
def test_dimension_1_is_of_the_classes_only_if_the_loss_says_so(loss, expects, shape, is_segmentation):
    assert (output_of(loss, expects).class_maps(torch.zeros(shape)) is not None) == is_segmentation


def test_class_numbers_are_the_only_label_of_an_example():
    output = output_of("torch.nn.BCEWithLogitsLoss")
    logits = torch.tensor([[2.0, -1.0, -1.0], [2.0, 1.0, -1.0], [2.0, 1.0, -1.0]])
    first, second, third = output.describe(logits, target=torch.tensor([0, 1, -1]))
    assert (first["target"], first["right"]) == (["red"], True)
    assert (second["target"], second["right"]) == (["row"], False)
    assert "target" not in third and "right" not in third


def test_what_the_outputs_are_is_kept_and_only_sought_where_it_is_unknown(monkeypatch):
    def broken(*_):
        raise SyntaxError("of model/loss.py")

    monkeypatch.setattr("base.data.outputs.find_type", broken)
    kept = spec_of("own_loss", Declared("logits"), (3,))
    assert spec_in({"outputs": kept, "config": {"loss": "own_loss"}}) == kept
    assert spec_in({"config": {"loss": "torch.nn.BCELoss"}})["kind"] == "probabilities"
    assert spec_in({"config": {"loss": "own_cross_entropy"}})["kind"] == "classes"
    assert spec_in({"config": {"loss": "own_loss"}})["kind"] is None and spec_in({})["kind"] is None
    monkeypatch.setattr("base.data.outputs.find_type", lambda *_: Declared)
    assert spec_in({"config": {"loss": "own_loss"}})["kind"] == "log_probabilities"
    unknown = spec_of("own_loss", shape=(3, 4, 4))  # a loss that says only later what it takes
    assert spec_in({"outputs": unknown, "config": {"loss": "own_loss"}}) == {
        "kind": "log_probabilities",
        "is_declared": True,
        "shape": [3, 4, 4],
    }
    assert spec_in({"outputs": kept, "config": {"loss": "own_loss"}}) == kept


class Declared:
    """A loss whose instances may expect something else."""

    expects = "log_probabilities"

    def __init__(self, expects):
        self.expects = expects


def test_an_edited_checkpoint_says_nothing_of_the_outputs():
    for shape in ("ab", [1.5], [-1], [2**62, 8], None, 3):
        output = Output.from_state(NAMES, {"kind": ["classes"], "is_declared": 1, "shape": shape})
        assert output.kind is None and output.shape is None


@pytest.mark.parametrize(
    "loss, shape, activation",
    [
        ("torch.nn.CrossEntropyLoss", (3,), "softmax"),
        ("torch.nn.CrossEntropyLoss", None, "softmax"),
        ("torch.nn.CrossEntropyLoss", (3, 8, 8), "argmax"),
        ("torch.nn.BCEWithLogitsLoss", (3,), "sigmoid"),
        ("torch.nn.BCELoss", (3,), None),
        ("torch.nn.MSELoss", (1, 8, 8), None),
    ],
)
def test_what_makes_predictions_of_the_outputs(loss, shape, activation):
    assert Output.from_state(NAMES, spec_of(loss, shape=shape)).activation == activation


def test_a_segmentation_of_two_classes_may_have_one_output():
    outputs = torch.tensor([[[[0.2, 0.7], [-1.0, 0.0]]]])
    state = {"classes": ["ground", "cell"]}
    assert output_of("torch.nn.BCEWithLogitsLoss", state=state).describe(outputs) == [{"prediction": [[1, 1], [0, 0]]}]
    assert output_of("torch.nn.BCELoss", state=state).describe(outputs) == [{"prediction": [[0, 1], [0, 0]]}]
    assert output_of("torch.nn.BCELoss", state={}).class_maps(outputs) is None  # an image


def test_classes_of_a_segmentation_may_have_no_names():
    output = output_of("torch.nn.CrossEntropyLoss", state={})
    assert output.class_maps(torch.zeros(2, 5, 4, 4)) is not None
    assert output.class_maps(torch.zeros(2, 256, 9)) is None  # texts
    assert output_of("my_cross_entropy", state={}).class_maps(torch.zeros(2, 5, 4, 4)) is None
