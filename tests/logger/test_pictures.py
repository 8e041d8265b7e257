"""Outputs that are drawn beside the images that they are made of."""

import torch

from base.data.outputs import Output
from logger.pictures import outputs_as_images

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
