"""Start the processes of a run on this host, with the part of torch's launcher that starts and watches processes.

torchrun has a rendezvous as well, a server that listens on all interfaces and unpickles what it receives. On one host
there is no other host to wait for: no port is opened, and the processes meet in files.
"""

import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from utils.device import accelerator
from utils.distributed.launch import OWN_LAUNCH, world_size
from utils.errors import UserError
from utils.stop_signal import KILL, heeded, leave_closed_terminal

if TYPE_CHECKING:
    from utils.config.schema import RunSettings

_SAVE_SECONDS = 300  # how long a process that is told to end may save before it is killed, unless the user says it
_END_SECONDS = 10  # how long it may take to end at once
_AGAIN = "resume with the same command and -r auto, or -r and the run's folder"


def processes_to_start(settings: "RunSettings", parallel: dict[str, Any] | None) -> int:
    """How many processes `python train.py` should start; 1 if this one can train, or was itself started by a launcher.

    parallel: the section of the config. Raises UserError if the two contradict each other.
    """
    if world_size() > 1 or "RANK" in os.environ:
        return 1
    wanted = (parallel or {}).get("processes")
    if wanted is not None and settings.n_gpu > 1 and wanted != settings.n_gpu:
        raise UserError(f"parallel.processes: {wanted}, and n_gpu is {settings.n_gpu}; leave one of them out")
    if wanted is None and settings.n_gpu > 1 and settings.device != "cpu":
        from utils.distributed.process_group import shared_accelerators

        kind, found = shared_accelerators()
        wanted = min(settings.n_gpu, found) if settings.device in ("auto", kind) else None
        if wanted == 0 and accelerator()[1] > 1:
            text = "n_gpu: %d asked for, and torch.distributed has no backend here for %s; using one"
            logging.getLogger("train").warning(text, settings.n_gpu, kind)
    return max(1, wanted or 1)


def start_processes(number: int) -> None:
    """Run this command line in so many processes; raise SystemExit with the status of the first one that fails."""
    from torch.distributed.elastic.multiprocessing import SignalException

    save_seconds = _save_seconds()
    logging.disable(logging.CRITICAL)  # torch's launcher logs what is reported below
    _handle_signals()
    _set_unless_given(number)
    try:
        with _meeting_folder() as folder:
            failures = _run(number, folder, save_seconds)
    except SignalException as stop:
        raise SystemExit(128 + stop.sigval) from None
    if failures:
        _report(min(failures.values(), key=lambda failure: failure.timestamp))


def _save_seconds():
    """Seconds that processes may take to save and end after a signal."""
    given = os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_SAVE_SECONDS))
    if not given.isdecimal():
        raise UserError(f"TORCH_ELASTIC_SHUTDOWN_TIMEOUT: got {given!r} in the environment; it should be whole seconds")
    return int(given)


def _run(number, folder, save_seconds):
    """{rank: torch's ProcessFailure} of so many processes that have run. Raises SignalException after a signal."""
    from torch.distributed.elastic import multiprocessing

    shared = {"WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number, OWN_LAUNCH: folder}
    shared |= {"TORCHELASTIC_RUN_ID": uuid.uuid4(), "TORCHELASTIC_RESTART_COUNT": 0}
    places = {rank: {"RANK": rank, "LOCAL_RANK": rank, **shared} for rank in range(number)}
    processes = multiprocessing.start_processes(
        name="train",
        entrypoint=sys.executable,
        args=dict.fromkeys(places, ("-u", *sys.argv)),
        envs={rank: {name: str(value) for name, value in place.items()} for rank, place in places.items()},
        logs_specs=multiprocessing.DefaultLogsSpecs(log_dir=folder),
    )
    try:
        ended: Any = processes.wait(period=0.1)  # None only with a timeout
        return ended.failures
    except multiprocessing.SignalException as stop:
        _end(processes, stop.sigval, save_seconds)
        raise
    finally:
        processes.close(KILL)


def _end(processes, number, save_seconds):
    """Pass the signal on, and those that follow it; kill the processes that do not end in time, and report them."""
    from torch.distributed.elastic.multiprocessing import SignalException

    began = time.monotonic()
    deadline = began + save_seconds
    numbers = [number]
    while True:
        try:
            processes.close(numbers[-1], timeout=max(0.0, deadline - time.monotonic()))
            break
        except SignalException as again:
            numbers.append(again.sigval)
            if signal.SIGINT in numbers:  # as StopSignal ends the processes; a third signal kills them
                deadline = min(deadline, time.monotonic() + (_END_SECONDS if len(numbers) == 2 else 0))
    ended = time.monotonic()
    for heard in heeded():
        signal.signal(heard, signal.SIG_IGN)  # all that is left is quick
    processes.close(KILL)  # waits for those that were killed at once
    result = processes.wait(timeout=0)
    failures = result.failures if result else {}
    killed = [f"rank {rank}" for rank, failure in sorted(failures.items()) if failure.exitcode == -KILL]
    leave_closed_terminal()
    if killed:
        remedy = (
            "; TORCH_ELASTIC_SHUTDOWN_TIMEOUT, in seconds, gives more time" if ended >= began + save_seconds else ""
        )
        what = f"{' and '.join(killed)} killed {ended - began:.0f} seconds after {number.name}, maybe before a save"
        print(f"error: {what}{remedy}; {_AGAIN}", file=sys.stderr)


def _handle_signals():
    """Have the signals that stop a run raise SignalException, as torch does for some of them once processes run."""
    from torch.distributed.elastic.multiprocessing import SignalException

    def pass_on(number, frame):
        raise SignalException("passed on to the processes, which save", signal.Signals(number))

    stops = heeded()
    for number in stops:
        signal.signal(number, pass_on)
    # Read by torch from 2.10 on. Before it, SIGHUP is not ignored under nohup.
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(["SIGQUIT", *(signal.Signals(stop).name for stop in stops)])


def _set_unless_given(number):
    """Set variables of the environment as torchrun does; gloo and NCCL listen on loopback, enough for one host."""
    settings = {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // number)),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    }
    for loopback in {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}:
        settings |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": f"={loopback}"}  # "=": an exact name
    for name, value in settings.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def _meeting_folder() -> Iterator[str]:
    """A new folder that nobody else may enter, removed at the end."""
    try:
        folder = tempfile.mkdtemp(prefix="train-")
    except OSError as error:
        raise UserError(f"TMPDIR: no folder can be made there, in which processes meet: {error}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _report(failure) -> NoReturn:
    """Exit with the status of the process that failed; a process that was killed could not report it itself."""
    if failure.exitcode > 0:
        raise SystemExit(failure.exitcode)
    name = signal.Signals(-failure.exitcode).name
    memory = "; the system may have run out of memory" if name == "SIGKILL" else ""
    print(f"error: rank {failure.local_rank} was ended by {name}{memory}; {_AGAIN}", file=sys.stderr)
    raise SystemExit(128 - failure.exitcode)
