"""The errors that a user can cause, and how a command ends on one."""

import argparse
import contextlib
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

_LET_SPEAK_SECONDS = 5.0
_LONG = 300  # letters


class UserError(ValueError):
    """An error that the user can correct. Its text says where, what was given and what would work, one error a line."""


class MissingSection(UserError, KeyError):
    """A section that a config lacks; also a KeyError, as config[name] raises for it."""

    __str__ = Exception.__str__  # a KeyError's is a repr


class Refused(ValueError):
    """A file that is not read because it may be harmful; the text says why."""


class EndedByError(SystemExit):
    """Ends a command on an error of the user, which has been reported. text: one error a line."""

    def __init__(self, text: str) -> None:
        super().__init__(2)
        self.text = text


class CheckpointError(UserError):
    """A checkpoint that cannot be written, found or trusted. Line breaks in a file's name are escaped."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(map(shown, lines)))


def shown(text: object, keep: str = "") -> str:
    """Return the text with all unprintable characters, such as line breaks, escaped as in repr.

    keep: characters that stay as they are.
    """
    return "".join(letter if letter.isprintable() or letter in keep else repr(letter)[1:-1] for letter in str(text))


def brief(value: object) -> str:
    """Return repr(value) for a message, shortened if it is long."""
    return shortened(repr(value))


def shortened(text: object) -> str:
    """Return shown(text); the middle of a long one is left out."""
    text = shown(text)
    return text if len(text) <= _LONG else f"{text[: _LONG // 2]} ... {text[-_LONG // 4 :]}"


def quantity(number: int, noun: str) -> str:
    """Return a number with its noun: 1 batch, 2 classes, 3,000 samples."""
    plural = "es" if noun.endswith(("tch", "ss")) else "s"
    return f"{number:,} {noun}{plural if number != 1 else ''}"


def refuse(errors: Iterable[str]) -> None:
    """Raise UserError with the errors, one a line, if there are any."""
    if lines := list(errors):
        raise UserError("\n".join(lines))


@contextlib.contextmanager
def clean_exit() -> Iterator[None]:
    """End the command on a UserError with its text and exit status 2, on Ctrl-C with 130; without a traceback.

    A package that is not installed is such an error, too.

    A reader that closes the pipe, as in `--print-config | head`, ends it silently. Several processes on a host meet the
    same error before they have joined; the first one prints it. Another process prints it if torchrun has not ended
    that process some seconds later: then it alone has met the error, or is much faster.
    """
    speaks = _speaks()
    try:
        with _ended_while_importing():
            yield
    except UserError as error:
        if not speaks:
            time.sleep(_LET_SPEAK_SECONDS)  # a launcher ends all processes when one has ended
        if speaks or "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun has not, so no process has printed it
            print_error(str(error))
        raise EndedByError(str(error)) from None
    except ModuleNotFoundError as error:
        if not (text := _missing_package(error)):
            raise
        if speaks:
            print_error(text)
        raise EndedByError(text) from None
    except KeyboardInterrupt:
        _say_interrupted()
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # discards buffered output
        raise SystemExit(1) from None


def _speaks():
    """Whether this process reports what all processes of its host meet."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _say_interrupted():
    if _speaks():
        print("interrupted", file=sys.stderr)


_IN_CPP = ("numpy", "torch")


@contextlib.contextmanager
def _ended_while_importing():
    """A context in which Ctrl-C ends the process at once while torch or NumPy is imported, before anything is written.

    Their C++ aborts on a KeyboardInterrupt, or loses it.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") in _IN_CPP:
                _say_interrupted()
                os._exit(130)
            frame = frame.f_back
        raise KeyboardInterrupt

    is_first = threading.current_thread() is threading.main_thread()
    if not is_first or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is handle:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _missing_package(error):
    """One line on a package that cannot be imported, and what would do; None for a module of an installed package."""
    name = (error.name or "").partition(".")[0]
    if not name or find_spec(name) is not None:
        return None
    place = traceback.extract_tb(error.__traceback__)[-1]
    environment = Path(__file__).resolve().parents[1] / ".venv"
    remedy = f"install it: pip install {name}"
    if (environment / "bin" / "activate").exists() and Path(sys.prefix).resolve() != environment.resolve():
        remedy = "activate the project's environment: source .venv/bin/activate"
    return f"{place.filename}, line {place.lineno}: the package {name} is not installed here; {remedy}"


def end_on_user_errors() -> None:
    """Make an uncaught UserError or Ctrl-C end the program as in clean_exit; other errors end it as before."""
    before = sys.excepthook
    if getattr(before, "__globals__", None) is globals():
        return

    def hook(kind, error, trace):
        if not issubclass(kind, (UserError, ModuleNotFoundError, KeyboardInterrupt)):
            return before(kind, error, trace)
        try:
            with clean_exit():
                raise error
        except ModuleNotFoundError:
            before(kind, error, trace)

    sys.excepthook = hook


def in_one_line(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Return the ArgumentParser, which then reports an error in one line, as clean_exit does."""

    def refuse(message):
        message = message.removeprefix("argument ")
        if found := re.fullmatch(r"(.*): invalid (int|float) value: (.*)", message, re.DOTALL):
            kind = {"int": "an integer", "float": "a number"}[found[2]]
            message = f"{found[1]}: got {found[3]}; it should be {kind}"
        with clean_exit():
            raise UserError(message)

    if type(parser).error is argparse.ArgumentParser.error:  # else a subclass reports errors its own way
        parser.error = refuse
    return parser


def print_error(text: str) -> None:
    """Report the errors in the text, one a line, on the console and in the run's log if it is open."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr may be closed, or None
        sys.stderr.write("".join(f"error: {shown(line)}\n" for line in text.split("\n")))
        sys.stderr.flush()
    log_error(text)


def log_error(text: str, level: int = logging.ERROR) -> None:
    """Write an error into the run's log alone, if it is open."""
    record = logging.LogRecord("run", level, __file__, 0, "%s", (text,), None)
    for handler in logging.getLogger().handlers:
        if hasattr(handler, "baseFilename"):
            handler.emit(record)  # not through its filters, which may communicate with processes that have ended


# At once, for what comes before clean_exit: a command's other imports, which Ctrl-C may interrupt, and which need
# packages that are missing outside the project's environment.
end_on_user_errors()
