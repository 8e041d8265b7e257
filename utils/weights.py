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


def load_optimizer(optimizer, state_dict, as_built=()):
    """Load an optimizer's state, keeping as built the settings named (such as "lr"), which the config has changed.

    Raises UserError if the state is that of other parameters.
    """
    built = [{key: group[key] for key in as_built if key in group} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state_dict)
    except (ValueError, KeyError) as error:
        raise UserError(f"the checkpoint does not fit the optimizer: {error}") from None
    for group, settings in zip(optimizer.param_groups, built, strict=True):
        group.update(settings)
