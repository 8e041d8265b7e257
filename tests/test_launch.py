"""Processes that torchrun or train.py itself start: how they end, and how the same command goes on."""

import contextlib
import fcntl
import functools
import ipaddress
import logging
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch.distributed.run
from forked import family, kill_all, run_forked, start_forked
from torch.distributed.elastic import multiprocessing
from torch.distributed.elastic.multiprocessing.api import RunProcsResult
from worlds import small_job

from helpers import copy_project, same
from utils.distributed.start import _set_unless_given, start_processes
from utils.errors import UserError
from utils.runs.checkpoint import load_checkpoint
from utils.stop_signal import heeded

pytestmark = pytest.mark.slow  # they start processes

_KILLER = '''
import os
import signal

from base import BaseCallback


class KillOnce(BaseCallback):
    """Ends rank 1 by a signal at a step, unless it has been started again."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, trainer):
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
        if first and trainer.step == self.step and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
'''
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
IGNORES = pytest.mark.skipif(
    "--signals-to-handle" not in torch.distributed.run.get_args_parser().format_help(),
    reason="this torch's launcher handles SIGHUP also where it is ignored",
)
START_SECONDS = 400  # for the first epoch, with workers that each import torch, on a machine that does other things too
SETTINGS = {"epochs": 3, "save_every_steps": 2, "tensorboard": False, "verbosity": 1}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with a callback that kills, and the weights that a run left alone comes to."""
    folder = copy_project(tmp_path_factory.mktemp("launch") / "project")
    (folder / "trainer" / "killer.py").write_text(_KILLER)
    job(folder, "left", killed_at=10**6)
    run_forked(*TORCHRUN, "train.py", "-c", "left.json", cwd=folder)
    return folder


def job(folder, name, killed_at, samples=50, workers=0, processes=2, **settings):
    """Path of a config for two processes; of two that are the same but for the name."""
    callback = {"type": "killer.KillOnce", "args": {"step": killed_at}}
    path = small_job(
        folder,
        name,
        samples=samples,
        workers=workers,
        parallel={"processes": processes, "timeout_seconds": 60},
        callbacks=[callback],
        trainer={**SETTINGS, **settings},
    )
    return path.name


def started(folder, *arguments, **environment):
    """The process of `python *arguments`, whose output goes into the file output."""
    (folder / "temporary").mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, open(folder / "output", "w") as file:
        for name, text in {"TMPDIR": str(folder / "temporary"), **environment}.items():
            patch.setenv(name, text)
        return start_forked(*arguments, cwd=folder, output=file, errors=file)


def in_second_epoch(folder, config, launcher=()):
    """The same, of train.py, that has come to its second epoch: what it saves after its first is there."""
    process = started(folder, *launcher, "train.py", "-c", config)
    deadline = time.monotonic() + START_SECONDS
    while not has_saved(folder, config):
        if time.monotonic() > deadline or not process.is_alive():
            kill_all(process)
            pytest.fail((folder / "output").read_text())
        time.sleep(0.1)
    return process


def has_saved(folder, config):
    """Whether the first epoch of a run of the config has been saved."""
    files = {path.name for path in folder.glob(f"{Path(config).stem}/models/*/*/*.pth")}
    return {"checkpoint-epoch1.pth", "model_best.pth"} <= files


def ended(folder, process, status, seconds=120):
    """What it has written, once it has ended with this status; nothing that it started or made to meet in is left."""
    process.join(seconds)
    assert process.exitcode == status, (folder / "output").read_text()
    nothing_is_left(folder)
    return (folder / "output").read_text()


def nothing_is_left(folder):
    deadline = time.monotonic() + 5  # the server that forks workers notices the end of its run a moment later
    while (left := [other for other in left_running(folder) if other != os.getpid()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, [Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:200] for pid in left]
    assert not list((folder / "temporary").glob("train-*"))


def left_running(folder):
    """Ids of the processes that work in the folder."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/cwd") == str(folder):
                found.append(int(pid))
        except OSError:
            continue
    return found


def weights(folder, name, epoch=3):
    (run,) = (folder / name / "models" / name).iterdir()
    return load_checkpoint(run / f"checkpoint-epoch{epoch}.pth")["state_dict"]


