"""Commands for tests, run in processes forked from one that has imported the libraries, so that each starts in no time.

run_forked and start_forked do what `python <arguments>` does. So do the processes that such a command starts itself,
such as the ranks of a launch: Popen forks them from the command, as their parent, instead of executing python.
What a test says of a new process (its imports, flags of the interpreter) needs helpers.run, which starts a real one.
"""

import atexit
import functools
import gc
import io
import logging
import multiprocessing.resource_tracker
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from multiprocessing import reduction
from pathlib import Path

import numpy as np
import torch
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

from helpers import PROJECT

SERVER = multiprocessing.get_context("forkserver")
# Of the workers of loaders: python's default, which is "fork" up to 3.13, unless make test-spawn sets another.
START_METHOD = os.environ.get("START_METHOD", multiprocessing.get_all_start_methods()[0])
_TESTS = PROJECT / "tests"
_PRELOADED = [
    "pydantic",
    "pytest",
    "safetensors.torch",
    "tensorboard.backend.event_processing.event_accumulator",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.run",
    "torch.utils.tensorboard",
    "torchmetrics",
    "torchvision",
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
SERVER.set_forkserver_preload(_PRELOADED)
_OURS = {path.stem for place in (PROJECT, _TESTS) for path in place.iterdir()}
_left = []
_LIBRARY_PATH = [path for path in sys.path if Path(path) not in (PROJECT, _TESTS)]


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
    process = SERVER.Process(target=_command, args=(arguments, Path(cwd).resolve(), dict(os.environ), descriptors))
    process.start()
    return process


def _command(command, folder, environment, descriptors):
    """Do what `python <command>` does, in this process of the server's, in the folder and with the files."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal; pytest may run in the background
    for number, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor.detach(), number)
    os.chdir(folder)
    _do(command, environment)


class ForkingPopen(subprocess.Popen):
    """A Popen whose child, if it is to be `python <command>`, does that without executing python."""

    def __init__(self, args, *others, env=None, preexec_fn=None, **options):
        words = [] if isinstance(args, (str, bytes, os.PathLike)) else list(map(str, args))
        if words[:1] == [sys.executable] and _is_command(words[1:]) and not (preexec_fn or options.get("shell")):
            preexec_fn = functools.partial(_become, words[1:], dict(os.environ if env is None else env))
        super().__init__(args, *others, env=env, preexec_fn=preexec_fn, **options)


def _is_command(words):
    """Whether these are a script, or a flag that _do knows and more."""
    return bool(words) and (words[0] in ("-c", "-m", "-u") or not words[0].startswith("-"))


def _become(command, environment):
    """Do what `python <command>` does and end, in a child of Popen, which has its files, folder and session."""
    gc.enable()  # which Popen has switched off
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # Popen waits for the end of one of them
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # as python ignores them
        signal.signal(number, signal.SIG_IGN)
    atexit._clear()
    atexit.register(logging.shutdown)
    logging.disable(logging.NOTSET)
    logging.root.handlers.clear()
    multiprocessing.resource_tracker._resource_tracker.__init__()
    os._exit(SERVER.Process(target=_do, args=(command, environment))._bootstrap())


def _do(command, environment):
    """Do what `python <command>` does, with the standard output and error that this process has."""
    gc.freeze()  # the objects of the libraries, which a collection need not look at
    unbuffered = command[0] == "-u" or bool(environment.get("PYTHONUNBUFFERED"))
    command = command[command[0] == "-u" :]
    _left.extend([sys.stdout, sys.__stdout__, sys.stderr, sys.__stderr__])  # what they hold is the parent's to write
    for number, name in enumerate(("stdout", "stderr"), start=1):
        binary = open(number, "wb", 0 if unbuffered else -1, closefd=False)  # noqa: SIM115
        how = {"encoding": getattr(sys, name).encoding, "errors": getattr(sys, name).errors}
        by_line = not unbuffered and (name == "stderr" or os.isatty(number))
        text = io.TextIOWrapper(binary, **how, line_buffering=by_line, write_through=unbuffered)
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)
    draw_seeds()
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # that of the environment
    multiprocessing.set_start_method(START_METHOD, force=True)  # of the workers of loaders, as python does
    subprocess.Popen = subprocess_handler.Popen = ForkingPopen
    for name in [name for name in sys.modules if name.partition(".")[0] in _OURS]:
        del sys.modules[name]
    sys.argv = command if command[0] not in ("-c", "-m") else [command[0], *command[2:]]
    begin = Path.cwd() if sys.argv[0] in ("-c", "-m") else Path(command[0]).resolve().parent
    sys.path = [str(begin), *_LIBRARY_PATH]
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


def draw_seeds():
    """Give this process random numbers of its own, as each new process has; those of `random` are seeded by a fork."""
    torch.default_generator.seed()
    np.random.seed()
