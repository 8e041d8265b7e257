"""Builds the learning-rate schedule of a config: warm-up, chained schedulers, several; and compares it with the run."""

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from base.training.batch_stream import epoch_length
from utils import UserError
from utils.config.files import names_several
from utils.config.forms import read_section
from utils.config.schema import Scheduler
from utils.duration import RunLength, is_duration, is_part
from utils.runs.weights import load_state

if TYPE_CHECKING:
    from base.training.optimizers import Optimizers
    from parse_config import ConfigParser
    from trainer.trainer import Trainer


class Schedules:
    """Several schedulers that step as one. by_name: {name of the optimizer: scheduler}."""

    def __init__(self, by_name: Mapping[str, LRScheduler]) -> None:
        self.by_name = by_name

    def step(self) -> None:
        """Step all schedulers."""
        with warnings.catch_warnings():  # torch warns of an optimizer that has not stepped yet
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            for scheduler in self.by_name.values():
                scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of each by its name."""
        return {name: scheduler.state_dict() for name, scheduler in self.by_name.items()}

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Restore the states that state_dict returned."""
        for name, scheduler in self.by_name.items():
            load_state(f"lr_scheduler.{name}", scheduler, states[name])


def build_schedule(
    config: "ConfigParser",
    optimizer: "torch.optim.Optimizer | Optimizers",
    data_loader: Any,
    name: str = "lr_scheduler",
) -> LRScheduler | Schedules | None:
    """The scheduler that the section describes; a Schedules if it names several; None without a section.

    data_loader: its length converts durations into the scheduler's steps.
    """
    section = config.get(name)
    if not section:
        return None
    trainer = config["trainer"]
    len_epoch = epoch_length(trainer, data_loader)
    batch_size = getattr(data_loader, "batch_size", None)
    length = RunLength(trainer["epochs"], len_epoch, batch_size, trainer.get("accumulate", 1))
    by_name = getattr(optimizer, "by_name", {})
    if not names_several(section):
        if by_name:
            raise UserError(
                f"{name}: there are several optimizers; give a schedule under one of the names {', '.join(by_name)}"
            )
        return _build(config, name, section, optimizer, length, interval_of(section))
    for key in section:
        if key not in by_name:
            there = f"there are {', '.join(by_name)}" if by_name else "the config names one optimizer only"
            raise UserError(f"{name}.{key}: no optimizer has this name; {there}")
    built = {
        key: _build(config, f"{name}.{key}", spec, by_name[key], length, interval_of(section))
        for key, spec in section.items()
    }
    for key, scheduler in built.items():
        if isinstance(scheduler, ReduceLROnPlateau):
            raise UserError(f"{name}.{key}.type: ReduceLROnPlateau works with a single optimizer only")
    return Schedules(built)


def interval_of(section: dict[str, Any]) -> str:
    """ "epoch" or "step": what the schedulers of a section step after. Raises UserError if they disagree."""
    specs = section.values() if names_several(section) else [section]
    intervals = {spec.get("interval", "epoch") for spec in specs}
    if len(intervals) > 1:
        raise UserError("lr_scheduler: give all schedules the same interval")
    return intervals.pop()


def step_after_epoch(scheduler: Any, monitor: str, log: dict[str, Any]) -> None:
    """Step a scheduler; a ReduceLROnPlateau with the value that it watches. log: {name: number} of the epoch."""
    if not isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step()
    elif monitor in log:
        scheduler.step(log[monitor])
    else:
        raise UserError(f"lr_scheduler.monitor: nothing called {monitor!r} is logged; there are {', '.join(log)}")


