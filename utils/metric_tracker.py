"""Average numbers over an epoch, each batch weighted by its samples."""

import itertools
import math


class MetricTracker:
    """Weighted averages by name. Values may be 0-dim tensors on any device: they are read only when asked for.

    keys: the names that can be updated. writer: if given, every update also writes a scalar at once, which waits
    for the device. finite_only: leave values that are nan or infinite out of the averages.
    """

    def __init__(self, *keys, writer=None, finite_only=False):
        self.keys = keys
        self.writer = writer
        self.finite_only = finite_only
        self.reset()

    def reset(self):
        """Forget all values."""
        self._sums = dict.fromkeys(self.keys, 0.0)
        self._weights = dict.fromkeys(self.keys, 0)
        self._window = {key: [] for key in self.keys}  # (value, n) since the last collect, read already
        self._pending = {key: [] for key in self.keys}  # and not yet read

    def update(self, key, value, n=1):
        """Add the mean of n samples. value: a number or a 0-dim tensor, which is not copied to the CPU yet.

        A list of such tensors, the norms of a thing's parts, stands for the norm of the whole.
        """
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

    def window(self, key):
        """The values since the last collect, as floats."""
        self._read_pending()
        return [value for value, _ in self._window[key]]

    def collect(self):
        """{name: average since the last call}. Fetches all waiting tensors in one transfer a device."""
        self._read_pending()
        window, self._window = self._window, {key: [] for key in self.keys}
        latest = {}
        for key, batches in window.items():
            counted = [(value, n) for value, n in batches if not self.finite_only or math.isfinite(value)]
            weight = sum(n for _, n in counted)
            total = sum(value * n for value, n in counted)
            self._sums[key] += total
            self._weights[key] += weight
            latest[key] = total / weight if weight else float("nan")
        return latest

    def state_dict(self):
        """All values so far; they are read, which waits for the device."""
        self._read_pending()
        return {"sums": dict(self._sums), "weights": dict(self._weights), "window": dict(self._window)}

    def load_state_dict(self, state):
        """Go on from the values so far of those names that are tracked here."""
        self.reset()
        for key in self.keys:
            if key in state["sums"]:
                self._sums[key], self._weights[key] = float(state["sums"][key]), int(state["weights"][key])
                self._window[key] = [(float(value), int(n)) for value, n in state["window"][key]]

    def _read_pending(self):
        pending, self._pending = self._pending, {key: [] for key in self.keys}
        numbers = iter(_read([value for batches in pending.values() for value, _ in batches]))
        for key, batches in pending.items():
            self._window[key] += [(next(numbers), n) for _, n in batches]


def _read(values):
    """The values as floats; or, if they are lists of norms, the norms of the wholes."""
    if not any(isinstance(value, list) for value in values):
        return _fetch(values)
    fetched = iter(_fetch([part for parts in values for part in parts]))
    return [math.hypot(*itertools.islice(fetched, len(parts))) for parts in values]


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
