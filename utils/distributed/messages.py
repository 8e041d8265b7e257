"""What the processes of a run tell each other. In a world of one nothing here communicates, waits or costs."""

import hashlib
import os
import signal
import time
from collections import Counter

from utils.distributed import contact
from utils.distributed.world import is_main, world_size
from utils.errors import UserError

_SAY_SECONDS = 0.2  # how long the other processes wait to see whether the first one says the same
_ROUND_SECONDS = 0.25  # between two rounds of an Agreement
_MOST_STEPS = 50  # between them: steps may become slow at once, as where validation begins
_times_said = Counter()  # by this process
_launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
_group = None  # of all processes, on the CPU whatever the device: what they tell each other does not wait for a GPU


def open_group(timeout):
    """Have the processes of torch's default group, a backend of GPUs maybe, tell each other plain values."""
    import torch.distributed as dist

    global _group
    _group = dist.new_group(backend="gloo", timeout=timeout)


def close_group():
    """Forget the group, which torch is about to destroy with all others."""
    global _group
    _group = None


def gather(value):
    """[value of each process]. For tensors and plain values; tensors arrive on the CPU."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values = [None] * world_size()
    dist.all_gather_object(values, _on_cpu(value), group=_group)
    return values


def gather_to_main(value):
    """[value of each process] in the first process; [its own] in another one. Tensors arrive on the CPU."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values = [None] * world_size() if is_main() else None
    dist.gather_object(_on_cpu(value), values, dst=0, group=_group)
    return values or [value]


def broadcast(value):
    """The first process's value."""
    if world_size() == 1:
        return value
    import torch.distributed as dist

    values = [_on_cpu(value) if is_main() else None]
    dist.broadcast_object_list(values, src=0, group=_group)
    return values[0]


def decided_by_main(function):
    """function(), which the first process alone calls; its UserError ends the others too."""
    if world_size() == 1:
        return function()
    error = result = None
    if is_main():
        try:
            result = function()
        except UserError as raised:
            error = raised
    result, failed = broadcast((result, error is not None))
    if error is not None:
        raise error
    if failed:
        raise SystemExit(2)  # the first process says why
    return result


def sums(numbers):
    """[the sum of each number over the processes], as floats: quicker than gather."""
    if world_size() == 1:
        return numbers
    import torch
    import torch.distributed as dist

    totals = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(totals, group=_group)
    return totals.tolist()


def any_of(value):
    """The first process's value that is not None; None if there is none."""
    return next((one for one in gather(value) if one is not None), None)


def barrier():
    """Wait for all processes."""
    gather(None)


def same_buffers(model):
    """Give the model's buffers, such as the statistics of batch norm, the values that the first process has."""
    if world_size() == 1:
        return
    import torch.distributed as dist

    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)


def process_group():
    """The group of all processes in which they tell each other plain values; None in a world of one."""
    return _group


def largest(tensor):
    """The tensor, with each entry the largest that any process has."""
    if world_size() > 1:
        import torch.distributed as dist

        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor


class Agreement:
    """What any process asks for between two steps, known to all of them at the same step.

    Nobody waits: the answers of a round travel while training goes on, and are read at the next one. The first process
    sets how many steps are between two rounds, by the time that its steps take.
    """

    def __init__(self):
        self._asked = None
        self._place = None
        self._answers = None  # on their way
        self._work = None
        self._steps_left = 0
        self._every = 1
        self._began = time.monotonic()

    def __call__(self, *asked, place=None):
        """The largest numbers that any process has asked for by the round before; of one process, its own.

        place: (epoch, batches done), which the others name if this process does not come to the next round.
        """
        if world_size() == 1:
            return asked
        self._place = place
        self._asked = list(map(max, self._asked or asked, asked))
        self._steps_left -= 1
        if self._work is not None and self._steps_left > 0:
            return (0,) * len(asked)
        agreed = self._finish(len(asked))
        if any(agreed):  # and done now, by all
            self._asked = [0] * len(asked)
        self._start()
        return agreed

    def close(self):
        """Wait for what is still on its way; at the run's end."""
        self._finish(0)

    def _start(self):
        import torch
        import torch.distributed as dist

        contact.seen_at(self._place)
        if _launcher not in (None, os.getppid()) and not any(self._asked):  # else what came before is obeyed first
            os.kill(os.getpid(), signal.SIGTERM)  # the launcher was killed, and nobody would end these processes
        elapsed, self._began = time.monotonic() - self._began, time.monotonic()
        every = int(self._every * _ROUND_SECONDS / max(elapsed, 1e-9))
        every = max(1, min(every, 2 * self._every, _MOST_STEPS))
        self._answers = torch.tensor([*self._asked, every if is_main() else 0], dtype=torch.int64)
        self._work = dist.all_reduce(self._answers, dist.ReduceOp.MAX, group=_group, async_op=True)
        self._asked = None

    def _finish(self, number):
        if self._work is None:
            return (0,) * number
        self._work.wait()
        self._work = None
        *agreed, self._every = self._answers.tolist()
        self._steps_left = self._every
        return tuple(agreed)


def is_first_to_say(text, seconds=_SAY_SECONDS):
    """Whether this process should say it: always the first one; another one unless the first says the same just now.

    seconds: how long to wait for that.
    """
    import torch.distributed as dist

    if world_size() == 1 or not dist.is_initialized():
        return is_main()
    key = f"said/{hashlib.sha256(text.encode()).hexdigest()}"
    _times_said[key] += 1
    store = contact.default_store()
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


def _on_cpu(value):
    """The value with its tensors in host memory."""
    if hasattr(value, "detach"):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_on_cpu, value))
    return value
