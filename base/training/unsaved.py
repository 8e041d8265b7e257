"""What a resume of a trainer would lose: attributes that no checkpoint holds. The log names them."""

import itertools
import random
import weakref
import zlib
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from base.training.checkpoints import SAVED_APART, stateful_attributes
from utils.distributed.shards import is_sharded
from utils.distributed.world import gather, is_main, world_size
from utils.runs.checkpoint import CheckpointError, plain

if TYPE_CHECKING:
    from base.base_trainer import BaseTrainer

# Attributes of our own trainers that change: checkpoints hold them under other names, or a resume does not need them.
# The trainer.py of a project keeps the names of the version it comes from, which are here, too.
_KNOWN = {
    "_has_looked",
    "_ignored_settings",
    "_is_first_train",
    "_is_first_valid",
    "_is_restored",
    "_line_time",
    "_must_be_finite",
    "_start_epoch",
    "_to_restore",
    "_valid_watch",
    "batches_done",
    "best_epoch",
    "epoch",
    "is_whole",
    "metric_ftns",
    "mnt_best",
    "not_improved_count",
    "output_shape",
    "resume_rng",
    "saved_log",
    "skipped_batches",
    "step",
    "stop_reason",
    "validated_step",
}
_MOST_PARTS = 10_000  # of an attribute that are looked at; more hardly change while the first ones stay
_MOST_BYTES = 1 << 26  # of an array
_MAX_DEPTH = 6  # of lists and dicts within each other
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


class Unsaved:
    """The attributes of a trainer that its checkpoints do not hold.

    names: of those whose state holds more than tensors and plain values.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._before: dict[str, list[Any]] | None = None  # {name: marks} when the run began
        self._told: set[str] = set()
        self._is_compared = False  # what the processes hold

    def begin(self, trainer: "BaseTrainer") -> None:
        """Find the names, with a warning of each, and remember what the other attributes are now."""
        for name, value in stateful_attributes(trainer).items():
            try:
                plain(value.state_dict(), name, any_keys=True)
            except CheckpointError as error:
                trainer.logger.warning("self.%s will not survive a restart: %s", name, error)
                self.names.add(name)
        self._before = _marks_of(trainer)

    def warn(self, trainer: "BaseTrainer") -> None:
        """Warn once of each attribute that has changed since the run began, and that a resume would not restore.

        All processes must call it.
        """
        if self._before is None:
            return
        self._warn_of_other_processes(trainer)
        if not is_main():
            return
        now = _marks_of(trainer)
        changed = [name for name in now if now[name] and not _are_same(now[name], self._before.get(name, []))]
        if new := [f"self.{name}" for name in changed if name not in self._told]:
            remedy = "what a resumed run needs belongs in an object with state_dict and load_state_dict"
            where = "docs/trainers.md, What a resume restores"
            trainer.logger.warning("changed in training, in no checkpoint: %s; %s: %s", ", ".join(new), remedy, where)
        self._told.update(changed)

    def _warn_of_other_processes(self, trainer):
        """Warn, at the first save, of modules that differ between the processes, of which the first one's is saved."""
        if world_size() == 1 or self._is_compared:
            return
        self._is_compared = True
        shared = {name: value for name, value in stateful_attributes(trainer).items() if _is_shared(value)}
        marks, *others = gather(
            {name: [_checksum(one) for one in _tensors_of(value)] for name, value in shared.items()}
        )
        names = [f"self.{name}" for name in marks if any(other.get(name) != marks[name] for other in others)]
        if names:
            what = "%s: differs between the processes, and checkpoints hold that of the first; %s"
            remedy = "average its gradients, or set its own_by_process: docs/several_processes.md, A step of your own"
            trainer.logger.warning(what, ", ".join(names), remedy)


def _marks_of(trainer):
    """{name: marks} of the attributes that no checkpoint holds."""
    stateful = stateful_attributes(trainer)
    apart = (getattr(trainer, name, None) for name in SAVED_APART)
    objects = [value for value in (*stateful.values(), *apart) if value is not None]
    modules = [value for value in objects if isinstance(value, torch.nn.Module)]
    tensors = (tensor for module in modules for tensor in _tensors_of(module))
    saved = set(map(id, itertools.chain(objects, tensors)))
    others = {name: value for name, value in vars(trainer).items() if name not in {*stateful, *SAVED_APART, *_KNOWN}}
    return {name: list(itertools.islice(_marks(value, saved), _MOST_PARTS)) for name, value in others.items()}


def _marks(value: Any, saved: set[int], depth: int = 0) -> Iterator[Any]:
    """Yield what differs once a value has changed; nothing of other objects than these kinds, and of saved ones.

    No number of a tensor is read: it is known by its identity, and by its version, which each change in place raises.
    """
    if id(value) in saved or depth > _MAX_DEPTH:
        return
    depth += 1
    if isinstance(value, torch.Tensor):
        yield from (weakref.ref(value), 0 if is_lazy(value) or value.is_inference() else value._version)
    elif isinstance(value, (np.ndarray, np.generic)):
        yield zlib.crc32(value.tobytes()) if value.nbytes <= _MOST_BYTES else value.nbytes
    elif isinstance(value, _PLAIN):
        yield value
    elif isinstance(value, dict):  # by dict's own methods: those of a subclass may load data, or raise
        yield from _marks([*dict.keys(value), *dict.values(value)], saved, depth)
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        yield len(value)
        for part in [*value]:  # another thread may add to it
            yield from _marks(part, saved, depth)
    elif isinstance(value, torch.nn.Module):  # in a list or dict, as the rest is
        yield from _marks(_tensors_of(value), saved, depth)
    elif isinstance(value, torch.Generator):
        yield zlib.crc32(value.get_state().numpy().tobytes())
    elif isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):  # which has no state
        yield from _marks(value.getstate(), saved, depth)
    elif isinstance(value, np.random.Generator):
        yield from _marks(value.bit_generator.state, saved, depth)
    elif isinstance(value, np.random.RandomState):
        yield from _marks(value.get_state(legacy=False), saved, depth)
    elif isinstance(value, torch.optim.Optimizer):
        yield from _marks(list(value.state.values()), saved, depth)


def _is_shared(value):
    """Whether a resume gives the attribute, a module, the first process's state in all."""
    return isinstance(value, torch.nn.Module) and not getattr(value, "own_by_process", False) and not is_sharded(value)


def _checksum(tensor):
    if is_lazy(tensor):
        return 0
    return zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def _tensors_of(module):
    return [*module.parameters(), *module.buffers()]


def _are_same(one, other):
    """Whether two lists of marks are equal; two references are to one object if they are one."""
    if len(one) != len(other):
        return False
    pairs = zip(one, other, strict=True)
    return all(a is b or (isinstance(a, _PLAIN) and isinstance(b, _PLAIN) and a == b) for a, b in pairs)
