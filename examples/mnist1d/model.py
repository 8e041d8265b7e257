"""Four networks for series of 40 numbers: linear, fully connected, convolutional and recurrent.

Input (N, 40) float, output (N, 10): logits.
"""

import torch
import torch.nn.functional as F
from torch import nn

from base import BaseModel

LENGTH, CLASSES = 40, 10


class Linear(BaseModel):
    """Logistic regression: one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(LENGTH, CLASSES)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        return self.output(series)


class Mlp(BaseModel):
    """Two hidden layers of `width` units. dropout: share of their outputs set to 0."""

    def __init__(self, width: int = 100, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(LENGTH, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, CLASSES),
        )

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        return self.layers(series)


class Cnn(BaseModel):
    """Three convolutions of `channels` channels, each of which halves the length, and a linear layer.

    dropout: share of the linear layer's inputs set to 0.
    """

    def __init__(self, channels: int = 25, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(1, channels, kernel_size=5, stride=2, padding=2)
        self.conv2 = nn.Conv1d(channels, channels, kernel_size=3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(channels, channels, kernel_size=3, stride=2, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(channels * LENGTH // 8, CLASSES)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.conv1(series[:, None]))  # (N, channels, 20)
        hidden = F.relu(self.conv3(F.relu(self.conv2(hidden))))  # (N, channels, 5)
        return self.output(self.dropout(hidden.flatten(1)))


class Gru(BaseModel):
    """A GRU of `width` units in each direction; a linear layer reads its outputs at all times."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.gru = nn.GRU(1, width, batch_first=True, bidirectional=True)
        self.output = nn.Linear(LENGTH * 2 * width, CLASSES)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.gru(series[..., None])  # (N, 40, 2 width)
        return self.output(hidden.flatten(1))
