"""Take the weights out of a model and put them back, whatever wraps it."""

import torch

from utils.errors import UserError

_WRAPPERS = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)


def unwrapped(model):
    """The user's own model inside a multi-GPU wrapper, so that its weights load on any number of devices."""
    return model.module if isinstance(model, _WRAPPERS) else model


def load_weights(model, state_dict):
    """Load a state_dict into the model. Raises UserError, naming the entries, if they do not fit.

    A "module." before every name, as a wrapped model's own state_dict has it, is taken off.
    """
    if state_dict and all(name.startswith("module.") for name in state_dict):
        state_dict = {name.removeprefix("module."): value for name, value in state_dict.items()}
    model = unwrapped(model)
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise UserError(f"the checkpoint does not fit the model {type(model).__name__}: {' '.join(lines)}") from None


def load_optimizer(optimizer, state_dict, settings_as_built):
    """Load an optimizer's state; settings_as_built: but keep its learning rate and other settings as they are.

    Raises UserError if the state is that of other parameters.
    """
    built = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:
        groups = [group | _kernel(own) for group, own in zip(state_dict["param_groups"], built, strict=True)]
        optimizer.load_state_dict({**state_dict, "param_groups": groups})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the checkpoint does not fit the optimizer: {error}") from None
    optimizer._opt_called = True  # by the run before this one; else torch warns that the schedule goes ahead of it
    _require_shapes(optimizer)
    for parameter, state in optimizer.state.items():
        state.update({name: _laid_out_like(parameter, value) for name, value in state.items()})
    if settings_as_built:
        for group, settings in zip(optimizer.param_groups, built, strict=True):
            group.update(settings)


def _require_shapes(optimizer):
    """Raise UserError for a state that is not shaped like its parameter where a fused kernel takes that for granted."""
    fused = [p for group in optimizer.param_groups if group.get("fused") for p in group["params"]]
    for parameter in fused:
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor) and value.numel() != 1 and value.shape != parameter.shape:
                shapes = f"{tuple(value.shape)}, not {tuple(parameter.shape)}"
                raise UserError(f"the checkpoint does not fit the optimizer: a state {name!r} has the shape {shapes}")


def _kernel(settings):
    """Which kernel computes the update: a matter of this run, not of the checkpoint."""
    return {key: settings[key] for key in ("fused", "foreach") if key in settings}


def _laid_out_like(parameter, value):
    """The value in the parameter's memory order, which fused kernels take for granted."""
    if not isinstance(value, torch.Tensor) or value.shape != parameter.shape or value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def load_state(name, target, state):
    """Load the state of any object that has load_state_dict. Raises UserError, with its name, if it does not fit."""
    try:
        if isinstance(target, torch.nn.Module):
            load_weights(target, state)
            return
        if isinstance(target, torch.optim.lr_scheduler.LRScheduler) and state.keys() != target.state_dict().keys():
            raise ValueError(f"it is not the state of a {type(target).__name__}")
        target.load_state_dict(state)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise UserError(f"the checkpoint does not fit {name!r}: {error}") from None
