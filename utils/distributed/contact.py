"""What the processes of a run leave for each other in a store: where they are, and how they have ended.

So that, when one of them is gone, the others can say which one, and where. All of this is in vain, and silently so,
where the store is gone too.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import uuid
from pathlib import Path

from utils.distributed.launch import meeting_folder
from utils.errors import print_error

_SECONDS_TO_SAY = {False: 1.0, True: 2.0}  # how long to wait for what the others say; True: after a time-out
_AGAIN = "go on with the same command and -r auto"
_place = None


def store_of_start(store, rank, world_size, seconds):
    """The store without what processes have left in it that were here before a restart, as torchrun's own has it.

    The first process names a part of it that is new, and says whom it has heard: so the others know that it is not one
    from before who speaks. Raises torch's DistError if they have not all come after so many seconds.
    """
    import torch.distributed as dist

    name = uuid.uuid4().hex
    others = range(1, world_size)
    until = time.monotonic() + seconds
    if rank:
        store.set(f"start/here/{rank}", name)
    while True:
        if rank:
            offered, *heard = json.loads(store.get("start/offer"))  # waits until there is one
            if heard[rank - 1 : rank] == [name]:
                store.set(f"start/{offered}/{rank}", "")
                return dist.PrefixStore(offered, store)
        elif store.check([f"start/here/{other}" for other in others]):
            heard = [store.get(f"start/here/{other}").decode() for other in others]
            store.set("start/offer", json.dumps([name, *heard]))
            if store.check([f"start/{name}/{other}" for other in others]):
                return dist.PrefixStore(name, store)
        if time.monotonic() > until:
            raise dist.DistError(f"not all have come in {seconds:g} seconds")
        time.sleep(0.02)


def seen_at(place):
    """Remember where this process is, (epoch, batches of it that are done), and tell the others."""
    global _place
    _place = list(place) if place is not None else None
    _tell("place", _place)


def has_ended(status, why=""):
    """Tell the others that this process ends with this exit status, for a reason of its own."""
    _tell("ended", [status, why])


def is_lost(error):
    """Whether the error is what torch raises when another process is gone, or does not answer in time."""
    dist = sys.modules.get("torch.distributed")
    return isinstance(error, RuntimeError) and ("gloo/transport/" in str(error) or isinstance(error, dist.DistError))


def report_lost(error, rank, world_size, seconds):
    """The exit status for an error that is_lost, after one of the processes that have met it has told of it.

    seconds: after which a process gives up. The status is never 0, and 2 only if another process has ended with it.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by which a launcher ends who is left: a second too early
    timed_out = "timed out" in str(error).lower()
    answers = _ask_all(rank, world_size, timed_out)
    if answers is None:
        print_error(f"rank {rank}: {_in_short(error)}, {_at(_place)}; {_AGAIN}")
        return 1
    ended, lost, places = (answers[what] for what in ("ended", "lost", "place"))
    if ended:
        first = min(ended)
        status, why = ended[first]
        if rank == min(lost) and status != 2 and (first or status in (0, 1)):  # else it has said why
            place = f"{_at(places.get(first))} ({why or f'status {status}'})"
            print_error(f"rank {first} has ended {place}, and with it the run; {_AGAIN}")
        return status or 1
    missing = [number for number in range(world_size) if number not in lost]
    if rank == min(lost):
        print_error(_describe(missing, places, any(lost.values()) and seconds) or f"{_in_short(error)}, {_at(_place)}")
    return 1


def _describe(missing, places, seconds):
    """One line that names the missing processes; "" if there are none. seconds: that they were waited for, if so."""
    if not missing:
        return ""
    seen = [f"rank {number}, last seen {_at(places.get(number))}" for number in missing]
    what = f"waited {seconds:g} seconds (parallel.timeout_seconds) in vain for" if seconds else "lost contact with"
    return f"{_at(_place)}: {what} {'; '.join(seen)}; {_AGAIN}"


def _ask_all(rank, world_size, timed_out):
    """{"ended": {rank: status}, "lost": {rank: whether timed out}, "place": {rank: place}}; None without a store."""
    answers = []

    def ask():
        with contextlib.suppress(Exception):  # of a store whose process is gone
            answers.append(_ask(rank, world_size, timed_out))

    thread = threading.Thread(target=ask, daemon=True)  # the store may be cut off, and never answer
    thread.start()
    thread.join(_SECONDS_TO_SAY[timed_out] + 2)
    return answers[0] if answers else None


def _ask(rank, world_size, timed_out):
    store = _store()
    store.set(_key("lost", rank), json.dumps(timed_out))
    others = [number for number in range(world_size) if number != rank]
    until = time.monotonic() + _SECONDS_TO_SAY[timed_out]
    while time.monotonic() < until and not all(store.check([_key("lost", number)]) for number in others):
        time.sleep(0.05)
    return {
        what: {
            number: json.loads(store.get(_key(what, number)))
            for number in range(world_size)
            if store.check([_key(what, number)])
        }
        for what in ("ended", "lost", "place")
    }


def _tell(what, value):
    with contextlib.suppress(Exception):  # there is nobody any more to tell
        _store().set(_key(what), json.dumps(value))


def _key(what, rank=None):
    if rank is None:
        import torch.distributed as dist

        rank = dist.get_rank()
    return f"contact/{what}/{rank}"


def _store():
    return _Files(meeting_folder()) if meeting_folder() else default_store()


def default_store():
    """The store through which the processes of torch's default group found each other."""
    import torch.distributed as dist

    return dist.distributed_c10d._get_default_store()  # torch.distributed has no public function that returns it


class _Files:
    """What torch's stores do, in a file a key: torch's own FileStore grows with every value that it is given."""

    def __init__(self, folder):
        self._folder = Path(folder)

    def set(self, key, value):
        path = self._path(key)
        new = path.with_suffix(".new")
        new.write_text(value)
        os.replace(new, path)  # nobody reads half of it

    def get(self, key):
        return self._path(key).read_bytes()

    def check(self, keys):
        return all(self._path(key).exists() for key in keys)

    def _path(self, key):
        return self._folder / key.replace("/", "-")


def _at(place):
    """ "in epoch 2 after batch 3"; "before the first epoch" if there is no place yet."""
    if place is None:
        return "before the first epoch"
    epoch, batches_done = place
    return f"in epoch {epoch} after batch {batches_done}" if batches_done else f"at the beginning of epoch {epoch}"


def _in_short(error):
    """What an error of torch's transport says, without its place in the source and its advice."""
    text = str(error).splitlines()[0].partition("] ")[2] or str(error).splitlines()[0]
    return "lost contact with the others: " + text.partition(". This is typically")[0].rstrip(". ")
