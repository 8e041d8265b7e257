"""How one of several processes joins the others, on which device, and how all of them end when one does."""

import contextlib
import functools
import gc
import logging
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from utils.device import accelerator
from utils.distributed import contact, messages
from utils.distributed.launch import is_main, meeting_folder, rank, who, world_size
from utils.distributed.messages import gather, is_first_to_say
from utils.errors import UserError, log_error, print_error, quantity
from utils.files import differences

DEFAULT_TIMEOUT_SECONDS = 600.0
_LAST_WORDS_SECONDS = 2.0  # how long to wait, at the end, for what the first process says
_RELEASE_SECONDS = 0.2  # for torch's threads to release what was sent last
_meshes: list[DeviceMesh] = []  # of sharded models


@contextlib.contextmanager
def joined(config: dict[str, Any], resume: str | None, device: str | None) -> Iterator[None]:
    """See world.joined."""
    _join(config, device)
    try:
        _require_same({"config": config, "resume": resume, "torch": torch.__version__})
        yield
        gather(None)  # wait for all
        _end_threads()
    except UserError as error:
        contact.has_ended(2)
        if is_first_to_say(str(error), _LAST_WORDS_SECONDS):
            print_error("\n".join(who() + line for line in str(error).splitlines()))
        _end_on_gpu(2)
        raise SystemExit(2) from None
    except BaseException as error:
        if contact.is_lost(error):
            status = contact.report_lost(error, _timeout_seconds(config))
            _end_on_gpu(status)
            raise SystemExit(status) from None
        status, why = 1, ""
        if isinstance(error, Exception):
            why = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            log_error(who() + "".join(traceback.format_exception(error)).rstrip())
        elif isinstance(error, KeyboardInterrupt):
            status = 128 + signal.SIGINT
        elif isinstance(error, SystemExit) and isinstance(error.code, int | None):
            status = error.code or 0
        contact.has_ended(status, why)
        _end_on_gpu(status, error)
        raise
    finally:
        _leave()


def process_device(n_gpu: int, name: str) -> torch.device:
    """See world.process_device."""
    kind, found = shared_accelerators()
    if name == "auto" and n_gpu and not found and is_main():
        _tell_of_idle()
    if name == kind != "cpu" and not found and accelerator()[1]:
        raise UserError(
            f"device: torch.distributed has no backend here for {name!r}, and there are {_count(world_size())}; use "
            "'auto' or 'cpu'"
        )
    local_rank, on_host = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    found = found if name in ("auto", kind) and n_gpu else 0
    if n_gpu > 1 and (min(n_gpu, found) or n_gpu) != on_host:
        raise UserError(
            f"n_gpu: {n_gpu}, and the launcher has started {_count(on_host)} on this host; start as many, or set "
            "n_gpu to 1 to leave the number to the launcher"
        )
    if name not in ("auto", "cpu", "cuda") and not found:
        raise UserError(f"device: {name!r} is one device, and there are {_count(world_size())}; use 'auto' or 'cpu'")
    if not found and name in ("auto", "cpu"):
        return torch.device("cpu")
    if "LOCAL_RANK" not in os.environ:
        raise UserError("LOCAL_RANK: not set, and it says which GPU is whose; start with torchrun, which sets it")
    on_host = max(on_host, local_rank + 1)
    if found < on_host:
        asked = f"{(kind if name == 'auto' else name).upper()} device"
        raise UserError(f"{_count(on_host)} on this host, and torch finds {quantity(found, asked)}; start one for each")
    return torch.device(f"{kind}:{local_rank}")


def shared_accelerators() -> tuple[str, int]:
    """Return (kind, number) of the accelerators with which several processes can train, one each.

    The number is 0 where torch.distributed has no backend of the kind's own, as for mps, and for cuda on Windows.
    """
    kind, found = accelerator()
    return kind, found if _backend_for(kind) != "gloo" else 0


def _backend_for(kind):
    """The backend of torch.distributed for a kind of device: "gloo" for the CPU, and for what has none of its own."""
    try:
        backend = dist.get_default_backend_for_device(kind)
    except ValueError:
        return "gloo"
    return backend if dist.is_backend_available(backend) else "gloo"  # torch names those that it was built without, too


@functools.cache
def _tell_of_idle():
    """Say, once, that several processes do not use an accelerator that one process would use."""
    kind, found = accelerator()
    if found:
        several = f"{found} {kind.upper()} device{'s' if found > 1 else ''} unused"
        logging.getLogger("train").warning(
            "device: torch.distributed has no backend for it; several processes train on the CPU, with %s", several
        )


