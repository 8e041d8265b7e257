"""What of a model depends on how its batches are divided between processes."""

import pytest
import torch
from torchvision.ops import FrozenBatchNorm2d

from utils.distributed.parallel import has_unshared_batch_norm


class OwnNorm(torch.nn.Module):
    """Batch norm that somebody has written from scratch."""

    def __init__(self):
        super().__init__()
        self.momentum = 0.1
        self.register_buffer("running_mean", torch.zeros(3))


class Normalized(torch.nn.modules.batchnorm._BatchNorm):
    """Derives from torch's base class, as third-party layers do."""

    def _check_input_dim(self, input):
        pass


@pytest.mark.parametrize(
    ("layer", "unshared"),
    [
        (torch.nn.BatchNorm2d(3), True),
        (torch.nn.BatchNorm1d(3, momentum=None), True),
        (torch.nn.BatchNorm1d(3, track_running_stats=False), True),
        (Normalized(3), True),
        (OwnNorm(), True),
        (torch.nn.SyncBatchNorm(3), False),
        (torch.nn.InstanceNorm2d(3, track_running_stats=True), False),
        (FrozenBatchNorm2d(3), False),
        (torch.nn.GroupNorm(1, 3), False),
    ],
)
def test_batch_norm_of_any_class_is_told_by_what_it_does(layer, unshared):
    assert has_unshared_batch_norm(torch.nn.Sequential(torch.nn.Linear(3, 3), layer)) == unshared
