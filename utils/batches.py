"""Read a loader batch by batch: errors name their sample and come between two steps; generators stay as they are."""

import contextlib
import re
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

from utils.errors import UserError


class DataError(UserError):
    """Data that cannot be read. Raised while a batch is awaited, so that the run can still be saved."""

    def __init__(self, message: str) -> None:
        if "Original Traceback" in message:  # torch raises a worker's error anew, with its whole traceback as message
            message = message.strip().splitlines()[-1].partition("Error: ")[2]
        super().__init__(message)


def batches_of(loader: Iterable[Any]) -> Iterator[Any]:
    """Iterator, started already, over the loader's batches. Raises DataError for any error while one is read."""
    iterator = iter(loader)
    awaited = _finding_dead_workers() if getattr(loader, "num_workers", 0) else contextlib.nullcontext()
    return _read(iterator, awaited)


def sample_error(dataset: Any, index: int, error: Exception) -> DataError:
    """The DataError for an error of reading dataset[index]; it names the sample's file if that is known."""
    if isinstance(error, UserError):
        return DataError(f"data_loader: sample {index}: {error}")
    file = getattr(error, "filename", None) or _file_of(dataset, index)
    return DataError(f"data_loader: sample {index}{f' ({file})' if file else ''}: {_in_one_line(error)}")


def _read(iterator, awaited):
    try:
        while True:
            try:
                with awaited:
                    batch = next(iterator)
            except StopIteration:
                return
            yield batch
    except DataError:
        raise
    except UserError as error:
        raise DataError(str(error)) from error
    except Exception as error:
        workers = getattr(iterator, "_workers", ())  # torch has no public way to a loader's processes
        raise DataError(f"data_loader: {_describe(error, workers)}") from error


def _finding_dead_workers():
    """The _DeadWorkers that handles SIGCHLD; a context that does nothing where torch has no handler of it."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return contextlib.nullcontext()
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler) and not isinstance(handler, _DeadWorkers):
        handler = _DeadWorkers(handler)
        signal.signal(signal.SIGCHLD, handler)
    return handler if isinstance(handler, _DeadWorkers) else contextlib.nullcontext()


class _DeadWorkers:
    """A handler of SIGCHLD that calls torch's, which raises an error if a worker is dead, only within `with`.

    Torch's own raises wherever the main thread is, also within an optimizer step, so that the run could not be saved.
    """

    def __init__(self, torchs_handler):
        self._torchs_handler = torchs_handler
        self._awaited = self._came = False

    def __call__(self, number, frame):
        if self._awaited:
            self._torchs_handler(number, frame)
        self._came = not self._awaited

    def __enter__(self):
        self._awaited = True
        if self._came:
            self._came = False
            try:
                self._torchs_handler(signal.SIGCHLD, None)
            except Exception:
                self._awaited = False
                raise

    def __exit__(self, *error):
        self._awaited = False


def _describe(error, workers):
    if "Original Traceback" not in str(error) and "timed out" in str(error):
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
