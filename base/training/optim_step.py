"""OptimStep: from the loss of a batch to an optimizer step."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from base.training.precision import require_scaler_state
from utils.device import exact_float
from utils.distributed.parallel import average_gradients, exchange_gradients, require_same_weights
from utils.distributed.shards import is_sharded, sharded_like, whole
from utils.distributed.world import Part, largest, total_of, world_size
from utils.errors import UserError, refuse
from utils.nested import num_samples
from utils.rules import optimizer_error
from utils.untrusted import as_count, as_list, as_number, as_weight

if TYPE_CHECKING:
    from base.training.counted import Count
    from base.training.nonfinite import NonFiniteWatch


class OptimStep:
    """Runs backward for each batch, and one optimizer step for each window of `accumulate` batches.

    optimizer: a torch optimizer, or an Optimizers.
    accumulate: batches per optimizer step.
    reduction: "mean" or "sum", how the loss reduces over the samples of its batch.
    clip_norm: largest norm of the gradient over all parameters; None does not clip.
    clip_value: largest absolute value of an entry of the gradient; None does not clip.
    scaler: torch.amp.GradScaler for float16; it skips steps whose gradient is not finite.
    watch: NonFiniteWatch that checks the gradient of each step; not used with a scaler, where infinite gradients are
        expected.
    skip_nonfinite: skip steps whose gradient is not finite; that waits for the device before each step.
    buffers: the model's buffers; a skipped step undoes what its batches changed in them.
    model: needed with several processes, each of which trains a copy or a shard.
    count: a function of a target that returns what the loss of its batch is divided by; None for its samples.

    The gradient of a window equals the gradient of all its samples taken as one batch, for batches of unequal sizes and
    for a short last window too. That requires a loss that is the mean or the sum over the samples of its batch, or over
    what count tells, as with class weights and ignore_index.

    The attribute lr is the learning rate of the last step, None before the first. The attribute norm is the norm of its
    gradient before clipping, a 0-dim tensor; None unless clip_norm is given or the attribute measures_norm is set.
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
        count: "Count | None" = None,
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
        self._count = count if reduction == "mean" else None
        self._sharded = model is not None and is_sharded(model)
        self.own_by_process = not self._sharded  # sharded gradients are summed over the processes at once
        self.measures_norm, self.norm, self.lr = False, None, None
        self._has_begun = False  # whether begin has been called for the next batch
        self._are_over = True  # whether the gradients that there are belong to an earlier window
        self._kept = None  # a parameter that has a gradient from earlier batches of the open window
        self._is_own = self._has_stepped = False  # whether a trainer's own step is at work, and has ended its window
        self.reset()

    def reset(self) -> None:
        """Forget the open window, at the start of an epoch."""
        self.num_batches = 0  # in the open window
        self._num_begun = 0  # windows of this epoch
        self._num_samples: Any = 0  # or what the loss counts instead of them
        self._first_samples: Any = 0  # of the window's first batch, the unit in which the others are weighted
        self._part = None
        self._exchanged = True  # whether the processes have averaged the window's gradients so far

    def begin(self, part: Part | None, last: bool = False) -> None:
        """Prepare for a batch's forward pass: free the gradients of the window before, whose memory it can use.

        What a backward pass adds to them from now on counts, too. Processes exchange gradients only at the end of a
        window. Once an epoch they compare their weights; raises UserError if those differ.

        part: this process's Part of the batch; None for all of it.
        last: whether it is the last batch of its epoch.
        """
        if self._has_begun and not self._is_own:
            self._watch_own_step()
        if self.num_batches == 0:
            self._num_begun += 1
            if self._num_begun == 2 and part is not None:
                require_same_weights(self._model)
        else:
            self._kept = next((p for p in self._parameters() if p.grad is not None), None)
        self._part, self._has_begun, self._has_stepped = part, True, False
        if self._are_over:  # others are those that a step of a trainer's own accumulates
            self.optimizer.zero_grad()
            self._are_over = False
        if part is not None and self.accumulate > 1:
            self._exchanged = self._sharded or last or self.num_batches + 1 >= self.accumulate
            exchange_gradients(self._model, self._exchanged)

    def size_of(self, target: Any) -> "int | torch.Tensor":
        """What `step` needs to know about a batch with this target: its number of samples, or what its loss counts."""
        if self._count is None or (self.accumulate == 1 and self._part is None):
            return num_samples(target)
        return self._count(target)

    def step(self, loss: torch.Tensor, num_samples: "int | torch.Tensor", last: bool = False) -> bool:
        """Run backward, and the optimizer step if the window is complete; returns whether it was.

        loss: 0-dim, over num_samples samples, or over what a 0-dim tensor says that it counts.
        last: whether it is the last batch of its epoch, which completes a short window too.

        A step that a scaler skips counts as a step. Raises UserError if the loss has no gradient, if the gradients of
        earlier batches were cleared, and if there are gradients already that a scaler would have had to scale.
        """
        if self._count is not None:
            num_samples = _exact(num_samples)
        if self._part is not None:
            loss, num_samples = self._weighted(loss, num_samples, self._part)
        if self.num_batches == 0:
            if not self._has_begun:
                self.optimizer.zero_grad()
            self._refuse_unscaled()
            self._num_samples, self._first_samples = 0, num_samples
            if self._count is not None:
                self._first_samples = _or_one(num_samples)
        elif self._kept is not None and self._kept.grad is None:
            remedy = "leave it out, and take a gradient that is not to count by torch.autograd.grad"
            raise UserError(f"trainer.accumulate: zero_grad() has cleared the gradients of earlier batches; {remedy}")
        self._has_begun = self._are_over = False
        self.num_batches += 1
        self._num_samples = self._num_samples + num_samples
        if self._count is not None and self.accumulate > 1:  # nothing of it is read: that would wait for the device
            loss = loss * _scalar(num_samples / self._first_samples, loss)
        elif self.reduction == "mean" and num_samples != self._first_samples:
            loss = loss * (num_samples / self._first_samples)
        if not loss.requires_grad:
            why = "it was detached or made of plain numbers, or all parameters are frozen"
            raise UserError(f"loss: does not depend on any parameter that is trained: {why}")
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        if self.buffers and not loss.isfinite():
            _copy_all(self._good_buffers, self.buffers)  # at once: the run may be saved or validated before the update
        return (last or self.num_batches >= self.accumulate) and self.finish()

    def finish(self) -> bool:
        """Step with the batches since the last step; returns whether there were any."""
        if self.num_batches == 0:
            return False
        if not self._exchanged:  # the window was to have further batches
            average_gradients(self._parameters())
        self._update()
        self.num_batches, self._are_over = 0, True
        return True

    def state_dict(self) -> dict[str, Any]:
        """The state to resume from: the open window with its gradients, and the scaler."""
        sizes = [_plain(size) for size in (self._num_samples, self._first_samples)]
        state = {"window": [self.num_batches, *sizes], "lr": self.lr}
        if self.num_batches or (self._has_begun and not self._has_stepped):
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
            require_scaler_state(state["scaler"])
            self.scaler.load_state_dict(state["scaler"])
        lr = state.get("lr")
        self.lr = lr if lr is None or getattr(lr, "ndim", None) == 0 else as_number(lr)
        batches, *sizes = as_list(state.get("window", (0, 0, 0)))
        self.num_batches, self._are_over = as_count(batches), "gradients" not in state
        self._num_samples, self._first_samples = map(as_weight, sizes)
        self._exchanged = self._sharded or world_size() == 1 or self.num_batches == 0
        self._has_begun = self.num_batches == 0 and not self._are_over  # a window of an own step
        if self.num_batches or self._has_begun:
            for parameter, gradient in zip(self._parameters(), as_list(state["gradients"]), strict=True):
                parameter.grad = None if gradient is None else _gradient_of(parameter, gradient)
            for saved, buffer in zip(as_list(state.get("buffers", ())), self._good_buffers, strict=False):
                buffer.copy_(saved)

    def _weighted(self, loss: torch.Tensor, num_samples: Any, part: Part) -> tuple[torch.Tensor, Any]:
        """(loss of this process's samples, size of the batch). The mean of all processes' losses is the batch's."""
        own, total = part
        if isinstance(num_samples, torch.Tensor):
            counted = num_samples * bool(own)
            of_all = total_of(counted)
            loss = loss * _scalar(counted * world_size() / _or_one(of_all), loss)
            return loss, of_all if self.accumulate > 1 else total
        weight = own * world_size() / total if self.reduction == "mean" else world_size() * bool(own)
        return loss if weight == 1 else loss * weight, total

    def _update(self):
        lr = self.optimizer.param_groups[0].get("lr")
        self.lr = lr.clone() if isinstance(lr, torch.Tensor) else lr  # a schedule fills a tensor in place
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self._count is not None:
            self._divide_by_counted()
        elif self.reduction == "mean" and self._num_samples != self._first_samples:
            for gradient in self._gradients():
                gradient.div_(self._num_samples / self._first_samples)
        nonfinite = self.watch.look(self._gradients()) if self.watch is not None else []
        if self._sharded and self.skip_nonfinite:
            nonfinite = [largest(flag) for flag in nonfinite]  # the other processes see other shards
        if self.clip_norm is not None:
            self.norm = whole(_clip_norm(self._parameters(), self.clip_norm))
        elif self.measures_norm:
            self.norm = whole(torch.nn.utils.get_total_norm(self._gradients()))
        if self.clip_value is not None:
            _clip_values(self._parameters(), self.clip_value)
        if self.scaler is not None:
            self.scaler.step(self.optimizer)  # waits for the device unless the optimizer is fused
            self.scaler.update()
        elif self.skip_nonfinite and any(nonfinite):
            _copy_all(self._good_buffers, self.buffers)
        else:
            try:
                self.optimizer.step()
            except ArithmeticError as error:
                raise UserError(f"optimizer: its settings are out of range: {error}") from error
            except RuntimeError as error:
                if "sparse gradients" not in str(error) and "dense gradients" not in str(error):
                    raise
                remedy = "docs/optimizers.md shows how sparse and dense parameters get an optimizer each"
                raise UserError(f"optimizer: {error}; {remedy}") from error
            if self.buffers:
                _copy_all(self.buffers, self._good_buffers)

    def _divide_by_counted(self):
        """Divide the gradient of a window by what its loss counts, in units of what it counts in the first batch."""
        if self.num_batches > 1:
            size = _or_one(self._num_samples) / self._first_samples
            for gradient in self._gradients():
                is_number = not isinstance(size, torch.Tensor)  # which as a tensor would be sent for each gradient
                gradient.div_(size if is_number else size.to(gradient.device, exact_float(gradient.device)))

    def _refuse_unscaled(self):
        if self.scaler is not None and self._gradients():
            what = "compute_loss has called backward() itself, whose gradients 'fp16' would have to scale"
            raise UserError(f"trainer.precision: {what}; return the sum of the losses, or use 'bf16' or 'fp32'")

    def _watch_own_step(self):
        """Note from now on when a trainer's own step is complete, and warn of settings that it does not follow."""
        self._is_own = True
        for optimizer in getattr(self.optimizer, "by_name", {"": self.optimizer}).values():
            if hasattr(optimizer, "register_step_post_hook"):  # it may be a wrapper of one
                optimizer.register_step_post_hook(self._note_own_step)
        given = {"accumulate": self.accumulate > 1, "clip_norm": self.clip_norm, "clip_value": self.clip_value}
        given |= {"precision": self.scaler, "on_nonfinite": self.skip_nonfinite}
        if names := ", ".join(f"trainer.{name}" for name, value in given.items() if value):
            what = "%s: not followed, since _train_batch steps without self.optim_step: docs/trainers.md, Another step"
            logging.getLogger("trainer").warning(what, names)

    def _note_own_step(self, *_):
        self._has_stepped = True

    def _parameters(self):
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _gradients(self):
        groups = self.optimizer.param_groups
        return [grad for group in groups for p in group["params"] if (grad := p.grad) is not None]


