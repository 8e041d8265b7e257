"""The tensors that a loss or a metric holds follow it to the device; "meta" stands for a GPU."""

import functools

import torch

from utils.runs.weights import on_device

META = torch.device("meta")


class Focal(torch.nn.Module):
    """Keeps its weights as a plain attribute, which torch's `to` passes over, within a part of it."""

    def __init__(self, weight):
        super().__init__()
        self.part = torch.nn.Module()
        self.part.weight, self.gamma = weight, 2.0


def test_the_weights_of_a_loss_move_with_it():
    weight = torch.tensor([1.0, 3.0])
    assert on_device(torch.nn.CrossEntropyLoss(weight=weight), META).weight.device == META
    focal = on_device(Focal(weight), META)
    assert focal.part.weight.device == META and focal.gamma == 2.0
    function = functools.partial(torch.nn.functional.cross_entropy, weight=weight, ignore_index=-1)
    moved = on_device(function, META)
    assert moved.keywords["weight"].device == META and moved.keywords["ignore_index"] == -1
    assert on_device(torch.nn.functional.mse_loss, META) is torch.nn.functional.mse_loss
