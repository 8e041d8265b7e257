"""Load the states in a checkpoint into models, optimizers and schedulers, and say what does not fit."""

import functools
from typing import Any

import torch

from utils.device import exact_float
from utils.distributed.shards import is_sharded, sharded_like
from utils.errors import UserError, shortened
from utils.runs.schedule_state import load_schedule

_WRAPPERS = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
_MISFITS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)  # of load_state_dict

# ---- models


def on_device(criterion: Any, device: torch.device) -> Any:
    """Return the loss or metric, with the tensors that it holds, such as class weights, moved to the device.

    These are the parameters, buffers and plain attributes of a module, and the bound arguments of a function. On a
    device without double precision they become single.
    """
    holders: list[Any] = [criterion.keywords] if isinstance(criterion, functools.partial) else []
    if isinstance(criterion, torch.nn.Module):
        criterion = (criterion if exact_float(device) is torch.float64 else criterion.float()).to(device)
        holders += map(vars, criterion.modules())
    for held in holders:
        tensors = {name: value for name, value in held.items() if isinstance(value, torch.Tensor)}
        held.update({name: _moved(value, device) for name, value in tensors.items()})
    return criterion


def load_loss(criterion: Any, checkpoint: dict[str, Any], config: dict[str, Any]) -> None:
    """Load the parameters and buffers that the loss of this config has in the checkpoint; none of another loss."""
    attributes, own = checkpoint.get("attributes"), checkpoint.get("config")
    if not (isinstance(criterion, torch.nn.Module) and isinstance(attributes, dict) and isinstance(own, dict)):
        return
    if "criterion" in attributes and own.get("loss") == config.get("loss"):
        load_state("criterion", criterion, attributes["criterion"])


def _moved(tensor, device):
    return tensor.to(device, exact_float(device) if tensor.dtype == torch.float64 else tensor.dtype)


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Return the user's own model inside a multi-GPU wrapper, whose weights load on any number of devices."""
    return model.module if isinstance(model, _WRAPPERS) else model


def class_name(model: torch.nn.Module) -> str:
    """Return the name of the user's class. For a sharded model, torch derives a class of its own from that."""
    return (type(model).__bases__[-1] if is_sharded(model) else type(model)).__name__


