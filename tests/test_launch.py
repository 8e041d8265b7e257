"""Processes that torchrun or train.py itself start: how they end, and how the same command goes on."""

import logging
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch.distributed.run
from torch.distributed.elastic.multiprocessing import SignalException
from worlds import small_job

from helpers import copy_project, same
from utils.checkpoint import load_checkpoint
from utils.distributed.launch import start_processes

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
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
SETTINGS = {"epochs": 3, "save_every_steps": 2, "tensorboard": False, "verbosity": 1}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with a callback that kills, and the weights that a run left alone comes to."""
    folder = copy_project(tmp_path_factory.mktemp("launch") / "project")
    (folder / "trainer" / "killer.py").write_text(_KILLER)
    job(folder, "left", killed_at=10**6)
    assert started(folder, "train.py", "-c", "left.json").wait(120) == 0
    return folder


def job(folder, name, killed_at, samples=50, workers=0, processes=2, **settings):
    """Path of a config for two processes; of two that are the same but for the name."""
    callback = {"type": "killer.KillOnce", "args": {"step": killed_at}}
    path = small_job(
        folder,
        name,
        samples=samples,
        parallel={"processes": processes, "timeout_seconds": 60},
        callbacks=[callback],
        trainer={**SETTINGS, **settings},
    )
    return path.name


def started(folder, *arguments):
    """`python *arguments` in a session of its own, whose output goes into the file output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(folder / "output", "w") as output:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=environment, stdout=output, stderr=output, text=True
        )


def in_second_epoch(folder, config, launcher=()):
    """The same, of train.py, that has come to its second epoch."""
    process = started(folder, *launcher, "train.py", "-c", config)
    deadline = time.monotonic() + 60
    while "epoch 2/" not in (folder / "output").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    return process


def ended(folder, process, status, seconds=60):
    """What it has written, once it has ended with this status; all that it started have ended too."""
    assert process.wait(seconds) == status, (folder / "output").read_text()
    assert not [other for other in left_running(folder) if other != os.getpid()]
    return (folder / "output").read_text()


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
    config = job(project, "killed", killed_at=5)
    output = ended(project, started(project, "train.py", "-c", config), 137)
    assert output.count("error: rank 1 was ended by SIGKILL") == 1
    assert "lost contact with rank 1, last seen in epoch 2 after batch 1" in output
    assert "Traceback" not in output
    (log,) = (project / "killed" / "log" / "killed").iterdir()
    assert (log / "info.log").read_text().count("ERROR run: in epoch 2 after batch 1: lost contact with rank 1") == 1
    config = job(project, "killed", killed_at=10**6)
    output = ended(project, started(project, "train.py", "-c", config, "-r", "auto"), 0)
    assert len(re.findall("using .*-batch1.pth", output)) == 1
    assert same(weights(project, "killed"), weights(project, "left"))


@pytest.mark.parametrize(
    ("number", "status", "launcher"),
    [(signal.SIGTERM, 143, []), (signal.SIGINT, 130, []), (signal.SIGUSR1, 138, []), (signal.SIGTERM, 1, TORCHRUN)],
)
def test_a_signal_to_the_launcher_saves_and_the_same_command_goes_on(project, number, status, launcher):
    name = f"signalled{number}{len(launcher)}"
    config = job(project, name, killed_at=10**6, samples=5000, workers=1, epochs=30, save_every_steps=None)
    process = in_second_epoch(project, config, launcher)
    process.send_signal(number)
    output = ended(project, process, status, seconds=15)
    again = "torchrun --standalone --nproc-per-node=2" if launcher else "python"
    assert output.count(f"resume with: {again} train.py -r") == 1
    assert launcher or ("Traceback" not in output and "death signal" not in output)
    (run,) = (project / name / "models" / name).iterdir()
    assert list(run.glob("*-batch*.pth"))


def test_processes_whose_launcher_is_killed_save_and_end(project):
    config = job(project, "orphans", killed_at=10**6, samples=5000, epochs=30, save_every_steps=None)
    process = in_second_epoch(project, config)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while left_running(project) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left_running(project)
    assert (project / "output").read_text().count("stopped by SIGTERM") == 1
    (run,) = (project / "orphans" / "models" / "orphans").iterdir()
    assert list(run.glob("*-batch*.pth"))


def test_the_launcher_is_given_only_what_torch_has_had_since_2_8(monkeypatch):
    given = []
    monkeypatch.setattr(torch.distributed.run, "run", given.append)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    for name in ("OMP_NUM_THREADS", "TORCH_CPP_LOG_LEVEL", "STARTED_BY_TRAIN_PY", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(logging, "disable", lambda level: None)
    parsed, parse = [], torch.distributed.run.parse_args
    monkeypatch.setattr(torch.distributed.run, "parse_args", lambda flags: parsed.append(flags) or parse(flags))
    before = signal.getsignal(signal.SIGUSR1)
    try:
        start_processes(2)
        assert parsed == [["--standalone", "--nproc-per-node=2", "train.py"]] and given[0].nproc_per_node == "2"
        with pytest.raises(SignalException) as raised:
            signal.raise_signal(signal.SIGUSR1)
        assert raised.value.sigval == signal.SIGUSR1
    finally:
        signal.signal(signal.SIGUSR1, before)


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
