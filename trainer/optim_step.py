"""OptimStep: from a batch's loss to an update of the parameters."""

import torch


class OptimStep:
    """Turns losses into updates: backward, and at the end of each window of batches one step of the optimizer.

    accumulate: batches in a window. The gradient of a window is that of all its samples taken as one batch, however
    they are split and however short an epoch's last window is. reduction: "mean" if a loss is the mean over its
    batch's samples, "sum" if it is their sum; the window's gradient is reduced likewise. clip_norm, clip_value: what
    the gradient is clipped to, as torch.nn.utils.clip_grad_norm_ and clip_grad_value_ do. scaler: a
    torch.amp.GradScaler for losses computed in float16.
    """

    def __init__(self, optimizer, accumulate=1, reduction="mean", clip_norm=None, clip_value=None, scaler=None):
        self.optimizer = optimizer
        self.accumulate = accumulate
        self.reduction = reduction
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.scaler = scaler
        self.num_batches = 0  # in the open window
        self._num_samples = 0
        self._first_samples = 0  # of the window's first batch, the unit in which the others are weighted

    def step(self, loss, num_samples, last=False):
        """Whether the parameters were updated. loss: 0-dim, of num_samples samples. last: close a short window."""
        if self.num_batches == 0:
            self.optimizer.zero_grad()
            self._num_samples, self._first_samples = 0, num_samples
        self.num_batches += 1
        self._num_samples += num_samples
        if self.reduction == "mean" and num_samples != self._first_samples:
            loss = loss * (num_samples / self._first_samples)
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        if self.num_batches < self.accumulate and not last:
            return False
        self._update()
        self.num_batches = 0
        return True

    def state_dict(self):
        """What must survive a restart."""
        return {} if self.scaler is None else {"scaler": self.scaler.state_dict()}

    def load_state_dict(self, state):
        """Put it back; the state of another precision is left alone."""
        if self.scaler is not None and "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])

    def _update(self):
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.reduction == "mean" and self._num_samples != self._first_samples:
            torch._foreach_div_(self._gradients(), self._num_samples / self._first_samples)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters(), self.clip_norm)
        if self.clip_value is not None:
            torch.nn.utils.clip_grad_value_(self._parameters(), self.clip_value)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)  # waits for the device unless the optimizer is a fused one
            self.scaler.update()

    def _parameters(self):
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _gradients(self):
        return [parameter.grad for parameter in self._parameters() if parameter.grad is not None]
