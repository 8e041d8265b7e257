"""YOURS: what "loss" in a config names: functions (output, target) that return the mean over the batch, 0-dim."""

import torch
import torch.nn.functional as F


def cross_entropy(output: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Return the cross-entropy. output (N, C) logits, target (N,) int64, weight (C,) of the classes.

    Logits are any numbers, such as the outputs of a linear layer. For log-probabilities it equals nll_loss.
    """
    return F.cross_entropy(output, target, weight)


def nll_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the negative log-likelihood. output (N, C) log-probabilities, target (N,) int64."""
    return F.nll_loss(output, target)


# averages over batches weight each by its targets that count, as torch's losses do
cross_entropy.counted = nll_loss.counted = "targets"  # pyright: ignore[reportFunctionMemberAccess]
