"""Residual networks for images of 32 x 32 pixels. Source: He et al., Deep Residual Learning, 2015, section 4.2."""

import torch
import torch.nn.functional as F
from torch import nn

from base import BaseModel, UserError


class SmallResNet(BaseModel):
    """Three stages of residual blocks with width, 2 width and 4 width channels, then the average over all pixels.

    Input (N, 3, 32, 32) float, output (N, num_classes): logits. depth: number of weighted layers, 6 n + 2, such as
    20, 32, 44, 56 or 110.
    """

    def __init__(self, num_classes: int = 10, depth: int = 20, width: int = 16) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise UserError(f"depth: got {depth}; it should be 6 n + 2, such as 20, 32, 44, 56 or 110")
        blocks = (depth - 2) // 6
        layers = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
        for stage in range(3):
            for i in range(blocks):
                after = width * 2**stage
                layers.append(Block(before, after, stride=2 if stage and i == 0 else 1))
                before = after
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(before, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images).mean(dim=(2, 3)))


class Block(nn.Module):
    """Two convolutions plus a shortcut without weights, which subsamples pixels and pads channels with zeros.

    Input (N, before, H, W), output (N, after, H / stride, W / stride).
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.stride, self.new_channels = stride, after - before
        self.residual = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        shortcut = maps[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        return F.relu(self.residual(maps) + shortcut)
