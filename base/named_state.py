"""The attributes of a trainer that have a state: found, saved under their names, and given it back."""

from utils.checkpoint import CheckpointError, plain
from utils.weights import load_state, unwrapped

_SAVED_APART = ("model", "optimizer")


def stateful_attributes(trainer):
    """{name: attribute} of all that have state_dict and load_state_dict, besides the model and the optimizer."""
    return {
        name: unwrapped(value)
        for name, value in vars(trainer).items()
        if name not in _SAVED_APART and hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
    }


def find_unsavable(trainer, logger):
    """Names of the attributes whose state no safe file can hold; the log tells of them."""
    names = set()
    for name, value in stateful_attributes(trainer).items():
        try:
            plain(value.state_dict(), name)
        except CheckpointError as error:
            logger.warning("self.%s will not survive a restart: %s", name, error)
            names.add(name)
    return names


def restore_attributes(trainer, states, logger):
    """Give the attributes the states that a checkpoint holds, {name: state}. Raises UserError if one does not fit."""
    stateful = stateful_attributes(trainer)
    for name, state in states.items():
        if name in stateful:
            load_state(name, stateful[name], state)
        else:
            logger.warning("the checkpoint holds a state of %r, which this trainer does not have", name)
