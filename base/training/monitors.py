"""Callbacks that show in TensorBoard how training goes, without changing it."""

import copy
import sys
import time
from typing import TYPE_CHECKING, Any

import torch

from base import BaseCallback
from base.training.checkpoints import measured_model
from base.training.precision import to_device
from utils import UserError
from utils.distributed.world import shows
from utils.nested import halves, samples_of
from utils.seed import rng_state, set_rng_state

if TYPE_CHECKING:
    from trainer.trainer import Trainer


class LearningRateMonitor(BaseCallback):
    """Shows the learning rate of each group of parameters, as "lr_0", at the points where the loss is shown."""

    def on_step_end(self, trainer: "Trainer") -> None:
        if not is_log_point(trainer):
            return
        trainer.writer.set_step(trainer.step, timed=False)
        optimizers = getattr(trainer.optimizer, "by_name", {"": trainer.optimizer})
        for name, optimizer in optimizers.items():
            for i, group in enumerate(optimizer.param_groups):
                trainer.writer.add_scalar("_".join(filter(None, ["lr", name, str(i)])), float(group["lr"]))


class ThroughputMonitor(BaseCallback):
    """Shows samples a second, validation left out, and the largest amount of memory in use, in MB.

    On CUDA it is the GPU's memory, elsewhere the process's. Steps a second are shown without it.
    """

    def __init__(self) -> None:
        self._since = None  # (time, step) of the last point

    def on_valid_end(self, trainer: "Trainer", log: dict[str, Any]) -> None:
        self._since = None

    def on_epoch_end(self, trainer: "Trainer", log: dict[str, Any]) -> None:
        self._since = None

    def on_step_end(self, trainer: "Trainer") -> None:
        if self._since is None:
            self._since = time.perf_counter(), trainer.step
        if not is_log_point(trainer):
            return
        now, steps = time.perf_counter(), trainer.step - self._since[1]
        trainer.writer.set_step(trainer.step, timed=False)
        if steps and getattr(trainer.data_loader, "batch_size", None):
            rate = steps / (now - self._since[0])
            trainer.writer.add_scalar("samples_per_s", rate * trainer.data_loader.batch_size)
        trainer.writer.add_scalar("memory_mb", _most_memory(trainer.device) / 1e6)
        self._since = now, trainer.step


class GradientNorm(BaseCallback):
    """Shows the mean norm of the gradients of all parameters as "grad_norm", which trainer.clip_norm shows anyway."""

    def check(self, trainer: "Trainer") -> None:
        if not hasattr(trainer, "len_epoch"):
            raise UserError("GradientNorm needs the loop of trainer/trainer.py")

    def on_train_start(self, trainer: "Trainer") -> None:
        trainer.optim_step.measures_norm = True


class SamplePredictions(BaseCallback):
    """Shows what the model makes of the first validation samples, after each epoch.

    n: how many, of the first batch. every_epochs: how often. classes: their names, by default their numbers. An output
    (N, C) is shown as a table of targets and predictions, beside the images if the input is (N, 1 or 3, H, W); an
    output of the input's shape as images below the input.
    """

    def __init__(self, n: int = 16, every_epochs: int = 1, classes: list | None = None) -> None:
        for name, value in (("n", n), ("every_epochs", every_epochs)):
            if not isinstance(value, int) or value < 1:
                raise UserError(f"{name}: got {value!r}; it should be a number from 1 on")
        self.n, self.every_epochs, self.classes = n, every_epochs, classes
        self._batch = None

    def check(self, trainer: "Trainer") -> None:
        if getattr(trainer, "valid_data_loader", None) is None:
            raise UserError("SamplePredictions needs validation data, and there are none")

    def on_epoch_end(self, trainer: "Trainer", log: dict[str, Any]) -> None:
        if log["epoch"] % self.every_epochs or not shows(trainer.writer, trainer.model):
            return
        before = rng_state()
        if self._batch is None:
            self._batch = copy.deepcopy(halves(next(iter(trainer.valid_data_loader))))
        data, target = self._batch
        model = measured_model(trainer).eval()
        with torch.no_grad():
            output = model(to_device(data, trainer.device))
        set_rng_state(before)
        if not isinstance(output, torch.Tensor) or not isinstance(target, torch.Tensor):
            raise UserError("SamplePredictions: shows a tensor of outputs beside one of targets, which these are not")
        if not trainer.writer.enabled:  # it has only taken part
            return
        trainer.writer.set_step(trainer.step, "valid", timed=False)
        self._show(trainer.writer, *samples_of((data, target, output.float().cpu()), slice(self.n)))

    def _show(self, writer, data, target, output):
        images = getattr(data, "ndim", 0) == 4 and data.shape[1] in (1, 3)
        if images and output.shape == data.shape:
            writer.add_images("predictions", _stretched(torch.cat([data.float(), output])))
            return
        if images:
            writer.add_images("samples", _stretched(data.float()))
        if output.dim() != 2 or output.shape[1] < 2 or target.dim() != 1:
            rows = [(str(t.tolist()), str(o.tolist()), "") for t, o in zip(target, output, strict=True)]
        else:
            shares, predicted = output.softmax(dim=1).max(dim=1)
            rows = [
                (self._name(t), self._name(p), f"{share:.3f}")
                for t, p, share in zip(target.tolist(), predicted.tolist(), shares.tolist(), strict=True)
            ]
        lines = [f"| {i} | {t} | {p} | {share} |" for i, (t, p, share) in enumerate(rows)]
        head = ["| sample | target | prediction | probability |", "|---|---|---|---|"]
        writer.add_text("predictions", "\n".join(head + lines))

    def _name(self, number):
        return str(self.classes[number] if self.classes and 0 <= number < len(self.classes) else number)


def is_log_point(trainer: "Trainer") -> bool:
    """Whether the loss is reported after this batch, so that to wait for the device costs nothing more."""
    return trainer.batches_done % trainer.log_step == 0 or trainer.batches_done == trainer.len_epoch


def _most_memory(device):
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # which Windows does not have

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _stretched(images):
    low, high = images.min(), images.max()
    return (images - low) / (high - low).clamp(min=1e-12)
