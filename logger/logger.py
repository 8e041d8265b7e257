"""Set up python's logging: the console at once, info.log as soon as the run has a folder."""

import logging
import logging.config
import logging.handlers
import os
import sys
from pathlib import Path

from utils.distributed.messages import is_first_to_say
from utils.distributed.world import is_main, who, world_size
from utils.errors import UserError
from utils.json_io import read_json

_CONFIG = Path(__file__).with_name("logger_config.json")


class _EarlyRecords(logging.handlers.MemoryHandler):
    """Keeps the records of a command, as a handler of the root logger, until there is a folder."""

    def __init__(self):
        super().__init__(capacity=sys.maxsize, flushLevel=sys.maxsize)


class ConsoleHandler(logging.Handler):
    """Prints records on standard output without tearing a progress bar that is being drawn."""

    def emit(self, record):
        try:
            from tqdm import tqdm

            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except BrokenPipeError:  # nobody reads any more, as behind `| head`; info.log has every line
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        except Exception:
            self.handleError(record)


class _OfOtherProcesses(logging.Filter):
    """Lets through what a process other than the first has to warn of, under its rank, unless the first says it too."""

    def filter(self, record):
        if record.levelno < logging.WARNING:
            return False
        if not hasattr(record, "passes"):  # asked once for all handlers
            record.passes = is_first_to_say(record.getMessage())
            record.msg, record.args = who() + record.getMessage(), ()
        return record.passes


class _OfFirstProcess(logging.Filter):
    """Lets everything through, and tells the other processes that it has been said."""

    def filter(self, record):
        if record.levelno >= logging.WARNING and not hasattr(record, "said"):  # once for all handlers
            record.said = is_first_to_say(record.getMessage())
        return True


def setup_logging(save_dir=None, log_config=_CONFIG):
    """Send log records to the console and, given a folder, to the files that log_config names, inside that folder.

    Records since the last call without a folder are written into its files first.
    """
    root = logging.getLogger()
    early = [record for handler in root.handlers if isinstance(handler, _EarlyRecords) for record in handler.buffer]
    config = {"disable_existing_loggers": False, **read_json(log_config)}
    files = {name for name, handler in config["handlers"].items() if "filename" in handler}
    for name in files:
        if save_dir is None:
            del config["handlers"][name]
        else:
            path = Path(save_dir) / config["handlers"][name]["filename"]
            if path.is_symlink():
                raise UserError(f"{path}: is a link; a log is not written through one")
            path.open("a").close()  # an OSError here says more than dictConfig's
            config["handlers"][name]["filename"] = str(path)
    if save_dir is None:
        config["root"]["handlers"] = [name for name in config["root"]["handlers"] if name not in files]
    logging.config.dictConfig(config)  # takes the root logger's handlers away, and the early records with them
    if world_size() > 1:
        for handler in root.handlers:
            handler.addFilter(_OfFirstProcess() if is_main() else _OfOtherProcesses())
            if not is_main() and hasattr(handler, "maxBytes"):
                handler.maxBytes = 0  # it is the first process that begins a new file
    if save_dir is None:
        root.addHandler(_EarlyRecords())
        return
    for record in early:
        for handler in root.handlers:
            if hasattr(handler, "baseFilename") and record.levelno >= handler.level:
                handler.handle(record)
