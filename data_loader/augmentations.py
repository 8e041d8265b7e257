"""Random changes of whole batches of images, each image with a draw of its own."""

import torch
import torch.nn.functional as F


class RandomShift:
    """Shifts each image of a batch (B, C, H, W) by up to `most` pixels along both axes, and fills in zeros.

    flip: mirror half of them too. The numbers are drawn on the CPU, whose generator the loader seeds, also for images
    on the GPU.
    """

    draws_per_sample = True

    def __init__(self, most: int, flip: bool = False):
        self.most = most
        self.flip = flip

    def __call__(self, images):
        number, _, height, width = images.shape
        down, right = torch.randint(2 * self.most + 1, (2, number, 1))
        rows = down + torch.arange(height)
        columns = right + torch.arange(width)
        if self.flip:
            columns = torch.where(torch.rand(number, 1) < 0.5, columns.flip(1), columns)
        padded = F.pad(images, [self.most] * 4)
        rows, columns = rows.to(images.device), columns.to(images.device)
        each = torch.arange(number, device=images.device)[:, None, None]
        return padded.movedim(1, -1)[each, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).contiguous()
