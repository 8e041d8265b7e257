"""Processes for tests, forked from one that has imported the libraries already, so that each starts in no time.

run_forked and start_forked run a command as `python` does. in_world runs a function, or a whole command such as
train.py, in each of several processes, as torchrun does.
"""

import atexit
import contextlib
import gc
import importlib.util
import io
import multiprocessing
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from multiprocessing import reduction
from pathlib import Path

import numpy as np

from helpers import PROJECT
from logger import CsvLog
from utils.files import write_json

# Of the workers of loaders: python's default, which is "fork" up to 3.13, unless make test-spawn sets another.
START_METHOD = os.environ.get("START_METHOD", multiprocessing.get_all_start_methods()[0])
_PATIENCE_SECONDS = 120
PATIENCE = 40  # seconds, for what has to be over in a few, on a machine that does other things too
_server = multiprocessing.get_context("forkserver")
_LIBRARIES = [
    "pydantic",
    "pytest",
    "safetensors.torch",
    "tensorboard.backend.event_processing.event_accumulator",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.utils.tensorboard",
    "torchmetrics",
    "torchvision",
]
_ROOMS = [
    "base.data.arrays",
    "data_loader.data_loaders",
    "examples.tabular.model",
    "model.loss",
    "model.metric",
    "model.model",
    "parse_config",
    "trainer.callbacks",
    "trainer.trainer",
    "worlds",
]
_server.set_forkserver_preload(_LIBRARIES + _ROOMS)


def run_forked(*arguments, cwd=PROJECT, status=0, timeout=300, output=None):
    """helpers.run without the seconds that importing the libraries takes; arguments: a script, "-c" or "-m", and more.

    output: a file for what the process prints, which is then not returned.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = start_forked(*arguments, cwd=cwd, output=output or out, errors=errors)
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(arguments, timeout)
        texts = [(file.seek(0), file.read())[1] for file in (out, errors)]
    done = subprocess.CompletedProcess(arguments, process.exitcode, *texts)
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def start_forked(*arguments, cwd, output, errors):
    """The multiprocessing.Process that does what `python *arguments` does, in a session of its own.

    It imports the project's own modules itself, from where `python` would find them. output, errors: the open files
    that are its standard output and error.
    """
    descriptors = [reduction.DupFd(file.fileno()) for file in (output, errors)]
    arguments = list(map(str, arguments))
    process = _server.Process(target=_command, args=(arguments, Path(cwd).resolve(), dict(os.environ), descriptors))
    process.start()
    return process


class Ended:
    """How a process of a world has ended: status, the function's result, and what it wrote."""

    def __init__(self, status, result=None, output=""):
        self.status, self.result, self.output = status, result, output

    def __repr__(self):
        return f"status {self.status}\n{self.output}"


