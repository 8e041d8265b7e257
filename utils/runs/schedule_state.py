"""The state of a learning-rate schedule, put back also into one that was built for a run of another length."""

import logging
import warnings

from torch.optim.lr_scheduler import CosineAnnealingLR, PolynomialLR, SequentialLR

# What torch's schedulers call the lengths that a config may give in parts of the run, as "100%".
_LENGTHS = {"T_0", "T_max", "milestones", "_milestones", "step_size", "step_ratio"} | {
    "total_iters",
    "total_size",
    "total_steps",
}
_MOST_STEPS = 10_000_000


def load_schedule(name, scheduler, state):
    """Load the state of one of torch's schedulers.

    Where its lengths are no longer those of the state, as after trainer.epochs was raised, it is brought to the same
    step of its new course instead, and the log says so. Raises ValueError if the state is that of another scheduler.
    """
    if not isinstance(state, dict) or state.keys() != scheduler.state_dict().keys():
        raise ValueError(f"it is not the state of a {type(scheduler).__name__}")
    if _lengths(state) == _lengths(scheduler.state_dict()):
        scheduler.load_state_dict(state)
        return
    steps, before = state["last_epoch"], state["_last_lr"][0]
    if type(steps) is not int or not 0 <= steps <= _MOST_STEPS:
        raise ValueError(f"its 'last_epoch' is {steps!r}")
    _advance(scheduler, steps)
    now = scheduler.get_last_lr()[0]
    what = "%s: its lengths are those of the run as it is now: after %d steps the rate is %.4g, where it was %.4g"
    logging.getLogger("trainer").warning(what, name, steps, now, before)


def over_before(scheduler, steps):
    """A warning, as text, if the schedule ends before so many of its steps and then does something odd; else None."""
    if isinstance(scheduler, SequentialLR):
        return over_before(scheduler._schedulers[-1], steps - scheduler._milestones[-1])
    if isinstance(scheduler, CosineAnnealingLR) and scheduler.T_max < steps:
        return f"T_max is {scheduler.T_max}, and it takes {steps} steps: the rate climbs again after {scheduler.T_max}"
    if isinstance(scheduler, PolynomialLR) and scheduler.total_iters < steps:
        return f"total_iters is {scheduler.total_iters}, and it takes {steps} steps: the rate is 0 after that"
    return None


def _lengths(state):
    """The lengths in a scheduler's state, and in those of the schedulers that it is made of."""
    nested = [_lengths(inner) for inner in state.get("_schedulers", ()) if isinstance(inner, dict)]
    return {key: state[key] for key in _LENGTHS if key in state}, nested


def _advance(scheduler, steps):
    """Take a scheduler that is new so many steps on, with the rates of the optimizer that it was built with."""
    for group, lr in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        group["lr"] = lr
    with warnings.catch_warnings():  # torch warns of an optimizer that has not stepped, which the state's has
        warnings.simplefilter("ignore")
        for _ in range(steps):
            scheduler.step()
