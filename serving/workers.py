"""Workers: several processes that serve one port, and their parent, which replaces one that dies and ends them all."""

import contextlib
import functools
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable

from utils.errors import UserError, clean_exit, print_error

_KILL_AFTER_SECONDS = 10


class Workers:
    """Runs a function in several forked processes until a signal, and ends with status 0 then.

    number: of processes.
    work: called in each of them with (text, ready): what the first one passed to its ready, None in that one itself,
        and a function to call with a text when it is ready. It returns when SIGTERM has ended it.

    The parent should have imported little and started no thread. A worker that ends before it is ready ends all with
    its exit status, since another one would do the same. One that ends later is replaced, and the console says so.
    """

    def __init__(self, number: int, work: Callable[[str | None, Callable[[str], object]], None]) -> None:
        self._number, self._work = number, work
        self._running: set[int] = set()
        self._text: str | None = None
        self._ending = False

    def run(self, started: Callable[[str], None], ends: Callable[[], None]) -> None:
        """Return when a signal has ended all workers.

        started: called with the text when all of them are ready.
        ends: called before they are told to end; closes what the parent holds for them, such as a port.
        """
        self._ends = ends
        folder = tempfile.mkdtemp(prefix="serve-metrics-")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # in which the workers add up their metrics
        before = {number: signal.signal(number, self._end) for number in (signal.SIGTERM, signal.SIGINT)}
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._kill)
        self._alive, self._of_parent = os.pipe()  # the workers end when the parent's end is closed, whatever closes it
        try:
            for _ in range(self._number):  # one after the other: what is wrong is said by the first one alone
                self._start()
            if not self._ending:
                started(self._text or "")
            while self._running:
                self._await_one()
        finally:
            signal.alarm(0)
            os.close(self._of_parent)
            os.close(self._alive)
            for number, handler in before.items():
                signal.signal(number, handler)
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]
            shutil.rmtree(folder, ignore_errors=True)

    def _start(self):
        """Fork a worker and wait until it is ready. Raises SystemExit with its status if it ends before."""
        if self._ending:
            return
        told, telling = os.pipe()
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # until the worker is known, or has its own handlers
        process = os.fork()
        if process == 0:
            for number in signals:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            os.close(self._of_parent)
            os.close(told)
            _work_and_exit(functools.partial(self._work, self._text), self._alive, telling)
        self._running.add(process)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        os.close(telling)
        with open(told, encoding="utf-8") as pipe:
            text = pipe.readline()  # nothing if the worker ends
        if text:
            self._text = self._text or json.loads(text)
        elif not self._ending:
            _, status = os.waitpid(process, 0)
            self._running.discard(process)
            self._end()
            while self._running:
                self._await_one()
            raise SystemExit(abs(os.waitstatus_to_exitcode(status)))

    def _await_one(self):
        process, status = os.wait()
        self._running.discard(process)
        if not self._ending:
            print_error(f"worker {process} ended with status {os.waitstatus_to_exitcode(status)}; another one starts")
            self._start()

    def _end(self, *_):
        self._ending = True
        self._ends()
        if self._running:
            signal.alarm(_KILL_AFTER_SECONDS)
        self._send(signal.SIGTERM)

    def _kill(self, *_):
        self._send(signal.SIGKILL)

    def _send(self, number):
        for process in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)


def require_workers(number: int) -> None:
    """Raise UserError unless so many workers can run here."""
    if number < 1:
        raise UserError(f"--workers: got {number}; it should be 1 or more")
    if number > 1 and not hasattr(os, "fork"):
        raise UserError("--workers: this system cannot fork; start one service on each of several ports")


def _work_and_exit(work, alive, telling):
    """Run the function in a worker, and end the process without what its parent would do at its end."""

    def end_with_parent():
        os.read(alive, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    status = 1
    try:
        threading.Thread(target=end_with_parent, daemon=True).start()
        with clean_exit():
            work(lambda text: os.write(telling, json.dumps(text).encode() + b"\n"))
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