def without_wrapper(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return the state_dict without the "module." that a wrapped model puts before all its names."""
    if not all(name.startswith("module.") for name in state_dict):
        return state_dict
    return {name.removeprefix("module."): value for name, value in state_dict.items()}


TRAIN_AGAIN = "keep its arch, or begin a new run with the weights that fit: --weights-only, see docs/fine_tuning.md"


def load_weights(
    model: torch.nn.Module, state_dict: dict[str, Any], saved: object = None, remedy: str = TRAIN_AGAIN
) -> None:
    """Load a state_dict into the model, also that of a wrapped model.

    saved: name of the class that the checkpoint was saved from, for the error. remedy: what would do.

    Raises UserError, naming the entries, if it does not fit.
    """
    model = unwrapped(model)
    of = f" of the model {shortened(saved)}" if isinstance(saved, str) and saved != type(model).__name__ else ""
    what = f"the checkpoint{of} does not fit the model {type(model).__name__}"
    if not isinstance(state_dict, dict) or not all(isinstance(name, str) for name in state_dict):
        raise UserError(f"{what}: it holds no weights by their names")
    weights, own = without_wrapper(state_dict), model.state_dict()
    if odd := [name for name in own if name in weights and not _copies_into(own[name], weights[name])]:
        raise UserError(f"{what}: {odd[0]} is {_kind(weights[odd[0]])} and not {_kind(own[odd[0]])}")
    if is_sharded(model):
        weights = {key: sharded_like(own[key], value) if key in own else value for key, value in weights.items()}
    try:
        model.load_state_dict(weights)
    except _MISFITS as error:
        differ = _differences(own, weights) or [" ".join(str(error).split())]
        more = f"; and {len(differ) - 2} more" if len(differ) > 2 else ""
        raise UserError(f"{what}: {'; '.join(differ[:2])}{more}; {remedy}") from None


def _copies_into(own, given):
    """Whether a value of this kind can be copied into the model's own one."""
    if not isinstance(own, torch.Tensor):
        return True  # an extra state, which the module checks itself
    return isinstance(given, torch.Tensor) and (given.layout, given.is_complex()) == (own.layout, own.is_complex())


def _kind(value):
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    return f"a {str(value.dtype).removeprefix('torch.')} tensor, {str(value.layout).removeprefix('torch.')}"


def _differences(own, weights):
    """Descriptions of what differs between a model's state_dict and one to load."""
    shapes = [{name: tuple(getattr(value, "shape", ())) for name, value in state.items()} for state in (weights, own)]
    names = [name for name in own if name in weights and shapes[0][name] != shapes[1][name]]
    return [
        *(f"{name} is {shapes[0][name]} and not {shapes[1][name]}" for name in names),
        *(f"{name} is not in the checkpoint" for name in own if name not in weights),
        *(f"{name} is not in the model" for name in weights if name not in own),
    ]


# ---- optimizers


def load_optimizer(optimizer: Any, state_dict: dict[str, Any], settings_as_built: bool) -> None:
    """Load the state of an optimizer, or of several that the config names.

    settings_as_built: keep the optimizer's learning rate and other settings as they are. Raises UserError if the state
    does not fit its parameters.
    """
    if hasattr(optimizer, "by_name"):
        _load_optimizers(optimizer, state_dict, settings_as_built)
        return
    groups = state_dict.get("param_groups")
    if isinstance(groups, list) and len(groups) != len(optimizer.param_groups):
        numbers = f"it has {len(groups)} groups of parameters, and the config makes {len(optimizer.param_groups)}"
        remedy = "keep optimizer.groups and decay_biases_and_norms, or begin a new run with the weights: --weights-only"
        if len(groups) > len(optimizer.param_groups):
            remedy += "; a group that was added during training belongs into optimizer.groups, with Freeze until then"
        raise UserError(f"the checkpoint does not fit the optimizer: {numbers}; {remedy}")
    built = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:
        groups = [group | _kernel(own) for group, own in zip(state_dict["param_groups"], built, strict=True)]
        _require_like(built, groups, "")
        if not all(type(number) is int for group in groups for number in group["params"]):
            raise ValueError("its parameters are not numbered")
        saved, own = ([len(group["params"]) for group in of_one] for of_one in (groups, optimizer.param_groups))
        if saved != own:
            what = f"its groups have {_listed(saved)} parameters, and those of model and loss are {_listed(own)}"
            raise ValueError(f"{what}; begin a new run with the weights: --weights-only")
        _require_states(optimizer, state_dict["state"], groups, built if settings_as_built else groups)
        optimizer.load_state_dict({**state_dict, "param_groups": groups})
        if not all(isinstance(parameter, torch.Tensor) for parameter in optimizer.state):
            raise ValueError("it holds a state of no parameter")
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"the checkpoint does not fit the optimizer: {' '.join(str(error).split())}") from None
    optimizer._opt_called = True  # torch has no public way to say so, and warns of a schedule that is ahead otherwise
    for parameter, state in optimizer.state.items():
        state.update({name: _laid_out_like(parameter, value) for name, value in state.items()})
    if settings_as_built:
        for group, settings in zip(optimizer.param_groups, built, strict=True):
            group.update(settings)


def _listed(numbers):
    return ", ".join(map(str, numbers))


def _load_optimizers(optimizers, states, settings_as_built):
    """Load {"steps": number, "optimizers": {name: state}} into several."""
    steps, by_name = states.get("steps"), states.get("optimizers")
    fits = isinstance(by_name, dict) and by_name.keys() == optimizers.by_name.keys()
    if not fits or type(steps) is not int or steps < 0:
        names = ", ".join(optimizers.by_name)
        raise UserError(f"the checkpoint does not fit the optimizers: it is not one of a run with {names}")
    for name, optimizer in optimizers.by_name.items():
        load_optimizer(optimizer, by_name[name], settings_as_built)
    optimizers.steps = steps


def _kernel(settings):
    """The settings that choose the kernel of an update: those of this run, not of the checkpoint."""
    return {key: settings[key] for key in ("fused", "foreach", "capturable", "differentiable") if key in settings}


def _laid_out_like(parameter, value):
    """The value in the parameter's memory order, which fused kernels rely on."""
    if not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        return value
    value = sharded_like(parameter, value)
    if value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _require_states(optimizer, states, groups, settings):
    """Raise ValueError for states with which a step would fail, or read memory outside of them.

    states: {number of a parameter: its state}. groups: as saved, with the numbers of the parameters. settings: those
    that each group is going to have.
    """
    kind = type(optimizer)
    for own, group, setting in zip(optimizer.param_groups, groups, settings, strict=True):
        for parameter, number in zip(own["params"], group["params"], strict=True):
            state = states.get(number, {})
            if not isinstance(state, dict):
                raise ValueError("a parameter's state is not a dict")
            if kind.__module__.startswith("torch.optim") and kind.__name__ != "LBFGS" and state:
                _require_state(kind.__name__, parameter, state, setting)


