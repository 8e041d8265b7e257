"""Start the processes of a run on this host through torch's own launcher, as torchrun would."""

import contextlib
import logging
import os
import platform
import shutil
import signal
import socket
import sys
import tempfile
import uuid

from utils.distributed.world import world_size
from utils.errors import UserError
from utils.stop_signal import heeded, leave_closed_terminal

_OWN_LAUNCH = "STARTED_BY_TRAIN_PY"  # set, to the folder where they meet, for processes that this file has started
_SAVE_SECONDS = "300"  # how long one that is told to end may save, before torch kills it


def processes_to_start(settings, parallel):
    """How many processes `python train.py` should start; 1 if this one can train, or was itself started by a launcher.

    settings: with n_gpu and device. parallel: the section of the config, or None. Raises UserError if they do not fit.
    """
    if world_size() > 1 or "RANK" in os.environ:
        return 1
    wanted = (parallel or {}).get("processes")
    if wanted is not None and settings.n_gpu > 1 and wanted != settings.n_gpu:
        raise UserError(f"parallel.processes: {wanted}, and n_gpu is {settings.n_gpu}; leave one of them out")
    if wanted is None and settings.n_gpu > 1 and settings.device in ("auto", "cuda"):
        import torch

        wanted = min(settings.n_gpu, torch.cuda.device_count())
    return max(1, wanted or 1)


def start_processes(number):
    """Run this command line in so many processes, and end with the exit status of the first that fails."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from utils.distributed import one_host

    logging.disable(logging.CRITICAL)  # the launcher's news, which are told below
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // number)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _SAVE_SECONDS)
    _stay_on_host()
    flags = [f"--rdzv-backend={one_host.register()}", f"--rdzv-id={uuid.uuid4()}", f"--nproc-per-node={number}"]
    arguments = run.parse_args([*flags, *sys.argv])

    def pass_on(number, frame):
        raise SignalException("passed on to the processes, which save", signal.Signals(number))

    for stops in heeded():  # torch does so once they run; before 2.10 it cannot be told to do so with SIGUSR1
        signal.signal(stops, pass_on)
    if hasattr(arguments, "signals_to_handle"):  # from 2.10 on; before it, SIGHUP is not ignored under nohup
        arguments.signals_to_handle = ",".join(["SIGQUIT", *(signal.Signals(stops).name for stops in heeded())])
    try:
        with _meeting_folder() as folder:
            os.environ[_OWN_LAUNCH] = folder
            run.run(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            raise SystemExit(failure.exitcode) from None  # it has said why
        name = signal.Signals(-failure.exitcode).name
        memory = "; the system may have run out of memory" if name == "SIGKILL" else ""
        again = "go on with the same command and -r auto, or -r and the run's folder"
        print(f"error: rank {rank} was ended by {name}{memory}; {again}", file=sys.stderr)
        raise SystemExit(128 - failure.exitcode) from None
    except SignalException as error:
        leave_closed_terminal()
        raise SystemExit(128 + error.sigval) from None


def _stay_on_host():
    """Have gloo and NCCL listen on loopback alone, which is enough for one host, unless the user names an interface."""
    interfaces = {name for _, name in socket.if_nameindex()}
    for loopback in interfaces & {"lo", "lo0"}:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={loopback}")  # "=": no other one that begins so


@contextlib.contextmanager
def _meeting_folder():
    """A new folder that nobody else may enter, removed at the end: the processes meet in files in it."""
    try:
        folder = tempfile.mkdtemp(prefix="train-")
    except OSError as error:
        raise UserError(f"TMPDIR: no folder can be made there, in which processes meet: {error}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def meeting_folder():
    """Where the processes that `python train.py` has started meet; None for those of another launcher."""
    return os.environ.get(_OWN_LAUNCH)


def is_own_launch():
    """Whether it was `python train.py` that started this process, and has read the command line before it."""
    return _OWN_LAUNCH in os.environ


def launcher():
    """What starts as many processes as there are, to be typed before train.py."""
    if is_own_launch() or "TORCHELASTIC_RUN_ID" not in os.environ:
        return "python"
    several_hosts = os.environ.get("GROUP_WORLD_SIZE", "1") != "1"
    flags = "..." if several_hosts else f"--standalone --nproc-per-node={os.environ['LOCAL_WORLD_SIZE']}"
    return f"torchrun {flags}"


def restarts():
    """How often torchrun has started these processes again, with --max-restarts."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def launch_id():
    """What all processes of a launch, its restarts included, are known by; None without a launcher of torch's."""
    given = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{platform.node()}:{os.getppid()}" if given == "none" else given


def refuse_several(what):
    """Raise UserError if there are several processes for something that one does."""
    if world_size() > 1:
        raise UserError(
            f"{what}: for one process, and there are {world_size()}; start it with python rather than torchrun, "
            "with n_gpu and parallel.processes at 1"
        )
