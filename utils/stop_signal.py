"""Signals that ask a run to stop, remembered until it is between two steps and can save."""

import os
import signal
import threading

_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")  # Ctrl-C; what SLURM and clouds send before they take a machine back
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


class StopSignal:
    """While entered, Ctrl-C, SIGTERM and SIGUSR1 are remembered as `received` for a loop that asks between two steps.

    A second Ctrl-C raises KeyboardInterrupt wherever the program is. So does the first signal if nobody has asked yet:
    then nothing would come of waiting. Processes forked meanwhile, such as workers of a DataLoader, are ended by the
    signals as if this were not there.
    """

    def __init__(self):
        self.received = None
        self._asked = False
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in _SIGNALS}
            self._before = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
        for number in self._before:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asks(self):
        """The number of the signal that has come, 0 if none has."""
        self._asked = True
        return int(self.received or 0)

    @property
    def by(self):
        """ " by Ctrl-C", or whatever has come; "" if nothing has."""
        name = "Ctrl-C" if self.received == signal.SIGINT else getattr(self.received, "name", None)
        return f" by {name}" if name else ""

    def end(self, number=None):
        """Raise KeyboardInterrupt after a Ctrl-C, else SystemExit with 128 plus the signal's number.

        number: of the signal, if it has come to another process.
        """
        self.received = signal.Signals(number or self.received)
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.received)

    def _handle(self, number, frame):
        again = self.received is not None
        self.received = signal.Signals(number)
        if not self._asked or (again and number == signal.SIGINT):
            self.end()


def _forget_in_child():
    for number in _SIGNALS:
        if isinstance(getattr(signal.getsignal(number), "__self__", None), StopSignal):
            signal.signal(number, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
