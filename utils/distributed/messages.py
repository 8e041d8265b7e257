"""What several processes tell each other; world.py asks for it. Each function must be called by all of them.

They use a group of their own on the CPU, so that they never wait for a GPU.
"""

import hashlib
import os
import signal
import time
from collections import Counter
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from utils.distributed import contact
from utils.distributed.launch import is_main, world_size

T = TypeVar("T")

_SAY_SECONDS = 0.2  # how long the other processes wait to see whether the first one says the same
_ROUND_SECONDS = 0.25  # between two rounds of an Agreement
_MOST_STEPS = 50  # between them: steps may become slow at once, as where validation begins
_times_said = Counter()  # by this process
_launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
_group: Any = None


def open_group(timeout: timedelta) -> None:
    """Make the ProcessGroup in which all of them tell each other plain values."""
    global _group
    _group = dist.new_group(backend="gloo", timeout=timeout)


def close_group() -> None:
    """Forget the group, which torch destroys with all others."""
    global _group
    _group = None


def group() -> Any:
    """Return the group of all processes for plain values, as torch takes it."""
    return _group


def gather(value: T) -> list[T]:
    """[value of each process]."""
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, _on_cpu(value), group=_group)
    return values


def gather_to_main(value: T) -> list[T]:
    """[value of each process] in the first process, [its own] in the others."""
    values: Any = [None] * world_size() if is_main() else None
    dist.gather_object(_on_cpu(value), values, dst=0, group=_group)
    return values or [value]


def broadcast(value: T) -> T:
    """The first process's value."""
    values: list[Any] = [_on_cpu(value) if is_main() else None]
    dist.broadcast_object_list(values, src=0, group=_group)
    return values[0]


def _on_cpu(value):
    """The value with its tensors in host memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_on_cpu, value))
    return value


def sums(numbers: list[float]) -> list[float]:
    """[the sum of each number over the processes]."""
    totals = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(totals, group=_group)
    return totals.tolist()


def largest(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, on the device of the run, with each entry the largest one of all processes."""
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor


def total_of(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of the tensors of all processes, on the device of the run."""
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def same_buffers(model: torch.nn.Module) -> None:
    """Give the model's buffers the values that they have in the first process."""
    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)


class Agreement:
    """Makes known to all processes, at the same step, what any of them asks for between two steps.

    Nobody waits: the answers of a round travel while training continues, and are read at the next round. The first
    process sets the number of steps between two rounds from the time that its steps take.
    """

    def __init__(self) -> None:
        self._asked: Any = None
        self._answers: Any = None  # on their way
        self._work = None
        self._steps_left = 0
        self._every = 1
        self._began = time.monotonic()

    def __call__(self, *asked: int, place: tuple[int, int] | None = None) -> tuple[int, ...]:
        """The largest number of all processes for each number asked for, as of the round before.

        place: (epoch, batches done), which an error names if a process is lost.
        """
        contact.seen_at(place)
        self._asked = list(map(max, self._asked or asked, asked))
        self._steps_left -= 1
        if self._work is not None and self._steps_left > 0:
            return (0,) * len(asked)
        agreed = self._finish() or (0,) * len(asked)
        if any(agreed):  # and done now, by all
            self._asked = [0] * len(asked)
        self._start()
        return agreed

    def close(self) -> None:
        """Wait for what is still on its way; at the run's end."""
        self._finish()

    def _start(self):
        if _launcher not in (None, os.getppid()) and not any(self._asked):  # else what came before is obeyed first
            os.kill(os.getpid(), signal.SIGTERM)  # the launcher was killed, and nobody would end these processes
        elapsed, self._began = time.monotonic() - self._began, time.monotonic()
        every = int(self._every * _ROUND_SECONDS / max(elapsed, 1e-9))
        every = max(1, min(every, 2 * self._every, _MOST_STEPS))
        self._answers = torch.tensor([*self._asked, every if is_main() else 0], dtype=torch.int64)
        self._work = dist.all_reduce(self._answers, dist.ReduceOp.MAX, group=_group, async_op=True)
        self._asked = None

    def _finish(self):
        """The answers of the round under way; None if there is none."""
        if self._work is None:
            return None
        self._work.wait()
        self._work = None
        *agreed, self._every = self._answers.tolist()
        self._steps_left = self._every
        return tuple(agreed)


def is_first_to_say(text: str, seconds: float = _SAY_SECONDS) -> bool:
    """Whether this process should say it: the first one, or another one unless the first says the same.

    seconds: how long another one waits for that. Only this function may be called by some processes alone.
    """
    store = contact.store()
    if store is None:
        return is_main()
    key = f"said/{hashlib.sha256(text.encode()).hexdigest()}"
    _times_said[key] += 1
    patience = time.monotonic() + seconds
    try:
        if is_main():
            store.add(key, 1)
            return True
        while not (said := store.add(key, 0) >= _times_said[key]) and time.monotonic() < patience:
            time.sleep(_SAY_SECONDS / 10)
        return not said
    except dist.DistError:  # nobody is there any more to ask
        return True
