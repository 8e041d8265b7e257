"""How this process was started: its rank, and what else its launcher says in the environment."""

import functools
import os
import platform

from utils.errors import UserError

OWN_LAUNCH = "STARTED_BY_TRAIN_PY"  # set, to the folder where they meet, for processes that start.py has started


@functools.cache
def world_size() -> int:
    """Number of processes; 1 without a launcher."""
    return _number("WORLD_SIZE") if "RANK" in os.environ and "WORLD_SIZE" in os.environ else 1


@functools.cache
def rank() -> int:
    """This process's number, from 0."""
    return _number("RANK") if world_size() > 1 else 0


def _number(name):
    try:
        return int(os.environ[name])
    except ValueError:
        raise UserError(f"{name}: got {os.environ[name]!r} in the environment; a launcher sets a number") from None


def is_main() -> bool:
    """Whether this is the process that decides, and writes files."""
    return rank() == 0


def who() -> str:
    """Return "rank 1: " to begin a message of this process with; "" for the first one."""
    return "" if is_main() else f"rank {rank()}: "


def meeting_folder() -> str | None:
    """Folder where the processes that `python train.py` has started meet; None for those of another launcher."""
    return os.environ.get(OWN_LAUNCH)


def is_own_launch() -> bool:
    """Whether `python train.py` has started this process, after reading the command line itself."""
    return OWN_LAUNCH in os.environ


def launcher() -> str:
    """The words to type before train.py to start as many processes as there are."""
    if is_own_launch() or "TORCHELASTIC_RUN_ID" not in os.environ:
        return "python"
    several_hosts = os.environ.get("GROUP_WORLD_SIZE", "1") != "1"
    flags = "..." if several_hosts else f"--standalone --nproc-per-node={os.environ['LOCAL_WORLD_SIZE']}"
    return f"torchrun {flags}"


def restarts() -> int:
    """How often torchrun has restarted these processes, with --max-restarts."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def launch_id() -> str | None:
    """Text that is the same for all processes of a launch and its restarts; None without a launcher of torch's."""
    given = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{platform.node()}:{os.getppid()}" if given == "none" else given


def refuse_several(what: str) -> None:
    """Raise UserError if there are several processes for `what`, which one process does."""
    if world_size() > 1:
        raise UserError(
            f"{what}: for one process, and there are {world_size()}; start it with python rather than torchrun, "
            "with n_gpu and parallel.processes at 1"
        )
