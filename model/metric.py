"""YOURS: the functions that "metrics" in a config names, (output, target) -> number, a mean over the batch.

They return tensors: a python number would make every step wait for the device.
"""


def accuracy(output, target):
    """Share of rows whose largest entry is the target. output (N, C) float, target (N,) int64."""
    return (output.argmax(dim=1) == target).float().mean()


def top_k_acc(output, target, k: int = 3):
    """Share of rows whose target is among the k largest entries. output (N, C) float, target (N,) int64."""
    return (output.topk(k, dim=1).indices == target.unsqueeze(1)).any(dim=1).float().mean()
