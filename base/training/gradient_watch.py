"""GradientWatch: which updates had nan or infinity in their gradient, told without waiting for the device."""

import torch

from utils.distributed.shards import local
from utils.untrusted import as_list


class GradientWatch:
    """Looks at the gradient of each update, and keeps what it found on the device until somebody reads it.

    It is GradScaler's kernel that looks, scaling by 1, and writes into flags that were made many at once: to a model
    with small layers the norms that one might compute instead cost twice as much.
    """

    def __init__(self):
        self._flags = {}  # {device: (the flags, each of them as a view, a 1.0)}
        self._num_flagged = 0
        self._found = []  # read already

    def look(self, gradients):
        """Look at an update's gradients, which stay as they are; returns flags, 0-dim, all 0.0 if they are finite."""
        by_device = {}
        for gradient in gradients:
            by_device.setdefault(gradient.device, []).append(_entries(gradient))
        found = []
        for device, entries in by_device.items():
            if device not in self._flags or len(self._flags[device][1]) <= self._num_flagged:
                self._make_flags(device)
            _, views, one = self._flags[device]
            found.append(views[self._num_flagged])
            torch._amp_foreach_non_finite_check_and_unscale_(entries, found[-1], one)
        self._num_flagged += 1
        return found

    def read(self):
        """For each update since the last clear, whether its gradient was not finite. Waits for the device."""
        found = [False] * self._num_flagged
        for flags, _, _ in self._flags.values():
            found = [a or b > 0 for a, b in zip(found, flags[: self._num_flagged].tolist(), strict=True)]
        found = self._found + found
        self.clear()
        self._found = found
        return found

    def clear(self):
        """Forget what was found."""
        if self._num_flagged:
            for flags, _, _ in self._flags.values():
                flags.zero_()
        self._num_flagged = 0
        self._found = []

    def state_dict(self):
        """What was found."""
        return {"found": self.read()}

    def load_state_dict(self, state):
        """Put it back."""
        self.clear()
        self._found = [bool(found) for found in as_list(state["found"])]

    def _make_flags(self, device):
        flags = torch.zeros(max(256, 2 * self._num_flagged), device=device)
        if device in self._flags:
            flags[: self._num_flagged] = self._flags[device][0][: self._num_flagged]
        self._flags[device] = flags, list(flags), torch.ones((), device=device)


def _entries(gradient):
    """A dense tensor of real numbers that holds all of the gradient, or what this process has of it."""
    dense = gradient.coalesce().values() if gradient.is_sparse else local(gradient)
    return torch.view_as_real(dense) if dense.is_complex() else dense
