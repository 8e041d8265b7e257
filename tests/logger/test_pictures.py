"""Outputs and targets that are drawn beside their images."""

import math

import torch

from base.data.outputs import Output
from logger.pictures import batches_figure, outputs_as_images, with_targets_below

CLASSES = Output(["red", "row", "white"], kind="classes")


def test_masks_are_drawn_in_shades_of_the_images():
    images = torch.tensor([-1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    outputs = torch.zeros(1, 3, 2, 2)
    outputs[0, 1, 0, 0] = outputs[0, 2, 1, 1] = 1
    drawn = outputs_as_images(CLASSES, images, outputs)
    assert drawn is not None and drawn.shape == images.shape and drawn[0, 0].tolist() == [[0, -1], [-1, 1]]
    assert outputs_as_images(Output(), images, outputs) is outputs
    assert outputs_as_images(Output(), images, outputs[:, :2]) is None
    assert outputs_as_images(CLASSES, {"images": images}, outputs) is None


def test_the_mask_of_a_blank_image_is_drawn():
    outputs = torch.zeros(1, 3, 1, 2)
    outputs[0, 2, 0, 1] = 1
    drawn = outputs_as_images(CLASSES, torch.full((1, 1, 1, 2), 0.5), outputs)
    assert drawn is not None and drawn.tolist() == [[[[0.5, 1.5]]]]


def test_the_mask_of_two_classes_with_one_output_is_drawn():
    output = Output(["ground", "cell"], kind="logits")
    drawn = outputs_as_images(output, torch.tensor([[[[0.0, 4.0]]]]), torch.tensor([[[[2.0, -2.0]]]]))
    assert drawn is not None and drawn.tolist() == [[[[4.0, 0.0]]]]


def test_outputs_that_are_nan_are_drawn_black_and_leave_the_others_as_they_are():
    images, outputs = torch.tensor([0.0, 4.0]).expand(2, 1, 1, 2), torch.zeros(2, 3, 1, 2)
    outputs[:, 2] = 1
    outputs[1, 0, 0, 0] = math.nan
    masks = outputs_as_images(CLASSES, images, outputs)
    assert masks is not None and masks[0].tolist() == [[[4.0, 4.0]]]
    figure = batches_figure({"predictions": (torch.cat([images, masks], dim=2), ["white", "nan"])})
    first, second = (axis.get_images()[0].get_array().tolist() for axis in figure.axes[:2])
    assert first == [[0, 1], [1, 1]] and second == [[0, 1], [0, 0]]


def test_masks_of_targets_are_drawn_below_their_images():
    images = torch.tensor([-1.0, 1.0]).expand(2, 3, 1, 2)
    masks = torch.tensor([[[1, 2]], [[0, 255]]])
    for target in (masks, masks.unsqueeze(1), masks.byte()):
        drawn, labels = with_targets_below((images, target), ignored=255)
        assert labels is None and drawn.shape == (2, 3, 2, 2) and torch.equal(drawn[:, :, :1], images)
        assert drawn[0, 2, 1].tolist() == [0.0, 1.0] and drawn[1, 2, 1, 0] == -1 and drawn[1, 2, 1, 1].isnan()
    drawn, _ = with_targets_below((images, -images))
    assert torch.equal(drawn, torch.cat([images, -images], dim=2))
    for batch in ((images, torch.tensor([3, 4])), (images, {"mask": masks}), images, None):
        assert with_targets_below(batch) is batch
