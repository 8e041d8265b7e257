"""Read a loader batch by batch: errors name their sample and come between two steps; generators stay as they are."""

import re
import signal
import threading
import traceback
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from utils.errors import UserError

_ASK_SECONDS = 5.0  # how often torch looks whether workers are alive


class DataError(UserError):
    """Data that cannot be read. Raised while a batch is awaited, so that the run can still be saved."""

    def __init__(self, message: str) -> None:
        if "Original Traceback" in message:  # torch raises a worker's error anew, with its whole traceback as message
            message = message.strip().splitlines()[-1].partition("Error: ")[2]
        super().__init__(message)


def batches_of(loader: Iterable[Any]) -> Iterator[Any]:
    """Iterator, started already, over the loader's batches. Raises DataError for whatever goes wrong while one is read.

    A loader may have patience_seconds: how long to wait for a batch from its workers.
    """
    iterator = iter(loader)
    if getattr(loader, "timeout", 0) == 0:
        _find_dead_workers_later()
    if hasattr(iterator, "_try_get_data") and "_try_get_data" not in vars(iterator):
        _wait_patiently(iterator, getattr(loader, "patience_seconds", 0))
    return _read(iterator)


def sample_error(dataset: Any, index: int, error: Exception) -> DataError:
    """The DataError for an error of reading dataset[index]; it names the sample's file if that is known."""
    if isinstance(error, UserError):
        return DataError(f"data_loader: sample {index}: {error}")
    file = getattr(error, "filename", None) or _file_of(dataset, index)
    return DataError(f"data_loader: sample {index}{f' ({file})' if file else ''}: {_in_one_line(error)}")


def _read(iterator):
    try:
        while True:
            try:
                batch = next(iterator)
            except StopIteration:
                return
            yield batch
    except DataError:
        raise
    except UserError as error:
        raise DataError(str(error)) from error
    except Exception as error:
        raise DataError(f"data_loader: {_describe(error, getattr(iterator, '_workers', ()))}") from error


def _wait_patiently(iterator, seconds):
    """Let torch's iterator raise TimeoutError once its workers have brought nothing for so long; 0: never.

    It holds the iterator weakly: in a cycle with it, it would leave the ending of the workers to the garbage collector,
    which takes the queues to them apart first, so that each would be waited for in vain.
    """
    ask, itself, asked = type(iterator)._try_get_data, weakref.ref(iterator), []

    def ask_again(timeout=_ASK_SECONDS):
        found = ask(itself(), min(timeout, seconds or timeout))
        asked.append(timeout)
        if found[0]:
            asked.clear()
        elif seconds and sum(asked) >= seconds:
            raise TimeoutError(f"no batch came for {seconds} seconds")
        return found

    iterator._try_get_data = ask_again


def _find_dead_workers_later():
    """Take out torch's handler for dead workers, which raises wherever the main thread is, within an update too.

    Without it a DataLoader finds a dead worker while it waits for a batch, at most 5 s later.
    """
    on_main_thread = threading.current_thread() is threading.main_thread()
    if on_main_thread and hasattr(signal, "SIGCHLD") and callable(signal.getsignal(signal.SIGCHLD)):
        signal.signal(signal.SIGCHLD, lambda number, frame: None)


def _describe(error, workers):
    if "Original Traceback" not in str(error) and (isinstance(error, TimeoutError) or "timed out" in str(error)):
        for worker in workers:
            worker.kill()  # it may be beyond being asked to end
        return f"{error}: a worker hangs, or data_loader.args.timeout is too short"
    if "Original Traceback" not in str(error):  # not what a worker has raised: one may be dead
        for worker in workers:
            worker.join(0.1)
            if worker.exitcode:
                return f"a worker process ended {_how_it_ended(worker.exitcode)}"
    return _in_one_line(error)


def _how_it_ended(exitcode):
    if exitcode > 0:
        return f"with status {exitcode}"
    reason = "; the system may have run out of memory" if -exitcode == getattr(signal, "SIGKILL", None) else ""
    return f"by {signal.Signals(-exitcode).name}{reason}"


def _in_one_line(error):
    """ "ValueError: no such colour (my_data.py:31)", the place being the innermost one that is not a library's."""
    text = str(error) if "Original Traceback" in str(error) else "".join(traceback.format_exception(error))
    places = [place for place in re.findall(r'File "(.+)", line (\d+)', text) if "site-packages" not in place[0]]
    place = f" ({':'.join(places[-1])})" if places else ""
    return text.strip().splitlines()[-1] + place


def _file_of(dataset, index):
    """The file that a dataset of torchvision's kind, with a list of samples, reads the sample from."""
    for name in ("samples", "imgs", "files", "paths"):
        try:
            entry = getattr(dataset, name)[index]
        except (AttributeError, IndexError, KeyError, TypeError):
            continue
        entry = entry[0] if isinstance(entry, tuple) else entry
        if isinstance(entry, str) or hasattr(entry, "__fspath__"):
            return entry
    return None
