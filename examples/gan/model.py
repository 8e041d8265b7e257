"""A generator of digits and the discriminator that it learns from, for examples/gan/config.json."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from base import BaseModel

_MEAN, _STD = 0.1307, 0.3081  # of pixels from 0 to 1; MnistDataLoader normalizes by them


class Gan(BaseModel):
    """Two fully connected networks. Source: Goodfellow et al., Generative Adversarial Networks, 2014.

    Input (N, 1, 28, 28) float, normalized by MnistDataLoader. Output (N,): the discriminator's logit that an image is
    real.
    """

    def __init__(self, latent_size: int = 100) -> None:
        super().__init__()
        self.latent_size = latent_size
        sizes = [latent_size, 128, 256, 512, 1024]
        blocks = [
            nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.LeakyReLU(0.2))
            for inputs, outputs in itertools.pairwise(sizes)
        ]
        self.generator = nn.Sequential(*blocks, nn.Linear(1024, 784), nn.Tanh())
        self.discriminator = nn.Sequential(
            nn.Linear(784, 512), nn.LeakyReLU(0.2), nn.Linear(512, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images * (2 * _STD) + (2 * _MEAN - 1)  # from -1 to 1, like the generator's
        return self.discriminator(pixels.flatten(1)).squeeze(1)

    def generate(self, latent: torch.Tensor) -> torch.Tensor:
        """Return images (N, 1, 28, 28), normalized like the real ones, from latent (N, latent_size)."""
        pixels = self.generator(latent).view(-1, 1, 28, 28)
        return (pixels + (1 - 2 * _MEAN)) / (2 * _STD)


def taken_for_real(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the share of images that the discriminator takes for real. output (N,) logits; the target is ignored."""
    return (output > 0).float().mean()


def real_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the discriminator's loss for images that are all real. output (N,) logits; the target is ignored."""
    return F.binary_cross_entropy_with_logits(output, torch.ones_like(output))
