"""Random changes of whole batches of images; each image of a batch gets its own."""

import torch
import torch.nn.functional as F

from utils.device import copied_ahead


class RandomShift:
    """Shifts each image of a batch (B, C, H, W) by up to `most` pixels along both axes and fills with zeros.

    flip: also mirror half of the images. Random numbers are drawn on the CPU, whose generator the loader seeds, for
    images on the GPU too.
    """

    draws_per_sample = True

    def __init__(self, most: int, flip: bool = False) -> None:
        self.most = most
        self.flip = flip

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        number, channels, height, width = images.shape
        down, right = torch.randint(2 * self.most + 1, (2, number, 1))
        rows = down + torch.arange(height)
        columns = right + torch.arange(width)
        if self.flip:
            columns = torch.where(torch.rand(number, 1) < 0.5, columns.flip(1), columns)
        places = rows[:, :, None] * (width + 2 * self.most) + columns[:, None, :]
        places = copied_ahead(places, images.device).view(number, 1, -1).expand(-1, channels, -1)
        return F.pad(images, [self.most] * 4).flatten(2).gather(2, places).view_as(images)
