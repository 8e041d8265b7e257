"""Commands for tests, run in processes forked from one that has imported the libraries, so that each starts in no time.

run_forked and start_forked do what `python <arguments>` does. So do the processes that such a command starts itself,
such as the ranks of a launch: Popen forks them from the command, as their parent, instead of executing python.
What a test says of a new process (its imports, flags of the interpreter) needs helpers.run, which starts a real one.

All have the hash seed of the server, so that sets of text have one order in all of them, which they have not in real
ones. A process whose environment holds other variables PYTHON... than the server's, as PYTHONHASHSEED=random, is a
real one; so is one that is given descriptors or flags of the interpreter. Other variables that libraries read only
when they are imported, as OMP_NUM_THREADS, have no effect.
"""

import atexit
import contextlib
import functools
import gc
import io
import logging
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
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
            kill_all(process)
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


def kill_all(process):
    """Kill a process of start_forked and all that it has started, also in sessions of their own."""
    for pid in family(process.pid):
        with contextlib.suppress(ProcessLookupError):  # ended by now
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # those whose parent has ended before
    process.join()


def family(pid):
    """Ids of a process and all that it has started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(one for child in children for one in family(int(child)))]


def _settings(environment):
    """The variables that python itself reads when it starts, but for those that _do knows."""
    known = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
    return {key: text for key, text in environment.items() if key.startswith("PYTHON") and text and key not in known}


_AT_START = _settings(os.environ)  # of the server


def _command(command, folder, environment, descriptors):
    """Do what `python <command>` does, in this process of the server's, in the folder and with the files."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal; pytest may run in the background
    for number, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor.detach(), number)
    os.chdir(folder)
    if _settings(environment) != _AT_START:
        os.execve(sys.executable, [sys.executable, *command], environment)
    _do(command, environment)


class ForkingPopen(subprocess.Popen):
    """A Popen whose child, if it is to be `python <command>`, does that without executing python."""

    def __init__(self, args, *others, env=None, preexec_fn=None, **options):
        words = [] if isinstance(args, (str, bytes, os.PathLike)) else list(map(str, args))
        environment = dict(os.environ if env is None else env)
        others_wished = preexec_fn or any(options.get(name) for name in ("shell", "executable", "pass_fds"))
        is_plain = not others_wished and options.get("close_fds", True) and _settings(environment) == _AT_START
        if words[:1] == [sys.executable] and _is_command(words[1:]) and is_plain:
            preexec_fn = functools.partial(_become, words[1:], environment)
        super().__init__(args, *others, env=env, preexec_fn=preexec_fn, **options)


def _is_command(words):
    """Whether these are a script, or -c or -m and what it runs, maybe after -u, which is what _do knows."""
    words = words[words[:1] == ["-u"] :]
    if words[:1] in (["-c"], ["-m"]):
        return len(words) > 1
    return bool(words) and not words[0].startswith("-")


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
    weakref.finalize._registry.clear()  # the parent's, as are its temporary folders
    weakref.finalize._registered_with_atexit = False
    atexit.register(logging.shutdown)
    for function in (multiprocessing.util._exit_function, torch.utils.data._utils._set_python_exit_flag):
        atexit.register(function)
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
    with contextlib.suppress(OSError):  # there is none
        sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    draw_seeds()
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # that of the environment
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    sys.excepthook, threading.excepthook = sys.__excepthook__, threading.__excepthook__
    multiprocessing.set_start_method(START_METHOD, force=True)  # of the workers of loaders, as python does
    subprocess.Popen = subprocess_handler.Popen = ForkingPopen
    for name in [name for name in sys.modules if name.partition(".")[0] in _OURS]:
        del sys.modules[name]
    sys.orig_argv = [sys.executable, *command]
    sys.argv = command if command[0] not in ("-c", "-m") else [command[0], *command[2:]]
    begin = Path.cwd() if sys.argv[0] in ("-c", "-m") else Path(command[0]).resolve().parent
    sys.path = [str(begin), *_LIBRARY_PATH]
    interrupted = False
    try:
        if command[0] == "-c":
            _left.append({"__name__": "__main__"})  # what it makes lives until the end of the process
            exec(compile(command[1], "<string>", "exec"), _left[-1])
        elif command[0] == "-m":
            _left.append(runpy.run_module(command[1], run_name="__main__", alter_sys=True))
        else:
            _left.append(runpy.run_path(command[0], run_name="__main__"))
    except SystemExit as end:
        if isinstance(end.code, int | None):
            raise
        print(end.code, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        interrupted = True
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()  # which multiprocessing leaves out
    if interrupted:
        sys.stdout.flush()
        sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def draw_seeds():
    """Give this process random numbers of its own, as each new process has; those of `random` are seeded by a fork."""
    torch.default_generator.seed()
    np.random.seed()