def in_world(size, function, *arguments, environment=(), patience=_PATIENCE_SECONDS):
    """[Ended of each process] of a world in which all call function(*arguments), module-level in a test's file.

    A process that has not ended within the patience, in seconds, is killed and fails the test.
    """
    port = _free_port()
    processes, ends = [], []
    for rank in range(size):
        receiver, sender = _server.Pipe(duplex=False)
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
        place |= {"MASTER_ADDR": "127.0.0.1", **dict(environment)}
        call = function.__code__.co_filename, function.__name__, arguments
        process = _server.Process(target=_process, args=(sender, {k: str(v) for k, v in place.items()}, *call))
        process.start()
        sender.close()
        processes.append((process, receiver))
    deadline = time.monotonic() + patience
    for rank, (process, receiver) in enumerate(processes):
        came = receiver.poll(max(0, deadline - time.monotonic()))
        try:
            ends.append(pickle.loads(receiver.recv_bytes()) if came else Ended("hangs"))
        except EOFError:
            process.join(10)
            ends.append(Ended(process.exitcode))
        process.join(max(1, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            ends[rank].status = "hangs"
        elif process.exitcode:
            ends[rank].status = process.exitcode
    assert "hangs" not in [end.status for end in ends], ends
    return ends


def in_served_world(size, function, *arguments, **options):
    """in_world, where no process serves the store, but somebody outside, as torchrun does."""
    import torch

    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {
        "MASTER_PORT": store.port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        **dict(options.pop("environment", ())),
    }
    return in_world(size, function, *arguments, environment=environment, patience=PATIENCE, **options)


def lines_of(end):
    """The lines by which a process told of errors."""
    return [line for line in end.output.splitlines() if line.startswith("error: ")]


def statuses(ends):
    """The exit status of each process."""
    return [end.status for end in ends]


def results(ends):
    """What the function returned in each process, all of which must have ended well."""
    assert all(end.status == 0 for end in ends), ends
    return [end.result for end in ends]


def train(*arguments):
    """To be called in a world: python train.py with these arguments."""
    sys.argv = ["train.py", *map(str, arguments)]
    os.chdir(PROJECT)
    runpy.run_path("train.py", run_name="__main__")


def small_job(folder, name="small", samples=50, batch_size=12, workers=0, **changes):
    """Path of a config: a small network without dropout on random rows. changes: of its sections."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(samples, 4)).astype(np.float32)
    labels = (rows @ generator.normal(size=(4, 3))).argmax(axis=1)
    np.savez(folder / f"{name}.npz", rows=rows, labels=labels)
    data = {"data": f"{folder}/{name}.npz:rows", "target": f"{folder}/{name}.npz:labels"}
    config = {
        "name": name,
        "seed": 5,
        "device": "cpu",
        "arch": {
            "type": "examples.tabular.model.TableMlp",
            "args": {"in_features": 4, "out_features": 3, "width": 8, "dropout": 0.0},
        },
        "data_loader": {
            "type": "ArrayDataLoader",
            "args": {**data, "batch_size": batch_size, "validation_split": 0.3, "num_workers": workers},
        },
        "optimizer": {"type": "SGD", "args": {"lr": 0.1, "momentum": 0.9}},
        "loss": "torch.nn.CrossEntropyLoss",
        "metrics": ["accuracy"],
        "trainer": {"epochs": 2, "save_dir": str(folder / name), "monitor": "min val_loss", "tensorboard": False},
    }
    for section, values in changes.items():
        known = config.get(section)
        config[section] = {**known, **values} if isinstance(known, dict) and isinstance(values, dict) else values
    write_json(config, folder / f"{name}.json")
    return folder / f"{name}.json"


def run_of(folder, name="small"):
    """Folder of the checkpoints of a small_job's only run."""
    (run,) = (folder / name / "models" / name).iterdir()
    return run


def rows_of(folder, name="small"):
    """The rows of its metrics.csv, {column: number}."""
    (log,) = (folder / name / "log" / name).iterdir()
    return [{key: float(value) for key, value in row.items()} for row in CsvLog(log / "metrics.csv").rows()]


def _command(command, folder, environment, descriptors):
    """Do what `python <command>` does, in this forked process, with the files as its standard output and error."""
    gc.freeze()
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal; pytest may run in the background
    for number, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor.detach(), number)
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    tempfile.tempdir = None  # that of the environment
    multiprocessing.set_start_method(START_METHOD, force=True)  # of the workers of loaders, as python does
    rooms = {path.stem for place in (PROJECT, PROJECT / "tests") for path in place.iterdir()}
    for name in [name for name in sys.modules if name.partition(".")[0] in rooms]:
        del sys.modules[name]
    sys.argv = command if command[0] not in ("-c", "-m") else [command[0], *command[2:]]
    begin = folder if sys.argv[0] in ("-c", "-m") else (folder / command[0]).resolve().parent
    sys.path = [str(begin), *(path for path in sys.path if Path(path) not in (PROJECT, PROJECT / "tests"))]
    try:
        if command[0] == "-c":
            exec(compile(command[1], "<string>", "exec"), {"__name__": "__main__"})
        elif command[0] == "-m":
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(command[0], run_name="__main__")
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out


def _process(sender, environment, path, name, arguments):
    gc.freeze()  # the objects of the libraries, which a collection need not look at
    os.environ.update(environment)
    multiprocessing.set_start_method(START_METHOD, force=True)  # of the workers of loaders, as in one of torchrun's
    import torch

    torch.set_num_threads(1)
    output = io.StringIO()
    status, result = 0, None
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            result = getattr(_module(path), name)(*arguments)
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
            status = 1
    sender.send_bytes(pickle.dumps(Ended(status, result, output.getvalue())))  # tensors by value: this process ends
    sender.close()
    sys.exit(status)


def _module(path):
    """The module of a test's file, or this one."""
    if path == __file__:
        return sys.modules[__name__]
    spec = importlib.util.spec_from_file_location("a_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