def _join(config, device_name):
    _require_launcher((config.get("parallel") or {}).get("processes"))
    device = process_device(config.get("n_gpu", 1), device_name or config.get("device", "auto"))
    timeout = timedelta(seconds=_timeout_seconds(config))
    # torch waits forever for a server that is not a store
    late = threading.Timer(timeout.total_seconds() + 1, _give_up)
    late.daemon = True
    late.start()
    try:
        store = _open_store(timeout)
        contact.open_store(store)
        _require_same_kind(store, device.type)  # processes with and without a GPU would wait forever for each other
        place = {"store": store, "rank": rank(), "world_size": world_size(), "timeout": timeout}
        if device.type != "cpu":
            torch.accelerator.set_device_index(device)  # what names no GPU means this process's
        # bound to another device than CUDA's, torch makes no group of gloo, as messages has
        bound = {"device_id": device} if device.type == "cuda" else {}
        dist.init_process_group(_backend_for(device.type), **bound, **place)
        messages.open_group(timeout)
    except UserError:
        raise
    except (dist.DistError, ValueError, RuntimeError) as error:
        raise UserError(_cannot_meet(str(error).splitlines()[0])) from None
    finally:
        late.cancel()


def _require_launcher(wanted):
    """Raise UserError unless the environment is complete and fits. wanted: parallel.processes."""
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not (meeting_folder() or os.environ.get(name))]
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
    started = int(os.environ.get("LOCAL_WORLD_SIZE", 0))
    if started and wanted not in (None, started):
        raise UserError(f"parallel.processes: {wanted}, and the launcher has started {_count(started)} on this host")


def _open_store(timeout):
    """The store through which the processes of this start find each other: a file, or torchrun's."""
    if folder := meeting_folder():
        store = dist.FileStore(os.path.join(folder, "store"))  # pyright: ignore[reportPrivateImportUsage]
        store.set_timeout(timeout)
        return store
    store, _, _ = next(dist.rendezvous("env://", timeout=timeout))  # pyright: ignore[reportPrivateImportUsage]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return contact.store_of_start(store, timeout.total_seconds())
    return store


def _cannot_meet(reason):
    """The message of an error of processes that have not found each other."""
    folder = meeting_folder()
    place = f"in {folder} (below TMPDIR)" if folder else "at {MASTER_ADDR}:{MASTER_PORT}".format_map(os.environ)
    return f"{who()}cannot meet the other {world_size() - 1} {place}: {reason}"


def _require_same_kind(store, kind):
    """Raise UserError, in the first process and in one that differs from it, if not all are on one kind of device."""
    store.set(f"device/{rank()}", kind)
    for number in range(1, world_size()) if is_main() else [0]:
        other = store.get(f"device/{number}").decode()
        if other != kind:
            raise UserError(f"device: rank {number} is on {other}, and rank {rank()} on {kind}; use one kind for all")


def _give_up():
    print_error(_cannot_meet("no answer"))
    os._exit(2)


def _require_same(start):
    """Raise UserError, naming the differences, if the processes were not started with the same values."""
    (first, host), *others = gather((start, platform.node()))
    for number, (other, other_host) in enumerate(others, start=1):
        changed = differences(first, other)
        if changed:
            raise UserError(
                f"rank {number}, on {other_host}, was started with something else than rank 0, on {host}: "
                f"{'; '.join(changed)}"
            )


def _end_on_gpu(status, unreported=None):
    """End a process that uses a GPU at once: leaving the group waits for kernels that may wait for a lost process.

    unreported: an error that nobody has reported yet. Returns on the CPU, where leaving does not wait.
    """
    if not _on_gpu():
        return
    if isinstance(unreported, KeyboardInterrupt):
        if is_main():
            print("interrupted", file=sys.stderr)
    elif isinstance(unreported, SystemExit):
        if isinstance(unreported.code, str):
            print(unreported.code, file=sys.stderr)
    elif unreported is not None:
        traceback.print_exception(unreported)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody may be reading any more
            stream.flush()
    os._exit(status)


def _on_gpu():
    return dist.get_backend() != "gloo"


def _timeout_seconds(config):
    return (config.get("parallel") or {}).get("timeout_seconds", DEFAULT_TIMEOUT_SECONDS)


def end_threads_with(mesh: DeviceMesh) -> None:
    """At the end of a run without errors, end the threads with which torch sends tensors over this DeviceMesh.

    torch's caches of sharded tensors keep the mesh, and the mesh its threads. A thread that releases a tensor while
    Python shuts down needs Python's lock; before Python 3.14 that ends the thread, and with it the process: "terminate
    called without an active exception". torch has no remedy: one was given up in pytorch pull request 179291.
    """
    _meshes.append(mesh)


def _end_threads():
    for mesh in _meshes:
        # a DeviceMesh keeps its groups there, and has no public method to release them
        getattr(mesh, "_pg_registry", {}).clear()
    if _meshes:
        _meshes.clear()
        gc.collect()  # the model has them too


def _leave():
    contact.close_store()
    messages.close_group()
    dist.destroy_process_group()
    if "torch.distributed.tensor" in sys.modules:
        time.sleep(_RELEASE_SECONDS)  # see end_threads_with, for runs that end early


def _count(processes):
    return quantity(processes, "process")
