"""Restore the state of a learning-rate schedule, also where its lengths have changed since it was saved."""

import itertools
import logging
import warnings
from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from utils.duration import RunLength, is_duration
from utils.errors import UserError

# What torch's schedulers call the lengths that a config may give as durations, such as "100%" or "500 steps".
_ENDS = {"milestones", "total_iters"}  # after which the rate stays as it is
_LENGTHS = _ENDS | {"T_0", "T_max", "_milestones", "step_size", "step_ratio", "total_size", "total_steps"}
_MOST_STEPS = 10_000_000


def load_schedule(name: str, scheduler: LRScheduler, state: dict[str, Any]) -> None:
    """Load the state of one of torch's schedulers.

    Where its lengths differ from those of the state, as after trainer.epochs was raised, it is instead stepped to the
    same step of its new course, and the log says so. Raises ValueError if the state is that of another scheduler.
    """
    if not isinstance(state, dict) or state.keys() != scheduler.state_dict().keys():
        raise ValueError(f"it is not the state of a {type(scheduler).__name__}")
    if _lengths(state) == _lengths(scheduler.state_dict()):
        scheduler.load_state_dict(state)
        return
    steps, before = state["last_epoch"], state["_last_lr"][0]
    if type(steps) is not int or not 0 <= steps <= _MOST_STEPS:
        raise ValueError(f"its 'last_epoch' is {steps!r}")
    for group, lr in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        group["lr"] = lr  # the rate to start at; the optimizer has the checkpoint's
    with warnings.catch_warnings():  # torch warns of an optimizer that has not stepped, which the state's has
        warnings.simplefilter("ignore")
        for _ in range(steps):
            scheduler.step()
    now = scheduler.get_last_lr()[0]
    what = "%s: its lengths are those of the run as it is now: after %d steps the rate is %.4g, where it was %.4g"
    logging.getLogger("trainer").warning(what, name, steps, now, before)


def refuse_old_steps(checkpoint: dict[str, Any], scheduler: Any, len_epoch: int | None) -> None:
    """Raise UserError if durations in steps counted batches when the checkpoint's schedule began.

    They did before checkpoints had a format, except in the last versions without one. With trainer.accumulate above 1,
    the schedule would jump to another place of its course. scheduler: as built from the same section of the config;
    None without one. len_epoch: batches in an epoch; None if unknown.
    """
    config, state = checkpoint.get("config", {}), checkpoint.get("attributes", {}).get("lr_scheduler")
    trainer, section = config.get("trainer"), config.get("lr_scheduler")
    accumulate = trainer.get("accumulate", 1) if isinstance(trainer, dict) else 1
    durations = _durations_in_steps(section)
    if checkpoint.get("format", 0) > 0 or type(accumulate) is not int or accumulate < 2 or not durations:
        return
    if not isinstance(state, dict) or not hasattr(scheduler, "state_dict"):
        return
    length = RunLength(1, len_epoch, accumulate=accumulate)
    pairs = [_with_batches_and_steps(duration, length, _is_by_step(section)) for duration in durations]
    # CyclicLR keeps the sum of two lengths
    pairs += [(a + c, b + d) for (a, b), (c, d) in itertools.combinations_with_replacement(pairs, 2)]
    before, now = _lengths(state), _lengths(scheduler.state_dict())
    counted_batches = any(
        in_batches in _numbers(old) and in_steps in _numbers(new) and in_steps not in _numbers(old)
        for (_, old), (_, new) in zip(before, now, strict=False)
        for in_batches, in_steps in pairs
    )
    if counted_batches and not _is_over(state, before + now):
        raise UserError(
            f"lr_scheduler: this checkpoint was written when durations in steps, here {durations[0]!r}, counted "
            f"batches; they count optimizer steps now, of {accumulate} batches each, so the rate would jump; finish "
            "the run with the version that began it, change lr_scheduler, which starts the schedule over, or begin a "
            "new run with the weights: --weights-only"
        )


def _durations_in_steps(section):
    """The durations such as "500 steps" that stand anywhere in the section."""
    if isinstance(section, (dict, list)):
        parts = section.values() if isinstance(section, dict) else section
        return [duration for part in parts for duration in _durations_in_steps(part)]
    return [section] if is_duration(section) and "step" in section else []


def _is_by_step(section):
    """Whether the schedule, or each of several, steps after every optimizer step."""
    return any(part.get("interval") == "step" for part in (section, *section.values()) if isinstance(part, dict))


def _with_batches_and_steps(duration, length, by_step):
    """What a duration in steps comes to in steps of the scheduler: when it counted batches, and now."""
    one_by_one = RunLength(length.epochs, length.len_epoch)
    if by_step:
        numbers = length.updates_for(one_by_one.in_batches(duration)), length.in_updates(duration)
    else:
        numbers = one_by_one.in_epochs(duration), length.in_epochs(duration)
    return tuple(max(1, number) for number in numbers)


def _numbers(length):
    """The numbers in one length of a state, which may be a list or a dict of milestones."""
    numbers = length if isinstance(length, (list, dict)) else [length]
    return [number for number in numbers if type(number) in (int, float)]


def _lengths(state):
    """[(name, value)] of the lengths in a scheduler's state, and in those of the schedulers that it contains."""
    found = []
    for key in sorted(state, key=str):
        inner = state[key] if isinstance(state[key], list) else [state[key]]
        if key in _LENGTHS:
            found.append((key, state[key]))
        else:
            found += [length for item in inner if isinstance(item, dict) for length in _lengths(item)]
    return found


def _is_over(state, lengths):
    """Whether all the lengths have passed and the rate stays as it is."""
    ends = [end for _, value in lengths for end in (value if isinstance(value, dict) else [value])]
    numbers = [state.get("last_epoch"), *ends]
    is_known = all(name in _ENDS for name, _ in lengths) and all(type(number) is int for number in numbers)
    return is_known and numbers[0] >= max(ends)
