"""Signals that ask a run to stop, remembered until it is between two steps and can save.

torch's launcher passes signals on, and kills whoever has not ended a fixed time later. It cannot tell a process that
saves from one that waits for a process that is gone, which the watchdog here ends after seconds.
"""

import contextlib
import errno
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, Self

from utils.distributed.launch import world_size

# Ctrl-C; what SLURM and clouds send before they take a machine back; a terminal or an ssh connection that is closed
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
_watchdogs: "list[_Watchdog]" = []  # of the StopSignals that are entered


def heeded() -> dict[int, Any]:
    """{number: handler} of the signals that ask a run to stop, without those that are ignored: SIGHUP under nohup."""
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    return {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}


def leave_closed_terminal() -> None:
    """Discard what is written to a terminal that was closed; there, each write is an error."""
    for output in (1, 2):
        try:
            os.get_terminal_size(output)
        except OSError as error:
            if error.errno == errno.EIO:
                os.dup2(os.open(os.devnull, os.O_WRONLY), output)


class StopSignal:
    """While entered, remembers Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP for a loop that asks between two steps.

    A second signal ends the program at once if one of the two is Ctrl-C. So does the first one if nobody has asked yet,
    as nothing would come of waiting. Processes forked meanwhile, such as workers of a DataLoader, are ended by a
    signal; with several processes, they leave the group to which a launcher sends its signals.

    With several processes, a step may wait forever for a process that is gone. A process in which no step ends within
    patience_seconds after a signal, or twice the longest step so far, is ended without having saved, unless it is
    unhurried().
    """

    patience_seconds = 10.0

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._watchdog: _Watchdog | None = None
        self._asked = False
        self._before = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = heeded()
        for number in self._before:
            signal.signal(number, self._handle)
        if self._before and world_size() > 1:
            self._watchdog = _Watchdog(self.patience_seconds, self._before)
            _watchdogs.append(self._watchdog)
        return self

    def __exit__(self, *error: object) -> None:
        if self._watchdog is not None:
            _watchdogs.remove(self._watchdog)
            self._watchdog.close()
            self._watchdog = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def expecting_steps(self) -> Iterator[None]:
        """Within it steps follow each other; after it there are no more, and nothing waits for one."""
        try:
            yield
        finally:
            if self._watchdog is not None:
                self._watchdog.pause()

    def asks(self) -> int:
        """Number of the signal that has come, 0 if none has; to be called after each step."""
        self._asked = True
        if self._watchdog is not None:
            self._watchdog.step()
        return int(self.received or 0)

    @property
    def by(self) -> str:
        """Text for a report: " by Ctrl-C", " by SIGTERM", or "" if no signal has come."""
        if self.received is None:
            return ""
        return " by Ctrl-C" if self.received == signal.SIGINT else f" by {self.received.name}"

    def end(self, number: int | None = None) -> NoReturn:
        """Raise KeyboardInterrupt after a Ctrl-C, else SystemExit with 128 plus the signal's number.

        number: of the signal, if another process has received it.
        """
        self.received = signal.Signals(number or self.received)
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.received)

    def _handle(self, number, frame):
        leave_closed_terminal()
        again = self.received is not None
        self.received = self.received or signal.Signals(number)
        if not self._asked or (again and signal.SIGINT in (number, self.received)):
            self.end()


@contextlib.contextmanager
def unhurried() -> Iterator[None]:
    """Within it, as while the run saves, no step is expected after a signal, however long it takes."""
    watchdogs = list(_watchdogs)
    for watchdog in watchdogs:
        watchdog.pause()
    try:
        yield
    finally:
        for watchdog in watchdogs:
            watchdog.resume()


class _Watchdog:
    """A thread that ends the process if no step ends in time after a signal.

    Python's handlers would wait for the main thread, which a collective may hold. So the signal itself wakes this
    thread, through a socket.
    """

    def __init__(self, seconds: float, numbers: Iterable[int]) -> None:
        self._seconds, self._numbers = seconds, numbers
        self._stepped = threading.Event()
        self._pauses = 0
        self._resumed = -math.inf  # when the last pause has ended
        self._last, self._longest = None, 0.0  # when the last step has ended; seconds of the longest one
        self._woken, self._wakes = socket.socketpair()
        self._wakes.setblocking(False)
        self._before = signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True).start()

    def step(self):
        """Note that a step has ended."""
        now = time.monotonic()
        self._longest = max(self._longest, now - (self._last or now))
        self._last = now
        self._stepped.set()

    def pause(self):
        """Expect no step until resume() has been called as often as this."""
        self._pauses += 1

    def resume(self):
        self._resumed = time.monotonic()
        self._pauses -= 1

    def close(self):
        """End the watch."""
        signal.set_wakeup_fd(self._before)
        self._stepped.set()
        self._wakes.close()

    def _watch(self):
        with self._woken:
            while number := self._woken.recv(1):  # nothing comes once the other end is closed
                if number[0] in self._numbers:
                    self._expect_a_step(number[0])

    def _expect_a_step(self, number):
        self._stepped.clear()
        seconds = max(self._seconds, 2 * self._longest)
        came = time.monotonic()
        while (left := max(came, self._resumed) + seconds - time.monotonic()) > 0 or self._pauses:
            if self._stepped.wait(min(max(left, 0.1), 1.0)):
                return
        name = signal.Signals(number).name
        leave_closed_terminal()
        print(f"error: {name} came, and no step ended in {seconds:g} seconds; not saved", file=sys.stderr, flush=True)
        os._exit(128 + number)


def _forget_in_child():
    if "RANK" in os.environ:
        os.setpgid(0, 0)  # out of the group to which a launcher sends its signals: the run needs its workers to save
    for number in _SIGNALS:
        if isinstance(getattr(signal.getsignal(number), "__self__", None), StopSignal):
            signal.signal(number, signal.SIG_DFL)
    if _watchdogs:
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
