"""OptimStep: from a batch's loss to an update of the parameters."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from utils.distributed.parallel import average_gradients, exchange_gradients
from utils.distributed.shards import is_sharded, sharded_like, whole
from utils.distributed.world import Part, largest, world_size
from utils.errors import UserError, refuse
from utils.rules import optimizer_error
from utils.untrusted import as_count, as_list, as_number

if TYPE_CHECKING:
    from base.training.nonfinite import NonFiniteWatch


class OptimStep:
    """Turns losses into updates: backward, and at the end of each window of batches one step of the optimizer.

    optimizer: a torch optimizer, or an Optimizers.
    accumulate: batches in a window.
    reduction: "mean" or "sum", how the loss reduces the losses of its batch's samples.
    clip_norm: largest norm of the gradient over all parameters; None does not clip.
    clip_value: largest absolute value of the gradient's entries; None does not clip.
    scaler: a torch.amp.GradScaler for losses computed in float16; it skips updates whose gradients are not finite.
    watch: a NonFiniteWatch that checks each update's gradient; not used with a scaler, where infinite gradients are
        expected.
    skip_nonfinite: skip updates in which the watch finds something; that waits for the device before each update.
    buffers: the model's buffers, which a skipped update restores to their values after the last update.
    model: needed with several processes, which train a copy or a shard each; begin says which part of a batch is whose.

    The gradient of a window is that of all its samples taken as one batch, however they are divided into batches and
    however short the last window of an epoch is. That holds for a loss that is the mean or the sum over the samples of
    its batch, but not for one with class weights or an ignore_index.

    The attribute lr is the learning rate of the last update, None before the first. The attribute norm is the norm of
    its gradient before clipping, a 0-dim tensor; None unless clip_norm or the attribute measures_norm asks for it.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        accumulate: int = 1,
        reduction: str = "mean",
        clip_norm: float | None = None,
        clip_value: float | None = None,
        scaler: torch.amp.GradScaler | None = None,
        watch: "NonFiniteWatch | None" = None,
        skip_nonfinite: bool = False,
        buffers: Iterable[torch.Tensor] = (),
        model: torch.nn.Module | None = None,
    ) -> None:
        optimizers = getattr(optimizer, "by_name", {"": optimizer}).values()
        wrong = [optimizer_error(kind.__name__) for one in optimizers for kind in type(one).__mro__]
        refuse(f"optimizer.type: {error}" for error in wrong if error)
        self.optimizer = optimizer
        self.accumulate = accumulate
        self.reduction = reduction
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.scaler = scaler
        self.watch = watch if scaler is None else None
        self.skip_nonfinite = skip_nonfinite
        self.buffers = list(buffers) if skip_nonfinite else []
        self._good_buffers = [buffer.clone() for buffer in self.buffers]
        self._model = model
        self._sharded = model is not None and is_sharded(model)
        self.own_by_process = not self._sharded  # gradients that are sharded add up over the processes at once
        self.measures_norm = False
        self.norm = self.lr = None
        self.reset()

    def reset(self) -> None:
        """Forget the open window."""
        self.num_batches = 0  # in the open window
        self._num_samples = 0
        self._first_samples = 0  # of the window's first batch, the unit in which the others are weighted
        self._part = None
        self._exchanged = True  # what the window's gradients are so far, between the processes

    def begin(self, part: Part | None, last: bool = False) -> None:
        """Say before a batch's forward pass which Part of it this process has; None if all. last: as for step.

        Gradients then travel between the processes only where a window ends.
        """
        self._part = part
        if part is not None and self.accumulate > 1:
            self._exchanged = self._sharded or last or self.num_batches + 1 >= self.accumulate
            exchange_gradients(self._model, self._exchanged)

    def step(self, loss: torch.Tensor, num_samples: int, last: bool = False) -> bool:
        """Whether this batch completed a window, and with it an update. loss: 0-dim, of num_samples samples.

        last: of its epoch, which completes a short window too. A scaler skips an update whose gradients are not finite;
        that counts as one all the same.
        """
        if self._part is not None:
            loss, num_samples = self._weighted(loss, self._part), self._part.total
        if self.num_batches == 0:
            self.optimizer.zero_grad()
            self._num_samples, self._first_samples = 0, num_samples
        self.num_batches += 1
        self._num_samples += num_samples
        if self.reduction == "mean" and num_samples != self._first_samples:
            loss = loss * (num_samples / self._first_samples)
        try:
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        except RuntimeError as error:
            if loss.requires_grad:
                raise
            why = "it was detached, or made of plain numbers, or all of them are frozen"
            raise UserError(f"loss: does not depend on any parameter that is trained: {why}") from error
        if self.buffers and not loss.isfinite():
            _copy_all(self._good_buffers, self.buffers)  # at once: the run may be saved or validated before the update
        return (last or self.num_batches >= self.accumulate) and self.finish()

    def finish(self) -> bool:
        """Update with the batches since the last update; returns whether there were any."""
        if self.num_batches == 0:
            return False
        if not self._exchanged:  # the window was to have further batches
            average_gradients(self._parameters())
        self._update()
        self.num_batches = 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """What must survive a restart: the open window with its gradients, and the scaler."""
        state = {"window": [self.num_batches, self._num_samples, self._first_samples], "lr": self.lr}
        if self.num_batches:
            state["gradients"] = [parameter.grad for parameter in self._parameters()]
            state["buffers"] = self._good_buffers
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        return state

    def merged(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """The state for another number of processes: each resumes from the mean of all processes' gradients."""
        gradients = zip(*(state["gradients"] for state in states), strict=True) if "gradients" in states[0] else ()
        means = [_mean(of_one) for of_one in gradients]
        return states[0] | ({"gradients": means} if means else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state; a scaler's state is skipped where there is no scaler."""
        if self.scaler is not None and "scaler" in state:
            _require_of_scaler(state["scaler"])
            self.scaler.load_state_dict(state["scaler"])
        lr = state.get("lr")
        self.lr = lr if lr is None or getattr(lr, "ndim", None) == 0 else as_number(lr)
        self.num_batches, self._num_samples, self._first_samples = map(
            as_count, as_list(state.get("window", (0, 0, 0)))
        )
        self._exchanged = self._sharded or world_size() == 1 or self.num_batches == 0
        if self.num_batches:
            for parameter, gradient in zip(self._parameters(), as_list(state["gradients"]), strict=True):
                parameter.grad = None if gradient is None else _gradient_of(parameter, gradient)
            for saved, buffer in zip(as_list(state.get("buffers", ())), self._good_buffers, strict=False):
                buffer.copy_(saved)

    def _weighted(self, loss: torch.Tensor, part: Part) -> torch.Tensor:
        """The loss of this process's samples, such that the mean over all processes is the loss of the batch."""
        own, total = part
        weight = own * world_size() / total if self.reduction == "mean" else world_size() * (own > 0)
        return loss if weight == 1 else loss * weight

    def _update(self):
        lr = self.optimizer.param_groups[0].get("lr")
        self.lr = lr.clone() if isinstance(lr, torch.Tensor) else lr  # a schedule fills a tensor in place
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.reduction == "mean" and self._num_samples != self._first_samples:
            for gradient in self._gradients():
                gradient.div_(self._num_samples / self._first_samples)
        found = self.watch.look(self._gradients()) if self.watch is not None else []
        if self._sharded and self.skip_nonfinite:
            found = [largest(flag) for flag in found]  # which the others have found in their shards
        if self.clip_norm is not None:
            self.norm = whole(torch.nn.utils.clip_grad_norm_(self._parameters(), self.clip_norm))
        elif self.measures_norm:
            self.norm = whole(torch.nn.utils.get_total_norm(self._gradients()))
        if self.clip_value is not None:
            torch.nn.utils.clip_grad_value_(self._parameters(), self.clip_value)
        if self.scaler is not None:
            self.scaler.step(self.optimizer)  # waits for the device unless the optimizer is a fused one
            self.scaler.update()
            return
        if self.skip_nonfinite and any(found):
            _copy_all(self._good_buffers, self.buffers)
        else:
            self._step()
            _copy_all(self.buffers, self._good_buffers)

    def _step(self):
        try:
            self.optimizer.step()
        except ArithmeticError as error:
            raise UserError(f"optimizer: its settings are out of range: {error}") from error

    def _parameters(self):
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _gradients(self):
        return [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]


def _gradient_of(parameter, saved):
    """A saved gradient, dense or sparse, as one of the parameter's. Raises ValueError if it is none."""
    sparse = saved.layout == torch.sparse_coo
    if saved.shape != parameter.shape or saved.is_complex() != parameter.is_complex():
        raise ValueError(f"a gradient is a {saved.dtype} of the shape {tuple(saved.shape)}")
    if sparse:
        return saved.to(parameter.device, parameter.dtype)
    return torch.empty_like(parameter).copy_(sharded_like(parameter, saved))


def _require_of_scaler(state):
    """Raise ValueError unless a GradScaler can go on from the state, whose numbers its kernel takes as they are."""
    for name in ("scale", "growth_factor", "backoff_factor"):
        if not 0 < as_number(state[name]) < float("inf"):
            raise ValueError(f"the scaler's {name!r} is {state[name]}")
    for name in ("growth_interval", "_growth_tracker"):
        if as_count(state[name]) >= 2**31:
            raise ValueError(f"the scaler's {name!r} is {state[name]}")


def _mean(gradients):
    """The mean of a parameter's gradients in the processes, None where it had no part in a step; None if nowhere."""
    there = [gradient for gradient in gradients if gradient is not None]
    return sum(there) / len(gradients) if there else None


def _copy_all(sources, targets):
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
