"""YOURS: the classes that "arch" in a config names."""

import torch
import torch.nn.functional as F
from torch import nn

from base import BaseModel


class MnistModel(BaseModel):
    """A small LeNet: two convolutions and two linear layers, each pair with dropout.

    Input (N, 1, 28, 28) float, output (N, num_classes): log-probabilities.
    """

    def __init__(self, num_classes: int = 10, conv_dropout: float = 0.1, dropout: float = 0.3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
        self.conv2_drop = nn.Dropout2d(conv_dropout)
        self.fc1 = nn.Linear(320, 50)
        self.fc1_drop = nn.Dropout(dropout)
        self.fc2 = nn.Linear(50, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(F.max_pool2d(self.conv1(images), 2))  # (N, 10, 12, 12)
        hidden = F.relu(F.max_pool2d(self.conv2_drop(self.conv2(hidden)), 2))  # (N, 20, 4, 4)
        hidden = self.fc1_drop(F.relu(self.fc1(hidden.flatten(1))))
        return F.log_softmax(self.fc2(hidden), dim=1)
