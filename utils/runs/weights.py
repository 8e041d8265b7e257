"""Take the weights out of a model and put them back, whatever wraps it."""

import torch

from utils.distributed.shards import is_sharded, sharded_like
from utils.errors import UserError
from utils.runs.schedule_state import load_schedule

_WRAPPERS = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)


def on_device(criterion, device):
    """The loss on the device, if it is a module, which may hold weights; a function as it is."""
    return criterion.to(device) if hasattr(criterion, "state_dict") else criterion


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
    what = f"the checkpoint does not fit the model {type(model).__name__}"
    if not isinstance(state_dict, dict) or not all(isinstance(name, str) for name in state_dict):
        raise UserError(f"{what}: it holds no weights by their names")
    weights, own = without_wrapper(state_dict), model.state_dict()
    if odd := [name for name in own if name in weights and not _copies_into(own[name], weights[name])]:
        raise UserError(f"{what}: {odd[0]} is {_kind(weights[odd[0]])} and not {_kind(own[odd[0]])}")
    if is_sharded(model):
        weights = {key: sharded_like(own[key], value) if key in own else value for key, value in weights.items()}
    try:
        model.load_state_dict(weights)
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        differ = _differences(own, weights) or [" ".join(str(error).split())]
        more = f"; and {len(differ) - 2} more" if len(differ) > 2 else ""
        remedy = "keep its arch, or begin a new run with the weights that fit: --weights-only, see docs/fine_tuning.md"
        raise UserError(f"{what}: {'; '.join(differ[:2])}{more}; {remedy}") from None


def _copies_into(own, given):
    """Whether the given value can be copied into the model's own one, as far as its kind goes."""
    if not isinstance(own, torch.Tensor):
        return True  # an extra state, of which the module knows more
    return isinstance(given, torch.Tensor) and (given.layout, given.is_complex()) == (own.layout, own.is_complex())


def _kind(value):
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    return f"a {str(value.dtype).removeprefix('torch.')} tensor, {str(value.layout).removeprefix('torch.')}"


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
        now = built if settings_as_built else groups
        _require_states(optimizer, state_dict["state"], groups, now)
        optimizer.load_state_dict({**state_dict, "param_groups": groups})
        if not all(isinstance(parameter, torch.Tensor) for parameter in optimizer.state):
            raise ValueError("it holds a state of no parameter")
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"the checkpoint does not fit the optimizer: {' '.join(str(error).split())}") from None
    optimizer._opt_called = True  # by the run before this one; else torch warns that the schedule goes ahead of it
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


def _require_states(optimizer, states, groups, settings):
    """Raise ValueError for states that a step of the optimizer would fail on, or read memory of others by.

    states: {number of a parameter: its state}. groups: the saved ones, which number the parameters. settings: of each
    group, those that it will have.
    """
    for own, group, setting in zip(optimizer.param_groups, groups, settings, strict=True):
        for parameter, number in zip(own["params"], group["params"], strict=True):
            state = states.get(number, {})
            if not isinstance(state, dict):
                raise ValueError("a parameter's state is no dict")
            if type(optimizer).__module__.startswith("torch.optim") and type(optimizer).__name__ != "LBFGS" and state:
                _require_state(type(optimizer).__name__, parameter, state, setting)


def _require_state(kind, parameter, state, settings):
    """The same for one parameter, whose optimizer is torch's class of that name."""
    for name in _names_in_state(kind, settings):
        if state.get(name) is None:
            raise ValueError(f"a state has no {name!r}")
    for name, value in state.items():
        if name == "step" or (value is not None and name in _NUMBERS_IN_STATE):
            number = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
            if not isinstance(number, (int, float)) or not 0 <= number < 2**63:
                raise ValueError(f"a state {name!r} is no number from 0 on")
        elif value is not None and not isinstance(value, torch.Tensor):
            raise ValueError(f"a state {name!r} is no tensor")
        elif value is not None:
            shape = _SMALLER_IN_STATE.get(name, tuple)(tuple(parameter.shape))
            if tuple(value.shape) != shape:
                raise ValueError(f"a state {name!r} has the shape {tuple(value.shape)}, not {shape}")
            if not _copies_into(parameter, value) or value.is_floating_point() != parameter.is_floating_point():
                raise ValueError(f"a state {name!r} is {_kind(value)} and not {_kind(parameter)}")


