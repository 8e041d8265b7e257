"""Set up Python's logging: the console at once, info.log as soon as the run has a folder."""

import contextlib
import logging
import logging.config
import logging.handlers
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.distributed.launch import is_main, who, world_size
from utils.distributed.world import is_first_to_say
from utils.errors import UserError, brief, log_error, shown
from utils.files import open_to_append, read_json

_CONFIG = Path(__file__).with_name("logger_config.json")

IN_FILE_ONLY = {"in_file_only": True}
"""Given as `extra` to a logger's method, for a record that goes into info.log and not onto the console."""


class _EarlyRecords(logging.handlers.MemoryHandler):
    """Keeps the records of a command, as a handler of the root logger, until there is a folder."""

    def __init__(self) -> None:
        super().__init__(capacity=sys.maxsize, flushLevel=sys.maxsize)


class PrintableFormatter(logging.Formatter):
    """Escapes control characters, which a name in a file from a stranger may hold and a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record), keep="\n\t")


class ConsoleHandler(logging.Handler):
    """Prints records on standard output without tearing a progress bar that is being drawn.

    If standard output is closed or full, as behind `| head` or on a full disk, it says so once and prints no more.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "in_file_only", False):
            return
        try:
            from tqdm import tqdm

            text = self.format(record)
            if sys.stdout is None or sys.stdout.closed:
                self._print_no_more("it is closed")
            encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
            tqdm.write(text.encode(encoding, "backslashreplace").decode(encoding), file=sys.stdout)
            sys.stdout.flush()  # pyright: ignore[reportOptionalMemberAccess]
        except OSError as error:
            self._print_no_more(error.strerror or error)
        except Exception:
            self.handleError(record)

    def _print_no_more(self, reason):
        text = f"nothing more is printed on standard output ({reason}); the run continues, and its info.log is complete"
        nowhere = open(os.devnull, "w")  # noqa: SIM115
        try:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # what waits in a buffer goes nowhere, too
        except (OSError, ValueError, AttributeError):
            sys.stdout = nowhere
        with contextlib.suppress(OSError, ValueError):
            print(f"warning: {text}", file=sys.stderr, flush=True)
        log_error(text, logging.WARNING)


class RunLog(logging.handlers.RotatingFileHandler):
    """A run's info.log. An error of the file, as of a full disk, is kept for require_log_files and not printed."""

    failure: OSError | None = None

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self.failure = self.failure or error
        else:
            super().handleError(record)


def require_log_files(done: str) -> None:
    """Raise UserError if a log file has lost records since the last call. done: text that says what is safe."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RunLog) and handler.failure is not None:
            reason = handler.failure.strerror or handler.failure
            handler.failure = None
            raise UserError(f"{shown(handler.baseFilename)}: cannot write the log: {reason}; {done}")


class _OnceForAll(logging.Filter):
    """With several processes: passes all records of the first one, and warnings that only another one logs, by rank.

    torch leaves it to each process what it logs.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return is_main()
        attributes = vars(record)
        if "passes" not in attributes:  # asked once for all handlers
            attributes["passes"] = is_first_to_say(record.getMessage())
            record.msg, record.args = who() + record.getMessage(), ()
        return attributes["passes"]


def setup_logging(save_dir: str | Path | None = None, log_config: str | Path = _CONFIG) -> None:
    """Send log records to the console and, given a folder, to the files that log_config names, inside that folder.

    Records since the last call without a folder are written into its files first.
    """
    root = logging.getLogger()
    early = [record for handler in root.handlers if isinstance(handler, _EarlyRecords) for record in handler.buffer]
    config = {"disable_existing_loggers": False, **read_json(log_config)}
    if Path(log_config) != _CONFIG:
        _refuse_factories(config, log_config)
    files = {name for name, handler in config["handlers"].items() if "filename" in handler}
    for name in files:
        if save_dir is None:
            del config["handlers"][name]
        else:
            path = Path(save_dir) / config["handlers"][name]["filename"]
            open_to_append(path).close()  # which refuses links, and whose OSError says more than dictConfig's
            config["handlers"][name]["filename"] = str(path)
    if save_dir is None:
        config["root"]["handlers"] = [name for name in config["root"]["handlers"] if name not in files]
    logging.config.dictConfig(config)  # removes the root logger's handlers, and the early records with them
    if world_size() > 1:
        for handler in root.handlers:
            handler.addFilter(_OnceForAll())
            if isinstance(handler, logging.handlers.RotatingFileHandler) and not is_main():
                handler.maxBytes = 0  # it is the first process that begins a new file
    if save_dir is None:
        root.addHandler(_EarlyRecords())
        return
    for record in early:
        for handler in root.handlers:
            if hasattr(handler, "baseFilename") and record.levelno >= handler.level:
                handler.handle(record)


_MODULES = ("logging", "logging.handlers", "logger.logger")
_EXTERNAL = ("ext://sys.stdout", "ext://sys.stderr")


def _refuse_factories(config: Any, place: str | Path) -> None:
    """Raise UserError if a config of logging would call anything but a class of logging or of this file."""
    for key, value in _pairs(config):
        if key == "()" or (key == "class" and not _is_of_logging(value)):
            rule = f"only classes of {', '.join(_MODULES)} are allowed here, and no factories"
            raise UserError(f"{shown(place)}: {brief(value)}: {rule}")
        if isinstance(value, str) and value.startswith("ext://") and value not in _EXTERNAL:
            raise UserError(f"{shown(place)}: {brief(value)}: only {' and '.join(_EXTERNAL)} are allowed")


def _pairs(value: Any) -> Iterator[tuple[Any, Any]]:
    """(key, value) of all objects and lists within a JSON value."""
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield key, item
            yield from _pairs(item)


def _is_of_logging(name):
    """Whether a dotted name names a handler, formatter or filter that one of the modules defines itself."""
    module, _, attribute = name.rpartition(".") if isinstance(name, str) else ("", "", "")
    found = getattr(sys.modules.get(module), attribute, None) if module in _MODULES else None
    kinds = (logging.Handler, logging.Formatter, logging.Filter)
    return isinstance(found, type) and issubclass(found, kinds) and found.__module__ == module
