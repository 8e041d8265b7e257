"""Two networks of two convolutions, with fewer than 100,000 parameters and with 1.7 million.

Input (N, 1, 28, 28) float, output (N, 10): logits.
"""

import torch
from torch import nn

from base import BaseModel


class SmallCnn(BaseModel):
    """Two convolutions with batch norm and pooling, and two linear layers: 97,000 parameters.

    conv_dropout: share of channels set to 0 after the second convolution.
    dropout: share of the hidden layer's units set to 0.
    """

    def __init__(self, conv_dropout: float = 0.1, dropout: float = 0.2) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(1, 32, padding=0), nn.MaxPool2d(2), *_block(32, 64, padding=0), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(
            nn.Dropout2d(conv_dropout),
            nn.Flatten(),
            nn.Linear(64 * 5 * 5, 48),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(48, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images))


class LargeCnn(BaseModel):
    """Two convolutions with batch norm and pooling, and three linear layers: 1.7 million parameters.

    conv_dropout: share of channels set to 0 after the second convolution.
    dropout: share of the units of each hidden layer set to 0.
    """

    def __init__(self, conv_dropout: float = 0.2, dropout: float = 0.4) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(1, 32, padding=1), nn.MaxPool2d(2), *_block(32, 64, padding=1), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(
            nn.Dropout2d(conv_dropout),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 512),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(512, 128),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(128, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images))


def _block(before, channels, padding):
    conv = nn.Conv2d(before, channels, kernel_size=3, padding=padding, bias=False)
    return conv, nn.BatchNorm2d(channels), nn.ReLU()
