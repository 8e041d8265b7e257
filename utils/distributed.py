"""The processes of a run, which torchrun or this file's launch starts: one process is a world of size one.

Everything that asks how many there are asks here. In a world of one nothing below communicates, waits or costs.
"""

import contextlib
import functools
import gc
import hashlib
import logging
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from datetime import timedelta
from typing import NamedTuple

from utils import contact
from utils.config.files import differences
from utils.device import prepare_device
from utils.errors import UserError, print_error

DEFAULT_TIMEOUT_SECONDS = 600.0
_SAY_SECONDS = 0.2  # how long the other processes wait to see whether the first one says the same
_LAST_WORDS_SECONDS = 2.0  # and where it is the end of all of them anyway
_ROUND_SECONDS = 0.25  # between two rounds of an Agreement
_MOST_STEPS = 50  # between them: steps may become slow at once, as where validation begins
_LET_GO_SECONDS = 0.2  # in which threads of torch's let go of the last things that were sent
_times_said = Counter()  # by this process
_meshes = []  # of sharded models
_group = None  # of all processes, on the CPU whatever the device: what they tell each other does not wait for a GPU


class Part(NamedTuple):
    """A process's part of a batch that all share."""

    own: int
    """Samples that count for this process. It may be 0: the one sample that it reads then is not its own."""
    total: int
    """Samples of the batch."""


@functools.cache
def world_size():
    """How many processes there are, as a launcher says in the environment."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


@functools.cache
def rank():
    """This process's number, from 0."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def is_main():
    """Whether this is the process that decides, and writes files."""
    return rank() == 0


# --- data ---


def part_of(total, number=None):
    """The Part of a batch of so many samples that a process has, by default this one.

    The first ones have one more if need be.
    """
    each, more = divmod(total, world_size())
    return Part(each + ((rank() if number is None else number) < more), total)


def own_samples(indices):
    """Those of a batch's samples that this process reads: the next ones after the process before it.

    The first of the batch if there are fewer samples than processes: every process has to take part in every step.
    """
    if world_size() == 1:
        return indices
    each, more = divmod(len(indices), world_size())
    start = rank() * each + min(rank(), more)
    return indices[start : start + each + (rank() < more)] or indices[:1]


def part_of_batch(loader, batch_idx):
    """The Part of a BaseDataLoader's batch, counted from 0; None in a world of one, where all of it is its own."""
    if world_size() == 1:
        return None
    return part_of(min(loader.batch_size, len(loader.sampler) - batch_idx * loader.batch_size))


def seed_of_process(seed):
    """The seed from which this process draws what is not a matter of the data, such as dropout."""
    if is_main():
        return seed
    from utils.seed import derive_seed  # imports NumPy, which a mistake in a config need not wait for

    return derive_seed(seed, rank())


# --- what processes tell each other ---


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


# --- the beginning and the end ---


@contextlib.contextmanager
def joined(config, resume=None):
    """Within it this process is one of the run's; in a world of one it does nothing.

    config: the merged config, a plain dict. resume: text that tells which checkpoint the run goes on from. Raises
    UserError if the processes cannot find each other, or were not given the same. An error ends all processes, and is
    told once; so does the end of one of them, which the others tell of.
    """
    if world_size() == 1:
        yield
        return
    _join(config)
    try:
        _require_same({"config": config, "resume": resume, "torch": _torch_version()})
        yield
        barrier()
        _end_threads()
    except UserError as error:
        contact.has_ended(2)
        if is_first_to_say(str(error), _LAST_WORDS_SECONDS):
            print_error("\n".join(who() + line for line in str(error).splitlines()))
        _end_on_gpu(2)
        raise SystemExit(2) from None
    except BaseException as error:
        if contact.is_lost(error):
            status = contact.report_lost(error, rank(), world_size(), _timeout_seconds(config))
            _end_on_gpu(status)
            raise SystemExit(status) from None
        contact.has_ended(_status_of(error))
        _end_on_gpu(_status_of(error), error)
        raise
    finally:
        _leave()


def process_device(settings):
    """The torch.device of this process. settings: with n_gpu and device. Raises UserError if they do not fit."""
    if world_size() == 1:
        return prepare_device(settings.n_gpu, settings.device)[0]
    import torch

    local_rank, on_host = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    n_gpu, name = settings.n_gpu, settings.device
    found = torch.cuda.device_count() if name in ("auto", "cuda") and n_gpu else 0
    if n_gpu > 1 and (min(n_gpu, found) or n_gpu) != on_host:
        raise UserError(
            f"n_gpu: {n_gpu}, and the launcher has started {_count(on_host)} on this host; start as many, or set "
            "n_gpu to 1 to leave the number to the launcher"
        )
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device: {name!r} is one device, and there are {_count(world_size())}; use 'auto' or 'cpu'")
    if not found and name != "cuda":
        return torch.device("cpu")
    if "LOCAL_RANK" not in os.environ:
        raise UserError("LOCAL_RANK: not set, which says which GPU is whose; start with torchrun, which sets it")
    on_host = max(on_host, local_rank + 1)
    if found < on_host:
        raise UserError(f"{_count(on_host)} on this host, and torch finds {found} CUDA devices; start one for each")
    return torch.device(f"cuda:{local_rank}")


