"""Patterns that choose parameters by their names, as shells choose files: "encoder.*", "*.bias"; and their limits."""

import contextlib
import fnmatch
import re
import signal
import threading
from collections.abc import Iterable, Iterator

from utils.errors import UserError, brief, shown
from utils.nearest import nearest

_MAX_PATTERNS = 100
_MAX_LENGTH = 200
_SECONDS = 2.0  # of computing; honest patterns take milliseconds


def choose_names(patterns: str | list[str], names: Iterable[str], where: str, kind: str = "parameter") -> list[str]:
    """Return the names that match one of the patterns, in their order.

    where: the place of the patterns in the config, for errors. kind: what has the names, for errors.

    Raises UserError for a pattern that matches none.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    names = list(names)
    if not patterns or not isinstance(patterns, (list, tuple)) or not all(isinstance(p, str) for p in patterns):
        raise UserError(f"{where}: got {brief(patterns)}; give patterns of names, such as 'encoder.*'")
    if error := patterns_mistake(patterns):
        raise UserError(f"{where}: got {brief(patterns)}; {error}")
    chosen = set()
    for pattern in patterns:
        matching = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not matching:
            close = nearest(pattern.replace("*", ""), names, cutoff=0.4)
            known = f"; is {close!r} meant?" if close else f"; there are {', '.join(map(shown, names[:4]))}, ..."
            raise UserError(f"{where}: no {kind} is called {pattern!r}{known}")
        chosen.update(matching)
    return [name for name in names if name in chosen]


def patterns_mistake(patterns: str | Iterable[str] | None) -> str | None:
    """Return what the number or the length of patterns should be; None if it is that."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns or ())
    if len(patterns) > _MAX_PATTERNS or any(len(pattern) > _MAX_LENGTH for pattern in patterns):
        return f"it should be at most {_MAX_PATTERNS} patterns, of up to {_MAX_LENGTH} characters each"
    return None


def rename_mistake(rename: dict[str, str]) -> str | None:
    """Return the same for {regular expression: replacement}."""
    return patterns_mistake(rename.keys()) or patterns_mistake(rename.values())


def expression_errors(patterns: Iterable[str]) -> Iterator[str]:
    """Yield the error of each text that is not a regular expression. Call it in_bounded_time."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            yield f"{brief(pattern)} is not a regular expression: {error}"


@contextlib.contextmanager
def in_bounded_time(where: str) -> Iterator[None]:
    """Raise UserError, which names `where`, if the code within computes for more than two seconds.

    For regular expressions: "(a+)+$" takes years on some texts, and no rule about their form finds all of this kind.
    Python's matcher yields to signals, but only in the main thread, and Windows has no such timer; there, press Ctrl-C.
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
