"""Patterns that choose parameters by their names, as shells choose files: "encoder.*", "*.bias"; and their bounds."""

import contextlib
import fnmatch
import re
import signal
import threading

from utils.errors import UserError, brief, shown
from utils.nearest import nearest

_MAX_PATTERNS = 100
_MAX_LENGTH = 200
_SECONDS = 2.0  # of computing; honest patterns take milliseconds


def choose_names(patterns, names, where, kind="parameter"):
    """The names that one of the patterns fits, in their order.

    where: of the patterns in the config, for errors. kind: what it is that has the names.

    Raises UserError for a pattern that fits none.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    names = list(names)
    if (
        not patterns
        or not isinstance(patterns, (list, tuple))
        or not all(isinstance(pattern, str) for pattern in patterns)
    ):
        raise UserError(f"{where}: got {brief(patterns)}; give patterns of names, such as 'encoder.*'")
    if mistake := patterns_mistake(patterns):
        raise UserError(f"{where}: got {brief(patterns)}; {mistake}")
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            close = nearest(pattern.replace("*", ""), names, cutoff=0.4)
            there = f"; is {close!r} meant?" if close else f"; there are {', '.join(map(shown, names[:4]))}, ..."
            raise UserError(f"{where}: no {kind} is called {pattern!r}{there}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def patterns_mistake(patterns):
    """What is wrong with the number or the length of patterns, a text or several; None if nothing is."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns or ())
    if len(patterns) > _MAX_PATTERNS or any(len(pattern) > _MAX_LENGTH for pattern in patterns):
        return f"it should be at most {_MAX_PATTERNS} patterns, of up to {_MAX_LENGTH} characters each"
    return None


def rename_mistake(rename):
    """The same for {regular expression: replacement}."""
    return patterns_mistake(rename.keys()) or patterns_mistake(rename.values())


def expression_errors(patterns):
    """What is wrong with each text that is no regular expression. To be called in_bounded_time."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            yield f"{brief(pattern)} is no regular expression: {error}"


@contextlib.contextmanager
def in_bounded_time(where):
    """Raise UserError, saying where, if what is within takes more than seconds of computing.

    For regular expressions: "(a+)+$" takes years on some texts, and no rule on its form tells all of its kind. Python's
    matcher yields to signals, which only the main thread gets, and Windows has no such timer; there, Ctrl-C remains.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, _SECONDS)
        yield
    except TimeoutError:
        raise UserError(f"{where}: the patterns take more than {_SECONDS:g} seconds; make them simpler") from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
