"""YOURS: the classes that "arch" in a config names."""

import torch
import torch.nn.functional as F
from torch import nn

from base import BaseModel, UserError


class ConvNet(BaseModel):
    """Convolutions, each with batch norm and ReLU, that halve the image n_halvings times; then their mean.

    Input (N, channels, H, W) float, or (N, H, W) if channels is 1, or (N, H, W, channels) if channels_are_last.
    Output (N, out_features).

    out_features: classes, or 1 for a number.
    width: channels of the first convolution; each later one has twice as many as that before, up to 4 width.
    dropout: share of the last features set to 0.
    pixel_mean, pixel_std: of the pixels, which are scaled by them; 0 and 1 for pixels that are scaled already.
    target_mean, target_std: of a target that is a number, to which the outputs are brought.
    """

    def __init__(
        self,
        out_features: int,
        channels: int = 3,
        n_halvings: int = 3,
        width: int = 32,
        dropout: float = 0.2,
        channels_are_last: bool = False,
        pixel_mean: float = 0.0,
        pixel_std: float = 1.0,
        target_mean: float = 0.0,
        target_std: float = 1.0,
    ) -> None:
        super().__init__()
        self.channels, self.channels_are_last = channels, channels_are_last
        self.pixel_mean, self.pixel_std = pixel_mean, pixel_std
        self.target_mean, self.target_std = target_mean, target_std
        widths = [channels, *(width * min(2**i, 4) for i in range(n_halvings + 1))]
        self.layers = nn.ModuleList(map(convolution, widths[:-1], widths[1:]))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(widths[-1], out_features)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.ndim == 3:
            images = images.unsqueeze(1)
        elif self.channels_are_last:
            images = images.permute(0, 3, 1, 2)
        if images.shape[1] != self.channels:
            raise UserError(f"arch.args.channels: it is {self.channels}, and an image has {images.shape[1]}")
        maps = (images - self.pixel_mean) / self.pixel_std
        for i, layer in enumerate(self.layers):
            maps = layer(F.max_pool2d(maps, 2) if i else maps)
        return self.classifier(self.dropout(maps.mean(dim=(2, 3)))) * self.target_std + self.target_mean


def convolution(before: int, after: int) -> nn.Sequential:
    """Return a convolution of 3 x 3 pixels from `before` to `after` channels, with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    )
