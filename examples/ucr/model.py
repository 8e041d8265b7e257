"""Two networks for series, of Wang, Yan and Oates, Time Series Classification from Scratch, 2017, section II.

Input (N, length) float, output (N, num_classes): logits.
"""

import torch
from torch import nn

from base import BaseModel, UserError


class Fcn(BaseModel):
    """Three convolutions with batch norm, whose outputs are averaged over time, and a linear layer; for any length."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers = []
        for before, channels, kernel_size in ((1, 128, 8), (128, 256, 5), (256, 128, 3)):
            conv = nn.Conv1d(before, channels, kernel_size, padding=kernel_size // 2, bias=False)
            layers += [conv, nn.BatchNorm1d(channels), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.output = nn.Linear(128, num_classes)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        return self.output(self.features(series[:, None]).mean(dim=2))


class Mlp(BaseModel):
    """Three hidden layers of 500 units with dropout, for series of one length."""

    def __init__(self, length: int, num_classes: int) -> None:
        super().__init__()
        self.length = length
        layers = []
        for before, dropout in ((length, 0.1), (500, 0.2), (500, 0.2)):
            layers += [nn.Dropout(dropout), nn.Linear(before, 500), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Dropout(0.3), nn.Linear(500, num_classes))

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        if series.shape[1] != self.length:
            raise UserError(f"arch.args.length: it is {self.length}, and the series have {series.shape[1]} numbers")
        return self.layers(series)
