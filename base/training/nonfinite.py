"""Numbers that are not finite: put down to their batches, and refused before they are saved."""

import itertools
import math

import numpy as np

from utils.distributed.messages import gather
from utils.distributed.shards import local
from utils.errors import UserError
from utils.seed import rng_state, set_rng_state
from utils.untrusted import as_count, as_list, as_number

MAX_LEFT_OUT = 10


class NonFiniteError(UserError):
    """A loss, a gradient or a parameter that is nan or infinite. batches: indices of the epoch's batches at fault."""

    def __init__(self, message, batches=()):
        super().__init__(message)
        self.batches = batches


class StepLog:
    """Which batches stand behind the losses and the updates since the last report. It survives a restart.

    The attribute lr is the learning rate of the last update, None before the first one.
    """

    own_by_process = True

    def __init__(self):
        self.lr = None
        self.reset()

    def reset(self):
        """Begin an epoch."""
        self.batches = []  # indices, one for each loss
        self.updates = []  # the last batch of each update
        self.last_update = -1  # of those before

    def clear(self):
        """Begin a report."""
        self.last_update = self.updates[-1] if self.updates else self.last_update
        self.batches, self.updates = [], []

    def faults(self, losses, found):
        """[(batches, what is not finite), ...], the first one first; one for each update at most.

        losses: of the batches. found: for each update whether its gradient was not finite; or nothing.
        """
        bad = [(i, loss) for i, loss in zip(self.batches, losses, strict=False) if not math.isfinite(loss)]
        faults = {batch: ([batch], f"the loss is {loss}") for batch, loss in bad}
        begins = [self.last_update, *self.updates]
        for before, end, bad in zip(begins, self.updates, found, strict=False):
            window = list(range(before + 1, end + 1)) or [end]  # a batch may stand behind several updates
            if bad and not faults.keys() & set(window):
                faults[end] = (window, "the gradient is not finite")
        return [faults[batch] for batch in sorted(faults)]

    def merged(self, states):
        """The state for other processes than before, to which nobody's losses belong."""
        return states[0] | {"batches": []}

    def state_dict(self):
        """All of it."""
        return {"batches": self.batches, "updates": self.updates, "last_update": self.last_update, "lr": self.lr}

    def load_state_dict(self, state):
        """Put it back."""
        self.batches, self.updates = (
            list(map(as_count, as_list(state["batches"]))),
            list(map(as_count, as_list(state["updates"]))),
        )
        self.last_update = as_count(state["last_update"], least=-1)
        lr = state.get("lr")
        self.lr = lr if lr is None or getattr(lr, "ndim", None) == 0 else as_number(lr)


def merged_faults(of_processes):
    """The faults that any process has found, in the same form; of a window the one that names a loss."""
    merged = {}
    for batches, what in itertools.chain.from_iterable(of_processes):
        last = batches[-1]
        windows = [key for key, (window, _) in merged.items() if set(window) & set(batches)]
        if not windows or len(batches) < len(merged[windows[0]][0]):
            for key in windows:
                del merged[key]
            merged[last] = (batches, what)
    return [merged[batch] for batch in sorted(merged)]


def nonfinite_samples(loader, indices):
    """Those of the loader's samples in which a tensor, array or number is nan or infinite; [] if they cannot be read.

    They are read from its dataset, one by one and in this process; random generators stay as they are.
    """
    before = rng_state()
    try:
        return [index for index in indices if _holds_nonfinite(loader.dataset[index])]
    except Exception:  # another error is on its way, and this is only to say more of it
        return []
    finally:
        set_rng_state(before)


def _holds_nonfinite(sample):
    import torch

    if isinstance(sample, (dict, list, tuple)):
        return any(map(_holds_nonfinite, sample.values() if isinstance(sample, dict) else sample))
    if isinstance(sample, (float, np.ndarray, np.generic)):
        sample = torch.as_tensor(sample)
    return isinstance(sample, torch.Tensor) and not sample.isfinite().all()


def finite_state(model):
    """{name: tensor} of what must stay finite: the parameters that are trained, and the buffers that are so now."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}
    buffers = {name: b for name, b in model.named_buffers() if b.is_floating_point() and b.isfinite().all()}
    return parameters | buffers


def require_finite(tensors, when):
    """Raise NonFiniteError, naming them, if any of {name: tensor} holds nan or infinity; waits for the device.

    All processes must call it, and it raises in all if one has found some.
    """
    import torch

    finite = [local(tensor.detach()).isfinite().all() for tensor in tensors.values()]
    bad = []
    if finite and not torch.stack([value.to(finite[0].device) for value in finite]).all():
        bad = [name for name, value in zip(tensors, finite, strict=True) if not value]
    bad = list(dict.fromkeys(name for of_one in gather(bad) for name in of_one))
    if bad:
        raise NonFiniteError(f"{when}: {', '.join(bad[:3])} of the model hold nan or infinity; not saved")