def test_torchrun_s_restarts_go_on_with_the_run(project):
    config = job(project, "restarted", killed_at=5)
    output = ended(project, started(project, *TORCHRUN, "--max-restarts=2", "train.py", "-c", config), 0)
    assert len(re.findall("using .*-batch1.pth", output)) == 1
    assert same(weights(project, "restarted"), weights(project, "left"))


def test_our_own_launch_names_who_was_killed_and_the_same_command_goes_on(project):
    """In real processes, of which each has a hash seed of its own; forked ones, which share one, come to their bits."""
    config = job(project, "killed", killed_at=5)
    output = ended(project, started(project, "train.py", "-c", config, PYTHONHASHSEED="random"), 137)
    assert output.count("error: rank 1 was ended by SIGKILL") == 1
    assert "lost contact with rank 1; rank 0 was in epoch 2 after batch 1" in output
    assert "Traceback" not in output
    (log,) = (project / "killed" / "log" / "killed").iterdir()
    assert (log / "info.log").read_text().count(
        "ERROR run: lost contact with rank 1; rank 0 was in epoch 2 after batch 1"
    ) == 1
    config = job(project, "killed", killed_at=10**6)
    output = ended(project, started(project, "train.py", "-c", config, "-r", "auto", PYTHONHASHSEED="random"), 0)
    assert len(re.findall("using .*-batch1.pth", output)) == 1
    assert same(weights(project, "killed"), weights(project, "left"))


@functools.cache  # a test of what they listened on looks at two of these runs, too
def signalled(project, name, number, status, launcher):
    """(what a run printed that a signal to its launcher ended, addresses it listened on, modes of its folders)."""
    config = job(project, name, killed_at=10**6, samples=5000, workers=1, epochs=30, save_every_steps=None)
    process = in_second_epoch(project, config, launcher)
    found = listening(process), [path.stat().st_mode for path in (project / "temporary").glob("train-*")]
    os.kill(process.pid, number)
    return ended(project, process, status), *found


SIGNALS = {
    "SIGTERM": (signal.SIGTERM, 143, ()),
    "SIGINT": (signal.SIGINT, 130, ()),
    "SIGUSR1": (signal.SIGUSR1, 138, ()),
    "SIGHUP": (signal.SIGHUP, 129, ()),
    "SIGTERM-torchrun": (signal.SIGTERM, 1, TORCHRUN),
    "SIGHUP-torchrun": (signal.SIGHUP, 1, TORCHRUN),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_to_the_launcher_saves_and_the_same_command_goes_on(project, name):
    output, *_ = signalled(project, name, *SIGNALS[name])
    launcher = SIGNALS[name][2]
    again = "torchrun --standalone --nproc-per-node=2" if launcher else "python"
    assert "forcefully exiting" not in output  # torchrun kills, after 30 seconds, what does not end by itself
    assert output.count(f"resume with: {again} train.py -r") == 1
    assert launcher or ("Traceback" not in output and "death signal" not in output)
    (run,) = (project / name / "models" / name).iterdir()
    assert list(run.glob("*-batch*.pth"))


def test_processes_whose_launcher_is_killed_save_and_end(project):
    config = job(project, "orphans", killed_at=10**6, samples=5000, epochs=30, save_every_steps=None)
    process = in_second_epoch(project, config)
    process.kill()
    process.join()
    deadline = time.monotonic() + 60
    while left_running(project) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left_running(project)
    assert (project / "output").read_text().count("stopped by SIGTERM") == 1
    (run,) = (project / "orphans" / "models" / "orphans").iterdir()
    assert list(run.glob("*-batch*.pth"))
    (left,) = (project / "temporary").glob("train-*")
    assert sum(file.stat().st_size for file in left.iterdir()) < 10_000
    shutil.rmtree(left)


# A terminal that is closed


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_whose_terminal_is_closed_saves_and_ends_with_status_129(project, processes):
    name = f"terminal{processes}"
    config = job(project, name, 10**6, samples=5000, workers=1, processes=processes, epochs=30, save_every_steps=None)
    leader, follower = pty.openpty()

    def make_it_ours():
        fcntl.ioctl(follower, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "train.py", "-c", config],
        cwd=project,
        env={**os.environ, "TMPDIR": str(project / "temporary")},
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
        preexec_fn=make_it_ours,
    )
    os.close(follower)
    deadline = time.monotonic() + START_SECONDS
    while not has_saved(project, config) and time.monotonic() < deadline:
        if select.select([leader], [], [], 0.1)[0]:
            os.read(leader, 65536)
    time.sleep(0.3)  # into the second epoch
    os.close(leader)  # the kernel sends SIGHUP, and what is written there from now on is an error
    assert process.wait(120) == 129
    nothing_is_left(project)
    (log,) = (project / name / "log" / name).iterdir()
    assert (log / "info.log").read_text().count("stopped by SIGHUP in epoch") == 1
    (run,) = (project / name / "models" / name).iterdir()
    assert list(run.glob("*-batch*.pth"))


