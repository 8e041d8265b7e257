"""A model with everything that has a state or draws random numbers: copied into model/ by benchmarks/chaos.py."""

import torch

from base import BaseModel


class SmallNet(BaseModel):
    """Batch norm and dropout between two convolutions. images: (N, 3, 8, 8), result: (N, 4)."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.2),
            torch.nn.Conv2d(8, 8, 3),
            torch.nn.Flatten(),
            torch.nn.Linear(128, 4),
        )

    def forward(self, images):
        return self.layers(images)