def _clip_norm(parameters, limit):
    """Clip the gradients' norm, and return what it was."""
    try:
        return torch.nn.utils.clip_grad_norm_(parameters, limit)
    except NotImplementedError:
        what = f"torch {torch.__version__} has no norm of sparse gradients"
        raise UserError(f'trainer.clip_norm: {what}; set "sparse" of the embedding to false') from None


def _clip_values(parameters, limit):
    """Clip the entries of the gradients, dense or sparse."""
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    sparse = [parameter for parameter in parameters if parameter.grad.is_sparse]
    for parameter in sparse:
        parameter.grad = parameter.grad.coalesce()  # of a row that comes several times, the sum is clipped
        parameter.grad.values().clamp_(-limit, limit)
    if len(sparse) < len(parameters):
        torch.nn.utils.clip_grad_value_([p for p in parameters if not p.grad.is_sparse], limit)


def _exact(size):
    """A number, or a 0-dim tensor in double precision."""
    return size.to(exact_float(size.device)) if isinstance(size, torch.Tensor) else size


def _or_one(size):
    """The size, or 1 for that of a batch in which nothing counts; its gradient is 0."""
    return torch.where(size > 0, size, 1) if isinstance(size, torch.Tensor) else size or 1


def _scalar(factor, loss):
    """A number or 0-dim tensor by which the loss is multiplied without a change of its dtype."""
    return factor.to(loss.dtype) if isinstance(factor, torch.Tensor) else factor


def _plain(size):
    return as_weight(size.item()) if isinstance(size, torch.Tensor) else size  # as load_state_dict has it


def _gradient_of(parameter, saved):
    """A saved gradient, dense or sparse, on the parameter's device. Raises ValueError if it does not fit."""
    sparse = saved.layout == torch.sparse_coo
    if saved.shape != parameter.shape or saved.is_complex() != parameter.is_complex():
        raise ValueError(f"a gradient is {saved.dtype} of shape {tuple(saved.shape)}")
    if sparse:
        return saved.to(parameter.device, parameter.dtype)
    return torch.empty_like(parameter).copy_(sharded_like(parameter, saved))


def _mean(gradients):
    """The mean over the processes of a parameter's gradients, some or all of which may be None."""
    there = [gradient for gradient in gradients if gradient is not None]
    return sum(there) / len(gradients) if there else None


def _copy_all(sources, targets):
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
