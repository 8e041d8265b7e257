"""Worlds of several processes for tests: in_world runs a function, or train.py, in each, as torchrun does.

They are forked from the server of tests/forked.py, which has imported the libraries and the rooms of the project.
"""

import contextlib
import gc
import importlib
import io
import multiprocessing
import os
import pickle
import runpy
import socket
import sys
import time
import traceback
from pathlib import Path

import numpy as np
from forked import SERVER, START_METHOD, draw_seeds

from helpers import PROJECT
from logger import CsvLog
from utils.files import write_json

_PATIENCE_SECONDS = 120
PATIENCE = 40  # seconds, for what has to be over in a few, on a machine that does other things too


class Ended:
    """How a process of a world has ended: status, the function's result, and what it wrote."""

    def __init__(self, status, result=None, output=""):
        self.status, self.result, self.output = status, result, output

    def __repr__(self):
        return f"status {self.status}\n{self.output}"


def in_world(size, function, *arguments, environment=(), patience=_PATIENCE_SECONDS, flushes=False):
    """[Ended of each process] of a world in which all call function(*arguments), module-level in a test's file.

    A process that has not ended within the patience, in seconds, is killed and fails the test.
    flushes: whether what they save waits for the disk, as it does outside of tests.
    """
    port = _free_port()
    processes, ends = [], []
    for rank in range(size):
        receiver, sender = SERVER.Pipe(duplex=False)
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
        place |= {"MASTER_ADDR": "127.0.0.1", **dict(environment)}
        call = flushes, function.__code__.co_filename, function.__name__, arguments
        process = SERVER.Process(target=_process, args=(sender, {k: str(v) for k, v in place.items()}, *call))
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


def _process(sender, environment, flushes, path, name, arguments):
    gc.freeze()  # the objects of the libraries, which a collection need not look at
    draw_seeds()
    if not flushes:  # for many short runs that no power cut meets, as tests/conftest.py does for those of tests/base
        os.fsync = lambda descriptor: None
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
    sys.path.insert(0, os.path.dirname(path))  # for the workers of a loader, too
    return importlib.import_module(Path(path).stem)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