AS_NOHUP_DOES = """
import runpy, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
sys.argv = sys.argv[1:]
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=IGNORES)])
def test_a_run_under_nohup_survives_its_terminal(project, processes):
    name = f"nohup{processes}"
    config = job(project, name, 10**6, samples=5000, processes=processes, epochs=30, save_every_steps=None)
    process = in_second_epoch(project, config, ["-c", AS_NOHUP_DOES])
    for pid in left_running(project):
        os.kill(pid, signal.SIGHUP)
    time.sleep(2)
    process.terminate()
    assert "stopped by SIGTERM" in ended(project, process, 143, seconds=30)


# What others could reach


def listening(process):
    """Addresses on which a process and all that it has started listen, or are bound to with UDP."""
    sockets = set()
    for pid in family(process.pid):
        with contextlib.suppress(FileNotFoundError):  # a loader's worker that has ended by now
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):  # closed by now
                    sockets.add(os.readlink(descriptor))
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if f"socket:[{inode}]" in sockets and (state == "0A" or table.startswith("udp")):
                found.append(address_of(local.partition(":")[0]))
    return found


def address_of(digits):
    """The address that /proc/net writes as hexadecimal words in the machine's order of bytes."""
    words = [int(digits[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(digits), 8)]
    address = ipaddress.ip_address(b"".join(words))
    return getattr(address, "ipv4_mapped", None) or address


def test_a_launch_of_our_own_listens_on_loopback_alone(project):
    _, found, (mode,) = signalled(project, "SIGTERM", *SIGNALS["SIGTERM"])
    assert mode & 0o777 == 0o700
    assert found and all(address.is_loopback for address in found)  # gloo's, which the processes send tensors through


def test_what_torchrun_listens_on_can_be_reached_from_elsewhere_as_the_page_on_security_says(project):
    _, found, _ = signalled(project, "SIGTERM-torchrun", *SIGNALS["SIGTERM-torchrun"])
    assert any(address.is_unspecified for address in found)


def test_a_launch_of_our_own_leaves_the_interfaces_of_the_user_as_they_are(monkeypatch):
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "eth7")
    _set_unless_given(2)
    assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == "eth7"
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name)
    _set_unless_given(2)
    assert os.environ["NCCL_SOCKET_IFNAME"] == f"={os.environ['GLOO_SOCKET_IFNAME']}"
    assert os.environ["GLOO_SOCKET_IFNAME"] in [name for _, name in socket.if_nameindex()]


def test_processes_that_cannot_lock_a_file_of_their_folder_say_so_in_one_line(project):
    config = job(project, "no-folder", killed_at=10**6)
    environment = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "STARTED_BY_TRAIN_PY": os.devnull}
    environment |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "train.py", "-c", config],
        cwd=project,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    told = f"error: cannot meet the other 1 in {os.devnull} (below TMPDIR): Not a directory\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)


class Started:
    """Stands in for torch's context of processes, all of which end well."""

    def wait(self, period):
        return RunProcsResult()

    def close(self, death_sig):
        pass


SET_BY_START = (
    "OMP_NUM_THREADS TORCH_CPP_LOG_LEVEL TORCH_NCCL_ASYNC_ERROR_HANDLING TORCHELASTIC_SIGNALS_TO_HANDLE "
    "GLOO_SOCKET_IFNAME NCCL_SOCKET_IFNAME"
)