def _require_state(kind, parameter, state, settings):
    """Raise ValueError for a state that does not fit the parameter and torch's optimizer class of that name."""
    needed = _IN_STATE.get(kind, ())
    if kind == "Adafactor":
        needed = ("step", "row_var", "col_var") if parameter.dim() > 1 else ("step", "variance")
    for name in needed:
        if state.get(name) is None:
            raise ValueError(f"a state has no {name!r}")
    for setting, name in _IN_STATE_BY_SETTING.get(kind, {}).items():
        if settings.get(setting) and state.get(name) is None:
            raise ValueError(f"a state has no {name!r}, which {setting} needs")
    for name, value in state.items():
        if name == "step" or (value is not None and name in _NUMBERS_IN_STATE):
            number = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
            if not isinstance(number, (int, float)) or not 0 <= number < 2**63:
                raise ValueError(f"a state {name!r} is not a number from 0 on")
        elif value is not None and not isinstance(value, torch.Tensor):
            raise ValueError(f"a state {name!r} is not a tensor")
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
    "Adagrad": ("step", "sum"),
    "Adam": ("step", "exp_avg", "exp_avg_sq"),
    "AdamW": ("step", "exp_avg", "exp_avg_sq"),
    "Adamax": ("step", "exp_avg", "exp_inf"),
    "NAdam": ("step", "mu_product", "exp_avg", "exp_avg_sq"),
    "RAdam": ("step", "exp_avg", "exp_avg_sq"),
    "RMSprop": ("step", "square_avg"),
    "Rprop": ("step", "prev", "step_size"),
    "SparseAdam": ("step", "exp_avg", "exp_avg_sq"),
}  # entries that a step of torch's optimizers needs once the state is not empty
_IN_STATE_BY_SETTING = {
    "Adam": {"amsgrad": "max_exp_avg_sq"},
    "AdamW": {"amsgrad": "max_exp_avg_sq"},
    "RMSprop": {"momentum": "momentum_buffer", "centered": "grad_avg"},
}


# ---- any state


def load_state(name: str, target: Any, state: Any) -> None:
    """Load the state of any object that has load_state_dict. Raises UserError, with its name, if it does not fit."""
    try:
        if isinstance(target, torch.nn.Module):
            load_weights(target, state)
        elif isinstance(target, torch.optim.lr_scheduler.LRScheduler):
            of_torch = type(target).__module__.startswith("torch.")
            _require_like(target.state_dict(), state, "", fixed=of_torch)
            load_schedule(name, target, state)
        else:
            target.load_state_dict(state)
    except _MISFITS as error:
        raise UserError(f"the checkpoint does not fit {name!r}: {' '.join(str(error).split())}") from None


def _require_like(built: Any, saved: Any, place: str, fixed: bool = True) -> None:
    """Raise ValueError if a number, text, list or dict of the built state is saved as something else.

    built: the state of a new object. fixed: its lists keep their length.
    """
    if isinstance(built, dict):
        fits, wanted = isinstance(saved, dict), "a dict"
    elif isinstance(built, (list, tuple)) and built:
        fits = isinstance(saved, (list, tuple)) and (not fixed or len(saved) == len(built))
        wanted = f"a list of {len(built)}"
    elif isinstance(built, bool):
        fits, wanted = isinstance(saved, bool), "true or false"
    elif isinstance(built, str):
        fits, wanted = isinstance(saved, str), "text"
    elif isinstance(built, (int, float)):
        fits, wanted = _is_number(saved), "a number"
    else:
        return
    if not fits:
        given = repr(saved) if isinstance(saved, (str, float, bool, type(None))) else f"a {type(saved).__name__}"
        raise ValueError(f"{place} is {given}, where {wanted} was expected")
    if isinstance(built, dict) and isinstance(saved, dict):
        for key in built.keys() & saved.keys():
            _require_like(built[key], saved[key], f"{place}{key!r}", fixed)
    elif isinstance(built, (list, tuple)):
        for one, item in zip(built, saved, strict=False):
            _require_like(one, item, place, fixed)


def _is_number(value):
    if isinstance(value, torch.Tensor):
        return value.dim() == 0 and not value.is_complex() and value.layout == torch.strided
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)
