"""YOURS: the functions that "metrics" in a config names, (output, target) -> number, a mean over the batch.

They return tensors: a python number would make every step wait for the device.
"""

import torch


def accuracy(output, target):
    """Share of rows whose largest entry is the target. output (N, C) float, target (N,) int64."""
    return _share(output.argmax(dim=1) == target)


def top_k_acc(output, target, k: int = 3):
    """Share of rows whose target is among the k largest entries. output (N, C) float, target (N,) int64."""
    return _share((output.topk(k, dim=1).indices == target.unsqueeze(1)).any(dim=1))


def _share(hits):
    """Share of true entries, in double precision, so that counts survive the averaging; MPS has only single."""
    return hits.to(torch.float32 if hits.device.type == "mps" else torch.float64).mean()