def test_torch_s_starter_is_given_only_what_it_has_had_since_2_8(monkeypatch):
    given = {}
    monkeypatch.setattr(multiprocessing, "start_processes", lambda **arguments: given.update(arguments) or Started())
    monkeypatch.setattr(sys, "argv", ["train.py"])
    for name in SET_BY_START.split():
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(logging, "disable", lambda level: None)
    before = heeded()
    try:
        start_processes(2)
        assert given.keys() == {"name", "entrypoint", "args", "envs", "logs_specs"}
        assert given["args"] == dict.fromkeys((0, 1), ("-u", "train.py"))
        places = [[env["RANK"], env["LOCAL_RANK"], env["WORLD_SIZE"]] for env in given["envs"].values()]
        assert places == [["0", "0", "2"], ["1", "1", "2"]]
        assert os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] == "SIGQUIT,SIGINT,SIGTERM,SIGUSR1,SIGHUP"
        for number in before:
            with pytest.raises(multiprocessing.SignalException) as raised:
                signal.raise_signal(number)
            assert raised.value.sigval == number
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_mistake_ends_a_launch_with_status_2_and_is_told_once(project):
    config = job(project, "small-batch", killed_at=10**6)
    output = ended(project, started(project, "train.py", "-c", config, "--bs", "1"), 2)
    assert output.count("error: ") == output.count("data_loader.args.batch_size: 1 for 2 processes") == 1
    command = [*TORCHRUN, "train.py", "-c", config, "--set", "trainer.epochs=0"]
    output = ended(project, started(project, *command), 1)
    assert output.count("error: trainer.epochs: ") == 1 and re.search("exitcode  : 2 ", output)


def test_more_gpus_than_there_are_leave_one_process_on_the_cpu(project):
    config = job(project, "gpus", killed_at=10**6, processes=None)
    flags = ["--set", "n_gpu=4", "--set", "device=auto", "--set", "trainer.epochs=1"]
    output = ended(project, started(project, "train.py", "-c", config, *flags), 0)
    assert "on cpu" in output and "processes" not in output


# Processes that do not end


STUBBORN = """
import signal, sys, time

heard = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: heard.append(time.monotonic()))
print("ready", flush=True)
while not heard or time.monotonic() < heard[0] + float(sys.argv[1]):
    time.sleep(0.05)
print("saved", flush=True)
"""
LAUNCH = """
import sys
from utils.distributed import start

start._END_SECONDS = 1
sys.argv = ["stubborn.py", *sys.argv[1:]]
start.start_processes(2)
"""


@pytest.mark.parametrize(
    ("numbers", "save_seconds", "patience", "seconds"),
    [
        ([signal.SIGTERM], 1, "30", None),
        ([signal.SIGTERM], 30, "2", 2),
        ([signal.SIGTERM, signal.SIGTERM, signal.SIGTERM], 30, "3", 3),
        ([signal.SIGINT, signal.SIGINT], 30, "30", 2),
        ([signal.SIGINT, signal.SIGTERM, signal.SIGINT], 30, "30", 1),
    ],
)
def test_processes_that_do_not_end_in_time_are_killed_and_a_line_says_so(
    project, monkeypatch, numbers, save_seconds, patience, seconds
):
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", patience)
    (project / "stubborn.py").write_text(STUBBORN)
    process = started(project, "-c", LAUNCH, save_seconds)
    deadline = time.monotonic() + 60
    while (project / "output").read_text().count("ready") < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    began = time.monotonic()
    for number in numbers:
        os.kill(process.pid, number)
        process.join(0.6)
    output = ended(project, process, 128 + numbers[0], seconds=20)
    if seconds is None:
        assert output.count("saved") == 2 and "error" not in output
        return
    assert "saved" not in output and time.monotonic() - began < seconds + 3
    (line,) = [line for line in output.splitlines() if "error" in line]
    name = signal.Signals(numbers[0]).name
    assert line.startswith(f"error: rank 0 and rank 1 killed {seconds} seconds after {name}, maybe before a save; ")
    assert ("TORCH_ELASTIC_SHUTDOWN_TIMEOUT" in line) == (signal.SIGINT not in numbers)
    assert line.endswith("resume with the same command and -r auto, or -r and the run's folder")


def test_a_shutdown_timeout_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "soon")
    with pytest.raises(UserError, match="TORCH_ELASTIC_SHUTDOWN_TIMEOUT: got 'soon'"):
        start_processes(2)
