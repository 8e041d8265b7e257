"""A fully connected classifier whose layers shrink evenly from the image to the classes."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from base import BaseModel, UserError


class ShrinkingMlp(BaseModel):
    """Blocks of Linear, LeakyReLU and BatchNorm1d, then a Linear; the sizes are an arithmetic progression.

    Input (N, ...) float with in_features numbers a sample, output (N, num_classes): log-probabilities.

    in_features, num_classes: the first and the last size.
    n_layers: number of Linear layers.
    use_dropout: use Dropout instead of BatchNorm1d.
    dropout_p: share of entries that Dropout sets to 0.
    """

    def __init__(
        self,
        in_features: int = 784,
        num_classes: int = 10,
        n_layers: int = 5,
        use_dropout: bool = False,
        dropout_p: float = 0.3,
    ) -> None:
        super().__init__()
        if n_layers < 1:
            raise UserError(f"n_layers: got {n_layers}; it should be 1 or more")
        if not 0 <= dropout_p < 1:
            raise UserError(f"dropout_p: got {dropout_p}; it should be a share from 0 to below 1")
        sizes = [in_features + i * (num_classes - in_features) // n_layers for i in range(n_layers + 1)]
        layers = []
        for before, after in pairwise(sizes[:-1]):
            layers += [nn.Linear(before, after), nn.LeakyReLU()]
            layers += [nn.Dropout(dropout_p) if use_dropout else nn.BatchNorm1d(after)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        return F.log_softmax(self.layers(samples.flatten(1)), dim=1)
