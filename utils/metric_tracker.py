"""Average numbers over an epoch, each batch weighted by its samples."""


class MetricTracker:
    """Weighted averages by name. Values may be 0-dim tensors on any device: they are read only when asked for.

    keys: the names that can be updated. writer: if given, every update also writes a scalar at once, which waits
    for the device.
    """

    def __init__(self, *keys, writer=None):
        self.keys = keys
        self.writer = writer
        self.reset()

    def reset(self):
        """Forget all values."""
        self._sums = dict.fromkeys(self.keys, 0.0)
        self._weights = dict.fromkeys(self.keys, 0)
        self._pending = {key: [] for key in self.keys}

    def update(self, key, value, n=1):
        """Add the mean of n samples. value: a number or a 0-dim tensor, which is not copied to the CPU yet."""
        if key not in self._pending:
            raise ValueError(f"metric {key!r} is not tracked; tracked are {', '.join(self.keys)}")
        if self.writer is not None:
            self.writer.add_scalar(key, float(value))
        self._pending[key].append((value.detach() if getattr(value, "requires_grad", False) else value, n))

    def avg(self, key):
        """The average of all samples so far as a float, nan before the first."""
        self.collect()
        return self._sums[key] / self._weights[key] if self._weights[key] else float("nan")

    def result(self):
        """{name: average} of all names."""
        return {key: self.avg(key) for key in self.keys}

    def collect(self):
        """{name: average since the last call}. Fetches all waiting tensors in one transfer a device."""
        pending, self._pending = self._pending, {key: [] for key in self.keys}
        fetched = iter(_fetch([value for batches in pending.values() for value, _ in batches]))
        latest = {}
        for key, batches in pending.items():
            weights = [n for _, n in batches]
            total = sum(next(fetched) * n for n in weights)
            self._sums[key] += total
            self._weights[key] += sum(weights)
            latest[key] = total / sum(weights) if weights else float("nan")
        return latest


def _fetch(values):
    """The values as python floats; tensors of one device and dtype travel together."""
    groups = {}
    for position, value in enumerate(values):
        if hasattr(value, "detach"):  # a tensor, and no NumPy scalar, which has a device too
            groups.setdefault((value.device, value.dtype), []).append(position)
    fetched = list(values)
    for positions in groups.values():
        import torch

        scalars = [values[position] for position in positions]
        stacked = torch.stack([scalar if scalar.dim() == 0 else scalar.reshape(()) for scalar in scalars])
        for position, value in zip(positions, stacked.tolist(), strict=True):
            fetched[position] = value
    return [float(value) for value in fetched]
