"""A convolutional autoencoder: images to a few numbers and back."""

import torch
from torch import nn

from base import BaseModel


class ConvAutoencoder(BaseModel):
    """Two strided convolutions and a Linear down to code_size numbers, and the same layers in reverse.

    Input and output (N, 1, 28, 28) float, with values from 0 to 1.
    """

    def __init__(self, code_size: int = 32, channels: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, channels, 3, stride=2, padding=1),  # 14 x 14
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),  # 7 x 7
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * channels * 7 * 7, code_size),
        )
        self.decoder = nn.Sequential(
            nn.Linear(code_size, 2 * channels * 7 * 7),
            nn.ReLU(),
            nn.Unflatten(1, (2 * channels, 7, 7)),
            nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(channels, 1, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Return the code (N, code_size) of images."""
        return self.encoder(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encode(images))
