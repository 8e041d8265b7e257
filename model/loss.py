"""YOURS: the functions that "loss" in a config names, (output, target) -> 0-dim tensor, a mean over the batch."""

import torch.nn.functional as F


def nll_loss(output, target):
    """Negative log-likelihood. output (N, C) log-probabilities, target (N,) int64."""
    return F.nll_loss(output, target)