def who():
    """ "rank 1: " before what a process has to say, "" for the first one."""
    return "" if is_main() else f"rank {rank()}: "


def is_first_to_say(text, seconds=_SAY_SECONDS):
    """Whether this process should say it: always the first one; another one unless the first says the same just now.

    seconds: how long to wait for that.
    """
    import torch.distributed as dist

    if world_size() == 1 or not dist.is_initialized():
        return is_main()
    key = f"said/{hashlib.sha256(text.encode()).hexdigest()}"
    _times_said[key] += 1
    store = dist.distributed_c10d._get_default_store()
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


def _join(config):
    import torch.distributed as dist

    from utils.config.schema import RunSettings

    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UserError(f"{', '.join(missing)}: not set; start several processes with torchrun, which sets it")
    if not 0 <= rank() < world_size():
        raise UserError(f"RANK: {rank()} of WORLD_SIZE {world_size()}; ranks count from 0")
    several_hosts = int(os.environ.get("GROUP_WORLD_SIZE", 1)) > 1
    may_restart = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0
    if several_hosts and may_restart and os.environ.get("TORCHELASTIC_RUN_ID") == "none":
        raise UserError(
            "--max-restarts: on several hosts, give torchrun an --rdzv-id too, by which a restart finds its run"
        )
    device = process_device(RunSettings.model_validate(config))
    wanted, started = (config.get("parallel") or {}).get("processes"), int(os.environ.get("LOCAL_WORLD_SIZE", 0))
    if started and wanted not in (None, started):
        raise UserError(f"parallel.processes: {wanted}, and the launcher has started {_count(started)} on this host")
    timeout = timedelta(seconds=_timeout_seconds(config))
    late = threading.Timer(timeout.total_seconds() + 1, _give_up)  # torch waits for good for what is no store
    late.daemon = True
    late.start()
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
        if "TORCHELASTIC_RUN_ID" in os.environ:
            store = contact.store_of_start(store, rank(), world_size(), timeout.total_seconds())
        place = {"store": store, "rank": rank(), "world_size": world_size(), "timeout": timeout}
        if device.type == "cuda":
            import torch

            torch.cuda.set_device(device)  # what names no GPU means this process's
            dist.init_process_group("nccl", device_id=device, **place)
        else:
            dist.init_process_group("gloo", **place)
        global _group
        _group = dist.new_group(backend="gloo", timeout=timeout)
    except (dist.DistError, ValueError, RuntimeError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).splitlines()[0]
        raise UserError(f"{who()}cannot meet the other {world_size() - 1} at {place}: {reason}") from None
    finally:
        late.cancel()


def _give_up():
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    print_error(f"{who()}cannot meet the other {world_size() - 1} at {place}: no answer")
    os._exit(2)


def _status_of(error):
    """The exit status that an error ends a process with."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return error.code or 0
    return 1


def _end_on_gpu(status, untold=None):
    """End a process of a GPU at once: one that leaves the group waits for kernels, and they for what may be gone.

    untold: an error that nobody has told of yet. Returns on the CPU, where nothing waits for good.
    """
    if not _on_gpu():
        return
    if isinstance(untold, KeyboardInterrupt):
        if is_main():
            print("interrupted", file=sys.stderr)
    elif isinstance(untold, SystemExit):
        if isinstance(untold.code, str):
            print(untold.code, file=sys.stderr)
    elif untold is not None:
        traceback.print_exception(untold)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody may be reading any more
            stream.flush()
    os._exit(status)


def _on_gpu():
    import torch.distributed as dist

    return dist.get_backend() == "nccl"


def _timeout_seconds(config):
    return (config.get("parallel") or {}).get("timeout_seconds", DEFAULT_TIMEOUT_SECONDS)


def end_threads_with(mesh):
    """Have a run that ends well end the threads with which torch sends what is sharded over the DeviceMesh.

    What torch caches of sharded tensors keeps the mesh, and so the threads. One that lets go of a tensor while
    Python ends asks for Python's lock, is ended for that before Python 3.14, and takes the process along: "terminate
    called without an active exception".
    """
    _meshes.append(mesh)


def _end_threads():
    if not _meshes:
        return
    for mesh in _meshes:
        getattr(mesh, "_pg_registry", {}).clear()  # where it keeps its groups; torch has no other way
    _meshes.clear()
    gc.collect()  # the model has them too


def _leave():
    import torch.distributed as dist

    global _group
    _group = None
    dist.destroy_process_group()
    if "torch.distributed.tensor" in sys.modules:
        time.sleep(_LET_GO_SECONDS)  # see end_threads_with, for runs that end early


def _require_same(start):
    """Raise UserError, naming the differences, if the processes were not started with the same."""
    first, *others = gather({**start, "host": platform.node()})
    for number, other in enumerate(others, start=1):
        changed = differences(first | {"host": None}, other | {"host": None})
        if changed:
            raise UserError(
                f"rank {number}, on {other['host']}, was started with something else than rank 0, on {first['host']}: "
                f"{'; '.join(changed)}"
            )


def _torch_version():
    import torch

    return torch.__version__


def _count(processes):
    return "1 process" if processes == 1 else f"{processes} processes"


def _on_cpu(value):
    """The value with its tensors in host memory."""
    if hasattr(value, "detach"):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_on_cpu, value))
    return value
