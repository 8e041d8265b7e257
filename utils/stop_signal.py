"""Signals that ask a run to stop, remembered until it is between two steps and can save.

torch's launcher passes signals on to the processes that it has started, and kills those that have not ended some time
later, such as one whose step waits for a process that is gone. It has nothing that lets a process save before that.
"""

import errno
import os
import signal
import sys
import threading
from typing import Any, NoReturn, Self

# Ctrl-C; what SLURM and clouds send before they take a machine back; a terminal or an ssh connection that is closed
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]  # Windows has the first two alone
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows, SIGTERM ends another process as SIGKILL does


def heeded() -> dict[int, Any]:
    """{number: handler} of the signals that ask a run to stop, without those that are ignored: SIGHUP under nohup."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    return {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}


def leave_closed_terminal() -> None:
    """Discard what is written to a terminal that was closed; there, each write is an error."""
    for output in (1, 2):
        try:
            os.get_terminal_size(output)
        except OSError as error:
            if error.errno == errno.EIO:
                os.dup2(os.open(os.devnull, os.O_WRONLY), output)


def keep_resource_tracker() -> None:
    """Start multiprocessing's resource tracker, for workers that are not forked, so that no signal here ends it.

    By itself it ignores Ctrl-C and SIGTERM alone. After its end, python prints errors when the run ends.
    """
    if hasattr(signal, "pthread_sigmask"):
        from multiprocessing import resource_tracker

        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # which it inherits
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopSignal:
    """While entered, remembers Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP for a loop that asks between two steps.

    A second signal ends the program at once if one of the two is Ctrl-C. So does the first one if nobody has asked yet,
    as nothing would come of waiting. Processes started meanwhile, such as workers of a DataLoader, are ended by a
    signal; with several processes, they leave the group to which a launcher sends its signals.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._asked = False
        self._before = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = heeded()
        for number in self._before:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asks(self) -> int:
        """Number of the signal that has come, 0 if none has; to be called after each step."""
        self._asked = True
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


def _leave_launcher_s_group():
    """Leave the group to which a launcher sends its signals, in a worker: the run needs its workers to save."""
    if "RANK" in os.environ:
        os.setpgid(0, 0)


def _forget_in_child():
    _leave_launcher_s_group()
    for number in SIGNALS:
        if isinstance(getattr(signal.getsignal(number), "__self__", None), StopSignal):
            signal.signal(number, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
    # A spawned worker, or the server that forks workers, imports this with the run's script, before it imports torch.
    if any(word.startswith("from multiprocessing.") for word in sys.orig_argv):
        _leave_launcher_s_group()
