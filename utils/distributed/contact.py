"""Processes leave a note in a store when they end, so that the others can report which one is gone, where and why.

Each remembers its own place. Where a process was killed, nobody knows; the process that reports it names its own place.
torch lacks this: its monitored_barrier names the ranks that miss one call, its launcher's error files reach only the
launcher of that host, and its NCCL monitors name collectives. None knows the epoch or tells the other processes.
"""

import contextlib
import json
import signal
import threading
import time
import uuid
from typing import Any

import torch.distributed as dist

from utils.distributed.launch import rank, world_size
from utils.errors import print_error

_SECONDS_TO_SAY = {False: 1.0, True: 2.0}  # how long to wait for what the others say; True: after a time-out
_AGAIN = "resume with the same command and -r auto"

_store: Any = None
_place: tuple[int, int] | None = None


def open_store(found: Any) -> None:
    """Leave notes in this torch Store, through which the processes have found each other."""
    global _store
    _store = found


def close_store() -> None:
    """Forget the store and the place."""
    global _store, _place
    _store = _place = None


def store() -> Any:
    """The torch Store through which the processes have found each other; None outside joined()."""
    return _store


def seen_at(place: tuple[int, int] | None) -> None:
    """Remember where this process is, (epoch, batches done); only its last note puts that in the store.

    A FileStore grows with each value, so no place is written there after every step.
    """
    global _place
    _place = place


def store_of_start(shared: Any, seconds: float) -> Any:
    """A new part of the store that torchrun serves, for this start of the processes.

    torchrun has one store for all restarts, and its count of restarts differs between hosts (pytorch issue 108158), so
    values of an earlier start could be taken for new ones. The first process names the part and lists the names that it
    has received, from which the others see that it was started with them. Raises torch's DistError if not all processes
    have come after so many seconds.
    """
    name = uuid.uuid4().hex
    until = time.monotonic() + seconds
    if rank():
        shared.set(f"start/here/{rank()}", name)
    while True:
        if rank():
            offered, *heard = json.loads(shared.get("start/offer"))  # waits until there is one
            if heard[rank() - 1 : rank()] == [name]:
                shared.set(f"start/{offered}/{rank()}", "")
                return dist.PrefixStore(offered, shared)  # pyright: ignore[reportPrivateImportUsage]
        elif shared.check(_keys("start/here")):
            shared.set("start/offer", json.dumps([name, *(shared.get(key).decode() for key in _keys("start/here"))]))
            if shared.check(_keys(f"start/{name}")):
                return dist.PrefixStore(name, shared)  # pyright: ignore[reportPrivateImportUsage]
        if time.monotonic() > until:
            raise dist.DistError(f"not all have come in {seconds:g} seconds")
        time.sleep(0.02)


def _keys(what):
    """The keys of all processes but this one."""
    return [f"{what}/{other}" for other in range(world_size()) if other != rank()]


def has_ended(status: int, why: str = "") -> None:
    """Tell the others that this process ends with this exit status, for a reason of its own."""
    with contextlib.suppress(Exception):  # there may be nobody left to tell
        _store.set(f"ended/{rank()}", json.dumps([status, why, _place]))


def is_lost(error: BaseException) -> bool:
    """Whether torch raised the error because another process is gone, or does not answer in time."""
    return isinstance(error, RuntimeError) and ("gloo/transport/" in str(error) or isinstance(error, dist.DistError))


def report_lost(error: BaseException, seconds: float) -> int:
    """Return the exit status for an error that is_lost, after one of the remaining processes has reported it.

    seconds: parallel.timeout_seconds. The status is never 0, and 2 only if another process has ended with it.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a launcher ends the remaining processes a second too early
    timed_out = "timed out" in str(error).lower()
    answers = _ask(timed_out)
    if answers is None:
        print_error(f"rank {rank()}: {_in_short(error)} {_at(_place)}; {_AGAIN}")
        return 1
    ended, lost = answers
    first = min(ended, default=0)
    status, why, its_place = ended.get(first, (1, "", None))
    if rank() != min(lost):
        return status or 1
    missing = [number for number in range(world_size()) if number not in lost]
    named = " and ".join(f"rank {number}" for number in missing)
    if ended:
        if status != 2 and (first or status in (0, 1)):  # else it has reported the reason itself
            why = why or f"status {status}"
            print_error(f"rank {first} has ended {_at(its_place)} ({why}), and with it the run; {_AGAIN}")
        return status or 1
    what = f"lost contact with {named}" if missing else _in_short(error)
    if missing and any(lost.values()):
        what = f"waited {seconds:g} seconds (parallel.timeout_seconds) in vain for {named}"
    print_error(f"{what}; rank {rank()} was {_at(_place)}; {_AGAIN}")
    return status or 1


def _ask(timed_out):
    """({rank: [exit status, reason, place]} that ended, {rank: whether it timed out} that lost contact), or None."""
    answers = []

    def ask():
        with contextlib.suppress(Exception):  # the process that serves the store may be gone
            _store.set(f"lost/{rank()}", json.dumps(timed_out))
            until = time.monotonic() + _SECONDS_TO_SAY[timed_out]
            while time.monotonic() < until and not _store.check(_keys("lost")):
                time.sleep(0.05)
            answers.append([_found("ended"), _found("lost")])

    thread = threading.Thread(target=ask, daemon=True)  # a store that is cut off never answers
    thread.start()
    thread.join(_SECONDS_TO_SAY[timed_out] + 2)
    return answers[0] if answers else None


def _found(what):
    keys = {number: f"{what}/{number}" for number in range(world_size())}
    return {number: json.loads(_store.get(key)) for number, key in keys.items() if _store.check([key])}


def _at(place):
    """Return "in epoch 2 after batch 3", or "before the first epoch"."""
    if place is None:
        return "before the first epoch"
    epoch, batches_done = place
    return f"in epoch {epoch} after batch {batches_done}" if batches_done else f"at the beginning of epoch {epoch}"


def _in_short(error):
    """The message of an error of torch's transport, without its place in the source and its advice."""
    text = str(error).splitlines()[0].partition("] ")[2] or str(error).splitlines()[0]
    return "lost contact with the others: " + text.partition(". This is typically")[0].rstrip(". ")