def _build(config, path, spec, optimizer, length, interval):
    """One scheduler, after its warm-up."""
    read_section(Scheduler, spec, path)
    args = _resolved(config, f"{path}.args", spec.get("args", {}), optimizer, length, interval)
    for key in _COUNTS & args.keys():
        if isinstance(args[key], int) and args[key] < 1:
            raise UserError(f"{path}.args.{key}: got {args[key]}; it should be a duration, or a number from 1 on")
    if not spec.get("warmup"):
        return config.build(path, {**spec, "args": args}, optimizer=optimizer)
    steps = _steps(f"{path}.warmup", spec["warmup"], length, interval)
    if steps >= _steps(path, "100%", length, interval) and not is_part(spec["warmup"]):
        raise UserError(f"{path}.warmup: got {spec['warmup']!r}, which is the whole run or longer; give less")
    warmup = LinearLR(optimizer, start_factor=1 / steps, total_iters=max(1, steps - 1))
    main = config.build(path, {**spec, "args": args}, optimizer=optimizer)
    return SequentialLR(optimizer, [warmup, main], milestones=[steps])


_COUNTS = {"T_max", "T_0", "step_size", "total_steps"}


def _resolved(config, path, value, optimizer, length, interval):
    """The value with durations converted to steps of the scheduler and nested schedulers built."""
    if isinstance(value, dict) and "type" in value:
        return _build(config, path, value, optimizer, length, interval)
    if isinstance(value, dict):
        return {
            key: _resolved(config, f"{path}.{key}", item, optimizer, length, interval) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_resolved(config, f"{path}.{i}", item, optimizer, length, interval) for i, item in enumerate(value)]
    return _steps(path, value, length, interval) if is_duration(value) else value


def _steps(path, duration, length, interval):
    """A duration in steps of the scheduler; a plain number counts them already."""
    if isinstance(duration, int):
        return duration
    try:
        return max(1, length.in_updates(duration) if interval == "step" else length.in_epochs(duration))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


# ---- whether a schedule fits the run


def require_steps(trainer: "Trainer") -> None:
    """Raise UserError if the schedule ends before the run, and would raise an error then."""
    total = getattr(trainer.lr_scheduler, "total_steps", None)
    steps, unit = _steps_of_run(trainer)
    if total is not None and steps > total:
        raise UserError(f"lr_scheduler.args.total_steps: got {total}, but the run has {steps} {unit}; give {steps}")


def unfit_lengths(trainer: "Trainer") -> Iterator[str]:
    """Yield a line for each schedule that ends long before or after the run."""
    steps, _ = _steps_of_run(trainer)
    for name, scheduler in getattr(trainer.lr_scheduler, "by_name", {"": trainer.lr_scheduler}).items():
        if unfit := _unfit_length(scheduler, steps - 1):  # no batch uses the rate that the last step sets
            yield f"{f'lr_scheduler.{name}'.rstrip('.')}: {unfit}"


def _steps_of_run(trainer):
    """(number of steps of the run's schedule, their unit)."""
    if trainer.schedule_interval == "step":
        return trainer.epochs * math.ceil(trainer.len_epoch / trainer.settings.accumulate), "optimizer steps"
    return trainer.epochs, "epochs"


def _unfit_length(scheduler: Any, steps: int, rounded: int = 1) -> str | None:
    """A warning if the schedule ends long before or after its last of so many steps; None if it fits.

    A schedule whose rate stays as it is after its end, such as a warm-up, may end before the run.

    rounded: how many lengths may have been rounded up to the next step.
    """
    if isinstance(scheduler, SequentialLR):
        # torch has no public way to ask for the parts
        milestone = scheduler._milestones[-1]
        if steps < milestone - rounded:
            return f"its last part begins after {milestone} steps, and it takes {steps}: the run ends before that"
        return _unfit_length(scheduler._schedulers[-1], steps - milestone, rounded + 1)
    if isinstance(scheduler, CosineAnnealingLR) and scheduler.T_max < steps:
        return f"T_max is {scheduler.T_max}, and it takes {steps} steps: the rate climbs again after {scheduler.T_max}"
    if isinstance(scheduler, PolynomialLR) and scheduler.total_iters < steps:
        return f"total_iters is {scheduler.total_iters}, and it takes {steps} steps: the rate is 0 after that"
    for name in ("total_steps", "T_max", "total_iters"):
        length = getattr(scheduler, name, None)
        if isinstance(length, int) and steps < 0.9 * length - rounded:
            return f"{name} is {length}, and it takes {steps} steps: the run ends before it; '100%' fits the run"
    return None
