"""--find-lr and --find-batch-size: a learning-rate range test, and the largest batch that fits into the GPU."""

import contextlib
import copy
import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from base.training.optim_step import OptimStep
from base.training.precision import compile_as_set, grad_scaler, to_device
from logger.pictures import save_figure
from utils import UserError, inf_loop
from utils.nested import common_rows, describe, halves, num_samples, samples_of
from utils.runs.weights import load_optimizer
from utils.seed import rng_state, set_rng_state

if TYPE_CHECKING:
    from trainer.trainer import Trainer


def tune(trainer: "Trainer", picture: Path | None = None, batch_size: bool = False) -> None:
    """Print a learning rate and draw its curve, if `picture` is a path, and the largest batch size, if asked for."""
    if trainer.overrides("_train_batch"):
        own = trainer.settings.type
        raise UserError(f"--find-lr, --find-batch-size: work with compute_loss, and {own} overrides _train_batch")
    compile_as_set(trainer.model, trainer.settings)
    if picture is not None:
        curve = find_lr(trainer)
        lr = suggest_lr(curve)
        draw_lr_curve(curve, lr, picture)
        print(f"learning rate {lr:.2g}: the loss falls most steeply there; see {picture}")
        several = hasattr(trainer.optimizer, "by_name")
        alone = f"train with it: --lr {lr:.2g}"
        print("it is that of the first optimizer; the others keep their ratio to it" if several else alone)
    if batch_size:
        print(f"largest batch that fits: {find_batch_size(trainer)}; train with --bs of at most that")


def find_lr(trainer: "Trainer", low: float = 1e-7, high: float = 10.0, steps: int = 100) -> list[tuple[float, float]]:
    """[(learning rate, smoothed loss)] of a range test: training with a rate that rises from low to high in each step.

    It ends early where the loss is four times the smallest one. Further parameter groups keep their ratio to the first.
    Model, optimizer and random generators are restored.
    Source: Smith, Cyclical Learning Rates for Training Neural Networks, 2017.
    """
    with _no_trace(trainer):
        update = _training_step(trainer)
        groups = trainer.optimizer.param_groups
        first = groups[0]["lr"]
        ratios = [group["lr"] / first if first else 1.0 for group in groups]
        curve, average = [], 0.0
        for step, batch in enumerate(itertools.islice(inf_loop(trainer.data_loader), steps)):
            lr = low * (high / low) ** (step / (steps - 1))
            for group, ratio in zip(groups, ratios, strict=True):
                group["lr"] = lr * ratio
            average = _SMOOTHING * average + (1 - _SMOOTHING) * update(*halves(batch)).item()
            smoothed = average / (1 - _SMOOTHING ** (step + 1))
            if not math.isfinite(smoothed) or (curve and smoothed > 4 * min(loss for _, loss in curve)):
                break
            curve.append((lr, smoothed))
    if len(curve) < _FEWEST:
        raise UserError(f"--find-lr: the loss is not finite or explodes within {len(curve) + 1} steps")
    return curve


def suggest_lr(curve: Sequence[tuple[float, float]]) -> float:
    """The rate at which the loss falls most steeply over the logarithm of the rate, before its minimum.

    The first tenth of the steps is left out: there the smoothed loss averages few batches and is noisy.
    """
    first = max(1, len(curve) // 10)
    lowest = min(range(first, len(curve)), key=lambda i: curve[i][1])
    return curve[min(range(first, max(first + 1, lowest)), key=lambda i: curve[i + 1][1] - curve[i - 1][1])][0]


def draw_lr_curve(curve: Sequence[tuple[float, float]], suggestion: float, path: Path) -> None:
    """Draw the loss over the learning rate into a picture file. Raises UserError if it cannot be written."""
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(6, 4), layout="constrained")).subplots()
    axes.plot(*zip(*curve, strict=True))
    axes.axvline(suggestion, color="tab:red", linestyle="--", label=f"{suggestion:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss, smoothed")
    axes.legend()
    save_figure(figure, path)


def find_batch_size(trainer: "Trainer") -> int:
    """The largest batch size, up to all samples of the loader, with which a step fits into the memory of this GPU.

    It is tried with copies of the first batch's samples. Model, optimizer and random generators are restored.
    """
    device = trainer.device
    if device.type == "cpu":
        raise UserError(f"--find-batch-size: needs a GPU, and this run is on the {device}")
    data, target = halves(next(iter(trainer.data_loader)))
    if not common_rows(data) == common_rows(target) == num_samples(target):
        what = f"--find-batch-size: tries copies of a batch's rows, and the data are {describe(data)}"
        raise UserError(f"{what}, of which not all have a row for each sample; try sizes with --fast-dev-run --bs N")

    def fits(number):
        chosen = torch.arange(number) % num_samples(target)
        try:
            _training_step(trainer)(*samples_of((data, target), chosen))
            torch.accelerator.synchronize(device)
        except RuntimeError as error:  # torch.OutOfMemoryError is one; MPS and libraries of CUDA raise plain ones
            if not re.search("out of memory|ALLOC_FAILED", str(error)):
                raise
            return False
        finally:
            trainer.optimizer.zero_grad()
            torch.get_device_module(device).empty_cache()
        return True

    with _no_trace(trainer):
        return largest_that_fits(fits, limit=len(trainer.data_loader.sampler))


def largest_that_fits(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number up to the limit for which fits(number) holds, to within a sixteenth; 0 if 1 does not fit."""
    number = 1
    if not fits(1):
        return 0
    while number < limit and fits(min(2 * number, limit)):
        number = min(2 * number, limit)
    step = number // 2
    while number < limit and step >= max(1, number // 16):
        number += step if number + step < limit and fits(number + step) else 0
        step //= 2
    return number


_SMOOTHING = 0.9
_FEWEST = 5  # points of a curve


def _training_step(trainer):
    """A function (data, target) -> loss that trains on a batch as the trainer does, with a step for every batch."""
    settings, device = trainer.settings, trainer.device
    optim_step = OptimStep(
        trainer.optimizer,
        reduction=trainer.reduction,
        clip_norm=settings.clip_norm,
        clip_value=settings.clip_value,
        scaler=grad_scaler(settings.precision, device, trainer.optimizer),
    )

    def update(data, target):
        trainer.model.train()
        optim_step.begin(None)
        loss, _, _ = trainer.losses(to_device(data, device), to_device(target, device))
        samples = num_samples(target)
        optim_step.step(loss, samples)
        return loss.detach() / (samples if optim_step.reduction == "sum" else 1)

    return update


@contextlib.contextmanager
def _no_trace(trainer):
    """Restore, at the end, everything that training changes."""
    model, optimizer = trainer.model, trainer.optimizer
    of_loss = copy.deepcopy(trainer.criterion.state_dict()) if isinstance(trainer.criterion, torch.nn.Module) else {}
    weights, settings = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    was_training, random = model.training, rng_state()
    generator = getattr(trainer.data_loader, "generator", None)
    drawn = None if generator is None else generator.get_state()
    try:
        yield
    finally:
        model.load_state_dict(weights)
        if of_loss:
            trainer.criterion.load_state_dict(of_loss)
        model.train(was_training)
        optimizer.zero_grad()
        load_optimizer(optimizer, settings, settings_as_built=False)
        set_rng_state(random)
        if generator is not None:
            generator.set_state(drawn)
