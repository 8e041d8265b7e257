"""OptimStep: from a batch's loss to an update of the parameters."""

import torch

from utils.errors import UserError


class OptimStep:
    """Turns losses into updates: backward, and at the end of each window of batches one step of the optimizer.

    accumulate: batches in a window. The gradient of a window is that of all its samples taken as one batch, however
    they are split and however short an epoch's last window is, for a loss that is the mean over its batch's samples or,
    with the reduction "sum", their sum. (One with class weights or an ignore_index is neither.)

    clip_norm, clip_value: what the gradient is clipped to, as torch.nn.utils.clip_grad_norm_ and clip_grad_value_ do.
    scaler: a torch.amp.GradScaler for losses computed in float16.
    """

    def __init__(self, optimizer, accumulate=1, reduction="mean", clip_norm=None, clip_value=None, scaler=None):
        if isinstance(optimizer, torch.optim.LBFGS):
            raise UserError("optimizer.type: LBFGS wants to compute the loss itself, several times a step; use another")
        self.optimizer = optimizer
        self.accumulate = accumulate
        self.reduction = reduction
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.scaler = scaler
        self.num_batches = 0  # in the open window
        self._num_samples = 0
        self._first_samples = 0  # of the window's first batch, the unit in which the others are weighted

    def step(self, loss, num_samples):
        """Whether this batch completed a window, and with it an update. loss: 0-dim, of num_samples samples.

        A scaler skips an update whose gradients are not finite; that counts as one all the same.
        """
        if self.num_batches == 0:
            self.optimizer.zero_grad()
            self._num_samples, self._first_samples = 0, num_samples
        self.num_batches += 1
        self._num_samples += num_samples
        if self.reduction == "mean" and num_samples != self._first_samples:
            loss = loss * (num_samples / self._first_samples)
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        return self.num_batches >= self.accumulate and self.finish()

    def finish(self):
        """Update with the batches since the last update, if there are any; whether there were."""
        if self.num_batches == 0:
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
            for gradient in self._gradients():
                gradient.div_(self._num_samples / self._first_samples)
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
