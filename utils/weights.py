"""Take the weights out of a model and put them back, whatever wraps it."""

import torch

from utils.distributed.shards import is_sharded, sharded_like
from utils.errors import UserError
from utils.schedule_state import load_schedule

_WRAPPERS = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)


def unwrapped(model):
    """The user's own model inside a multi-GPU wrapper, so that its weights load on any number of devices."""
    return model.module if isinstance(model, _WRAPPERS) else model


def class_name(model):
    """The name of the user's class; torch makes one of its own of it for a sharded model."""
    return (type(model).__bases__[-1] if is_sharded(model) else type(model)).__name__


def load_weights(model, state_dict):
    """Load a state_dict into the model. Raises UserError, naming the entries, if they do not fit.

    A "module." before every name, as a wrapped model's own state_dict has it, is taken off.
    """
    model = unwrapped(model)
    weights = without_wrapper(state_dict)
    if is_sharded(model):
        own = model.state_dict()
        weights = {key: sharded_like(own[key], value) if key in own else value for key, value in weights.items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        differ = _differences(model.state_dict(), weights) or [" ".join(str(error).split())]
        more = f"; and {len(differ) - 2} more" if len(differ) > 2 else ""
        remedy = "keep its arch, or begin a new run with the weights that fit: --weights-only, see docs/fine_tuning.md"
        what = f"the checkpoint does not fit the model {type(model).__name__}"
        raise UserError(f"{what}: {'; '.join(differ[:2])}{more}; {remedy}") from None


def _differences(own, weights):
    """What a model's state_dict and one to load do not have in common, in words."""
    shapes = [{name: tuple(getattr(value, "shape", ())) for name, value in state.items()} for state in (weights, own)]
    missing = [f"{name} is not in the checkpoint" for name in own if name not in weights]
    unknown = [f"{name} is not in the model" for name in weights if name not in own]
    names = [name for name in own if name in weights and shapes[0][name] != shapes[1][name]]
    return [f"{name} is {shapes[0][name]} and not {shapes[1][name]}" for name in names] + missing + unknown


def without_wrapper(state_dict):
    """The state_dict without a "module." that stands before all its names."""
    if not all(name.startswith("module.") for name in state_dict):
        return state_dict
    return {name.removeprefix("module."): value for name, value in state_dict.items()}


def load_optimizer(optimizer, state_dict, settings_as_built):
    """Load an optimizer's state; settings_as_built: but keep its learning rate and other settings as they are.

    Raises UserError if the state is that of other parameters.
    """
    if hasattr(optimizer, "by_name"):
        _load_optimizers(optimizer, state_dict, settings_as_built)
        return
    groups = state_dict.get("param_groups")
    if isinstance(groups, list) and len(groups) != len(optimizer.param_groups):
        numbers = f"it has {len(groups)} groups of parameters, and the config makes {len(optimizer.param_groups)}"
        remedy = "keep optimizer.groups and decay_biases_and_norms, or start anew from the weights: --weights-only"
        raise UserError(f"the checkpoint does not fit the optimizer: {numbers}; {remedy}")
    built = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:
        groups = [group | _kernel(own) for group, own in zip(state_dict["param_groups"], built, strict=True)]
        _require_like(built, groups, "")
        if not all(type(number) is int for group in groups for number in group["params"]):
            raise ValueError("its parameters are not numbered")
        optimizer.load_state_dict({**state_dict, "param_groups": groups})
        if not all(isinstance(state, dict) for state in optimizer.state.values()):
            raise ValueError("a parameter's state is no dict")
        if not all(isinstance(parameter, torch.Tensor) for parameter in optimizer.state):
            raise ValueError("it holds a state of no parameter")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the checkpoint does not fit the optimizer: {error}") from None
    optimizer._opt_called = True  # by the run before this one; else torch warns that the schedule goes ahead of it
    _require_shapes(optimizer)
    for parameter, state in optimizer.state.items():
        state.update({name: _laid_out_like(parameter, value) for name, value in state.items()})
    if settings_as_built:
        for group, settings in zip(optimizer.param_groups, built, strict=True):
            group.update(settings)


def _load_optimizers(optimizers, states, settings_as_built):
    """The same for several, {"steps": number, "optimizers": {name: state}}."""
    steps, by_name = states.get("steps"), states.get("optimizers")
    if (
        not isinstance(by_name, dict)
        or by_name.keys() != optimizers.by_name.keys()
        or type(steps) is not int
        or steps < 0
    ):
        names = ", ".join(optimizers.by_name)
        raise UserError(f"the checkpoint does not fit the optimizers: it is not one of a run with {names}")
    for name, optimizer in optimizers.by_name.items():
        load_optimizer(optimizer, by_name[name], settings_as_built)
    optimizers.steps = steps


def _require_shapes(optimizer):
    """Raise UserError for a state of one of torch's optimizers that does not belong to its parameter."""
    kind = type(optimizer)
    if not kind.__module__.startswith("torch.optim") or kind.__name__ in ("Adafactor", "LBFGS"):  # shaped as they like
        return
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        for name, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, (torch.Tensor, type(None))) and name != "step":
                raise UserError(f"the checkpoint does not fit the optimizer: a state {name!r} is no tensor")
            if isinstance(value, torch.Tensor) and value.numel() != 1 and value.shape != parameter.shape:
                shapes = f"{tuple(value.shape)}, not {tuple(parameter.shape)}"
                raise UserError(f"the checkpoint does not fit the optimizer: a state {name!r} has the shape {shapes}")


def _require_like(built, saved, place):
    """Raise ValueError if numbers and lists are saved as something else. built: the same of an object that is new."""
    if isinstance(built, dict) and isinstance(saved, dict):
        for key in built.keys() & saved.keys():
            _require_like(built[key], saved[key], f"{place}{key!r}")
    elif isinstance(built, (list, tuple)) and built:
        if not isinstance(saved, (list, tuple)):
            raise ValueError(f"{place} is {saved!r}, where a list was expected")
        for item in saved:
            _require_like(built[0], item, place)
    elif isinstance(built, bool):
        if not isinstance(saved, bool):
            raise ValueError(f"{place} is {saved!r}, where true or false was expected")
    elif isinstance(built, (int, float)) and not _is_number(saved):
        raise ValueError(f"{place} is {saved!r}, where a number was expected")


def _is_number(value):
    if isinstance(value, torch.Tensor):
        return value.dim() == 0
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def _kernel(settings):
    """Which kernel computes the update: a matter of this run, not of the checkpoint."""
    return {key: settings[key] for key in ("fused", "foreach") if key in settings}


def _laid_out_like(parameter, value):
    """The value in the parameter's memory order, which fused kernels take for granted."""
    if not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        return value
    value = sharded_like(parameter, value)
    if value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def load_state(name, target, state):
    """Load the state of any object that has load_state_dict. Raises UserError, with its name, if it does not fit."""
    try:
        if isinstance(target, torch.nn.Module):
            load_weights(target, state)
            return
        if isinstance(target, torch.optim.lr_scheduler.LRScheduler):
            _require_like(target.state_dict(), state, "")
            load_schedule(name, target, state)
        else:
            target.load_state_dict(state)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError, IndexError) as error:
        raise UserError(f"the checkpoint does not fit {name!r}: {error}") from None