_NUMBERS_IN_STATE = ("eta", "mu", "mu_product")
_SMALLER_IN_STATE = {
    "row_var": lambda shape: (*shape[:-1], 1),
    "col_var": lambda shape: (*shape[:-2], 1, shape[-1]),
}  # of Adafactor
_IN_STATE = {
    "ASGD": ("step", "eta", "mu", "ax"),
    "Adadelta": ("step", "square_avg", "acc_delta"),
    "Adafactor": ("step",),
    "Adagrad": ("step", "sum"),
    "Adam": ("step", "exp_avg", "exp_avg_sq"),
    "AdamW": ("step", "exp_avg", "exp_avg_sq"),
    "Adamax": ("step", "exp_avg", "exp_inf"),
    "NAdam": ("step", "mu_product", "exp_avg", "exp_avg_sq"),
    "RAdam": ("step", "exp_avg", "exp_avg_sq"),
    "RMSprop": ("step", "square_avg"),
    "Rprop": ("step", "prev", "step_size"),
    "SparseAdam": ("step", "exp_avg", "exp_avg_sq"),
}  # what a step of torch's optimizers takes for granted
_IN_STATE_BY_SETTING = {
    "Adam": {"amsgrad": "max_exp_avg_sq"},
    "AdamW": {"amsgrad": "max_exp_avg_sq"},
    "RMSprop": {"momentum": "momentum_buffer", "centered": "grad_avg"},
}


def _names_in_state(kind, settings):
    by_setting = _IN_STATE_BY_SETTING.get(kind, {})
    return (*_IN_STATE.get(kind, ()), *(name for setting, name in by_setting.items() if settings.get(setting)))


def _require_like(built, saved, place, fixed=True):
    """Raise ValueError if numbers, text and lists are saved as something else.

    built: of an object that is new. fixed: its lists are as long as they will ever be.
    """
    if isinstance(built, dict):
        if not isinstance(saved, dict):
            raise ValueError(f"{place} is {_shown(saved)}, where a dict was expected")
        for key in built.keys() & saved.keys():
            _require_like(built[key], saved[key], f"{place}{key!r}", fixed)
    elif isinstance(built, (list, tuple)) and built:
        if not isinstance(saved, (list, tuple)) or (fixed and len(saved) != len(built)):
            raise ValueError(f"{place} is {_shown(saved)}, where a list of {len(built)} was expected")
        for one, item in zip(built, saved, strict=False):
            _require_like(one, item, place, fixed)
    elif isinstance(built, bool):
        if not isinstance(saved, bool):
            raise ValueError(f"{place} is {_shown(saved)}, where true or false was expected")
    elif isinstance(built, str):
        if not isinstance(saved, str):
            raise ValueError(f"{place} is {_shown(saved)}, where text was expected")
    elif isinstance(built, (int, float)) and not _is_number(saved):
        raise ValueError(f"{place} is {_shown(saved)}, where a number was expected")


def _is_number(value):
    if isinstance(value, torch.Tensor):
        return value.dim() == 0 and not value.is_complex() and value.layout == torch.strided
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def _shown(value):
    return repr(value) if isinstance(value, (str, float, bool, type(None))) else f"a {type(value).__name__}"


def _kernel(settings):
    """Which kernel computes the update: a matter of this run, not of the checkpoint."""
    return {key: settings[key] for key in ("fused", "foreach", "capturable", "differentiable") if key in settings}


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
            ours = type(target).__module__.startswith("torch.")
            _require_like(target.state_dict(), state, "", fixed=ours)
            load_schedule(name, target, state)
        else:
            target.load_state_dict(state)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"the checkpoint does not fit {name!r}: {' '.join(str(error).split())}") from None
