"""What the tests of sweeps need: a job whose trials take no time, sweep.py run on it, and the study as it is stored."""

import os
import subprocess
import sys

import optuna

from helpers import PROJECT, run_here
from sweeping.storage import open_storage
from utils.files import read_json, write_json

STUB = PROJECT / "tests" / "sweeping" / "stub_train.py"


def make_job(folder, epoch_seconds=0.0, epochs=3, **stub):
    """Path of the config of a job whose trials stub_train.py makes up."""
    config = read_json(PROJECT / "config.json")
    config.pop("$schema")
    config |= {"name": "job", "stub": {"x": 0.5, "mode": "ok", "epoch_seconds": epoch_seconds, **stub}}
    config["trainer"] |= {"epochs": epochs, "save_dir": str(folder / "saved")}
    write_json(config, folder / "job.json")
    return folder / "job.json"


def sweep(job, *arguments, status=0):
    """sweep.py in this process, with the stub as what trains; what it printed, an object with stdout and stderr."""
    return run_here("sweep.py", "-c", job, "--script", STUB, *arguments, status=status)


def told_by_sweep(job, *arguments):
    """All that sweep.py printed: how it went, and the results."""
    ended = sweep(job, *arguments)
    return ended.stderr + ended.stdout


def start_sweep(job, *arguments, **options):
    """sweep.py in a process of its own."""
    command = [sys.executable, "sweep.py", "-c", str(job), "--script", str(STUB), *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **options}
    return subprocess.Popen(command, cwd=PROJECT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **options)


def load(job, study="job-sweep", storage=None):
    """The optuna.Study of a job."""
    where = storage or job.parent / "saved" / "sweeps" / study / "journal.log"
    return optuna.load_study(study_name=study, storage=open_storage(where))


def states(study):
    """The names of the trials' states, by number."""
    return [trial.state.name for trial in study.trials]


def undisturbed(x, epochs, seed=123):
    """The values of a stub's epochs, from nothing but its formula."""
    value, logged = x + seed % 7, []
    for _ in range(epochs):
        value = 0.9 * value + x / 3
        logged.append(-abs(value - 0.5))
    return logged
