"""The errors that a user can cause, and how a command ends on one."""

import argparse
import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator

_LET_SPEAK_SECONDS = 5.0
_LONG = 300  # letters


class UserError(ValueError):
    """An error of the user's. Its text says where it is, what was given and what would work, one error a line."""


class Refused(ValueError):
    """A file that must not be read; the text says why."""


class CheckpointError(UserError):
    """A checkpoint that cannot be written, found or trusted. Each line stays one, whatever its file is called."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(map(shown, lines)))


def shown(text: object, keep: str = "") -> str:
    """The text with whatever is not printable, as control characters and line breaks, escaped as repr escapes it.

    keep: characters that stay as they are.
    """
    return "".join(letter if letter.isprintable() or letter in keep else repr(letter)[1:-1] for letter in str(text))


def brief(value: object) -> str:
    """repr(value) for a message, of which the middle is left out where it is long."""
    return shortened(repr(value))


def shortened(text: object) -> str:
    """shown(text), of which the middle is left out where it is long."""
    text = shown(text)
    return text if len(text) <= _LONG else f"{text[: _LONG // 2]} ... {text[-_LONG // 4 :]}"


def refuse(errors: Iterable[str]) -> None:
    """Raise UserError with the errors, a line each, if there are any."""
    if lines := list(errors):
        raise UserError("\n".join(lines))


@contextlib.contextmanager
def clean_exit() -> Iterator[None]:
    """End the command on a user's error with its text and exit status 2, on Ctrl-C with 130; no traceback.

    A reader that closes the pipe, as in `--print-config | head`, ends it silently. Of several processes on a host, all
    of which meet the same error before they have joined, the first one tells it. So does another one which
    torchrun has not ended for that some seconds later: it alone has met the error, or is much faster.
    """
    speaks = os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        yield
    except UserError as error:
        if not speaks:
            time.sleep(_LET_SPEAK_SECONDS)  # a launcher ends all when one has ended
        if speaks or "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun would have, so nobody has told of it
            print_error(str(error))
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        if speaks:
            print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still waiting goes nowhere
        raise SystemExit(1) from None


def end_on_user_errors() -> None:
    """From now on a UserError that nothing catches ends the program as in clean_exit, other errors as they did."""
    before = sys.excepthook
    if getattr(before, "__module__", "") == __name__:
        return

    def hook(kind, error, traceback):
        if not issubclass(kind, UserError):
            return before(kind, error, traceback)
        with clean_exit():
            raise error

    sys.excepthook = hook


def in_one_line(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The ArgumentParser, which from now on tells of what it cannot read in one line, as clean_exit does."""

    def refuse(message):
        with clean_exit():
            raise UserError(message.removeprefix("argument "))

    if type(parser).error is argparse.ArgumentParser.error:  # not one of its own
        parser.error = refuse
    return parser


def print_error(text: str) -> None:
    """Report an error, a line of the text each, on the console and in the run's log, if there is one by now."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it may be closed, or none
        sys.stderr.write("".join(f"error: {shown(line)}\n" for line in text.split("\n")))
        sys.stderr.flush()
    log_error(text)


def log_error(text: str, level: int = logging.ERROR) -> None:
    """Write of an error into the run's log alone, if there is one by now."""
    record = logging.LogRecord("run", level, __file__, 0, "%s", (text,), None)
    for handler in logging.getLogger().handlers:
        if hasattr(handler, "baseFilename"):
            handler.emit(record)  # past its filters, which may ask processes that are gone
