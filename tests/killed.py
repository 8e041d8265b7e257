"""Run train.py in a process that kills itself: python killed.py KIND COUNT <arguments of train.py>.

KIND says what is counted: "step" (calls of OptimStep.step), "file" (what a save asks of the file system), "valid"
(validation batches) or "ms" (milliseconds). At the given count, in the middle of it, the process gets SIGKILL; of
several processes the one of rank KILLED_RANK in the environment. The file KILLED_AT tells the time of it.
"""

import builtins
import functools
import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path


def die():
    if "KILLED_AT" in os.environ:
        Path(os.environ["KILLED_AT"]).write_text(str(time.time()))
    os.kill(os.getpid(), signal.SIGKILL)


def dying_at(count, function):
    """The function, which at its count-th call kills the process instead."""
    calls = iter(range(1, count))

    @functools.wraps(function)
    def counted(*args, **kwargs):
        if next(calls, None) is None:
            die()
        return function(*args, **kwargs)

    return counted


def set_trap(kind, count):
    if kind == "ms":
        timer = threading.Timer(count / 1000, die)
        timer.daemon = True
        timer.start()
        return
    import base.training.evaluate
    import base.training.optim_step
    import utils.distributed.sharded_checkpoint
    import utils.files
    import utils.runs.checkpoint

    if kind == "step":
        base.training.optim_step.OptimStep.step = dying_at(count, base.training.optim_step.OptimStep.step)
    elif kind == "valid":
        base.training.evaluate.record = dying_at(count, base.training.evaluate.record)
    elif kind == "file":
        count_operations(count, utils.runs.checkpoint, utils.files, utils.distributed.sharded_checkpoint)


class FileWrapper:
    """A file of which a subclass changes what it likes."""

    def __init__(self, file):
        self._file = file

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()


def count_operations(count, *modules):
    """Let the count-th open, write, flush, rename or removal that the modules ask for be the last."""
    step = dying_at(count, lambda: None)

    class Watched(FileWrapper):
        def write(self, data):
            self._file.write(data[: len(data) // 2])
            step()
            return self._file.write(data[len(data) // 2 :])

    def watched_open(path, mode="r", *args, **kwargs):
        step()
        file = builtins.open(path, mode, *args, **kwargs)  # noqa: SIM115
        return Watched(file) if mode[0] in "wx" else file

    for module in modules:
        module.open = watched_open
    for name in ("fsync", "replace"):
        function = getattr(os, name)
        setattr(os, name, lambda *args, function=function: (step(), function(*args), step())[1])


if __name__ == "__main__":
    kind, count, *arguments = sys.argv[1:]
    sys.path.insert(0, os.getcwd())
    if os.environ.get("RANK", "0") == os.environ.get("KILLED_RANK", "0"):
        set_trap(kind, int(count))
    sys.argv = ["train.py", *arguments]
    runpy.run_path("train.py", run_name="__main__")
