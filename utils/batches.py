"""Read a loader batch by batch: an error names its sample, and a dead worker is reported between two steps."""

import contextlib
import os
import pickle
import re
import signal
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from utils.errors import UserError
from utils.nested import describe


class DataError(UserError):
    """Data that cannot be read. Raised while the loop waits for a batch, so that the run can still be saved."""

    def __init__(self, message: str) -> None:
        if "Original Traceback" in message:  # torch raises a worker's error again, with its whole traceback as message
            message = message.strip().splitlines()[-1].partition("Error: ")[2]
        super().__init__(message)


def batches_of(loader: Iterable[Any]) -> Iterator[Any]:
    """Return an iterator, already started, over the loader's batches. It raises DataError for any error in reading."""
    num_workers = getattr(loader, "num_workers", 0)
    try:
        with warnings.catch_warnings(), _reporting_dead_workers() if num_workers else contextlib.nullcontext():
            warnings.filterwarnings("ignore", "Got pickle error")  # torch's, in five lines
            iterator = iter(loader)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        if not num_workers:
            raise
        remedy = "define functions at the top of a file instead of lambda or within others, or set num_workers to 0"
        raise DataError(
            f"data_loader: cannot be sent to its worker processes: {_in_one_line(error)}; {remedy}"
        ) from error
    except RuntimeError as error:  # also of a worker of another loader, which died since its last batch
        if not num_workers:
            raise
        workers = getattr(getattr(loader, "_iterator", None), "_workers", ())  # those kept since the last pass
        raise DataError(f"data_loader: {_describe(error, loader, workers)}") from error
    workers = getattr(iterator, "_workers", ())  # torch has no public way to ask for a loader's processes
    return _named_errors(_watching_workers(iterator) if workers else iterator, loader, workers)


def inf_loop(data_loader: Iterable[Any]) -> Iterator[Any]:
    """Yield the loader's batches, pass after pass, without end."""
    while True:
        yield from batches_of(data_loader)


def sample_error(dataset: Any, index: int, error: Exception) -> DataError:
    """Return the DataError for an error in reading dataset[index]; it names the sample's file if that is known."""
    if isinstance(error, UserError):
        return DataError(f"data_loader: sample {index}: {error}")
    file = getattr(error, "filename", None) or file_of(dataset, index)
    return DataError(f"data_loader: sample {index}{f' ({file})' if file else ''}: {_in_one_line(error)}")


def collate(samples: Sequence[Any]) -> Any:
    """Return torch's default_collate of the samples. Raises DataError, naming the first sample that does not fit.

    samples: a list, or the Samples of a SeededDataset, which know their indices.
    """
    from torch.utils.data import default_collate

    try:
        _require_equal_keys(samples)
        return default_collate(samples)  # pyright: ignore[reportArgumentType]
    except (TypeError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(_misfit(samples, default_collate) or f"data_loader: {_in_one_line(error)}") from error


def _require_equal_keys(samples):
    """Raise KeyError if dicts among the samples, or among their parts, have other keys than the first sample's.

    default_collate would leave out the keys that the first sample of a batch lacks.
    """
    first = samples[0]
    if isinstance(first, Mapping):
        if any(len(sample) != len(first) for sample in samples):
            raise KeyError("the samples have different keys")
    elif isinstance(first, (tuple, list)):
        for i, part in enumerate(first):
            if isinstance(part, Mapping) and any(len(sample[i]) != len(part) for sample in samples):
                raise KeyError("the samples have different keys")


class Samples(list):
    """Samples of a batch, with their indices into the dataset."""

    def __init__(self, samples: Iterable[Any], indices: Sequence[int]) -> None:
        super().__init__(samples)
        self.indices = indices


def _misfit(samples, collate_fn):
    """One line on the first sample that cannot be in a batch, or not in one with the first sample; None if all fit."""
    indices = getattr(samples, "indices", range(len(samples)))
    remedy = "or give a collate_fn of your own"
    for index, sample in zip(indices, samples, strict=True):
        what = f"data_loader: sample {index} is {describe(sample)}"
        if not _collates([sample], collate_fn):
            return f"{what}; {_missing_step(sample)}, {remedy}"
        if not _collates([samples[0], sample], collate_fn):
            first = f"sample {indices[0]} is {describe(samples[0])}"
            return f"{what}, and {first}; {_difference(samples[0], sample)}, {remedy}"
    return None


def _collates(samples, collate_fn):
    try:
        _require_equal_keys(samples)
        collate_fn(samples)
    except (TypeError, RuntimeError, ValueError, KeyError, AttributeError):
        return False
    return True


def _missing_step(sample):
    """What to do about a sample that no batch can hold."""
    parts = [*_parts(sample)]
    if any(part is None for part in parts):
        return "return a sample for each index, without None: leave it out of the dataset"
    if any(type(part).__module__.startswith("PIL.") for part in parts):
        return "make tensors of images, as torchvision's pil_to_tensor does"
    if any(getattr(part, "requires_grad", False) for part in parts):
        return "return tensors without a gradient, as with .detach()"
    return "return tensors, arrays, numbers or text"


def _difference(one, other):
    """What to do about two samples that do not make a batch."""
    kinds = [[(type(part), *(part if isinstance(part, Mapping) else ())) for part in _parts(s)] for s in (one, other)]
    if kinds[0] != kinds[1]:
        return "give all the same parts, keys and types"
    return "give all the same shape"


def _parts(value):
    """Yield what a sample holds, from dicts, lists and tuples at any depth, and what holds it."""
    yield value
    for part in value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ():
        yield from _parts(part)


def _named_errors(iterator, loader, workers):
    try:
        yield from iterator
    except DataError:
        raise
    except UserError as error:
        raise DataError(str(error)) from error
    except Exception as error:
        raise DataError(f"data_loader: {_describe(error, loader, workers)}") from error


def _watching_workers(iterator):
    waiting = _reporting_dead_workers()
    while True:
        try:
            with waiting:
                batch = next(iterator)
        except StopIteration:
            return
        yield batch


def _reporting_dead_workers():
    """The _DeadWorkers that handles SIGCHLD; a context that does nothing where torch does not handle it."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return contextlib.nullcontext()
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler) and not isinstance(handler, _DeadWorkers):
        handler = _DeadWorkers(handler)
        signal.signal(signal.SIGCHLD, handler)
    return handler if isinstance(handler, _DeadWorkers) else contextlib.nullcontext()


class _DeadWorkers:
    """Handler of SIGCHLD that calls torch's handler, which raises an error for a dead worker, only within `with`.

    Torch's handler raises wherever the main thread is, also within an optimizer step, and the run could not be saved.
    """

    def __init__(self, torchs_handler):
        self._torchs_handler = torchs_handler
        self._is_waiting = self._is_pending = False

    def __call__(self, number, frame):
        if self._is_waiting:
            self._torchs_handler(number, frame)
        self._is_pending = not self._is_waiting

    def __enter__(self):
        self._is_waiting = True
        if self._is_pending:
            self._is_pending = False
            try:
                self._torchs_handler(signal.SIGCHLD, None)
            except Exception:
                self._is_waiting = False
                raise

    def __exit__(self, *error):
        self._is_waiting = False


def _describe(error, loader, workers):
    if "Original Traceback" in str(error):  # a worker is alive and has raised it
        return _in_one_line(error)
    if "timed out" in str(error):
        for worker in workers:
            worker.kill()  # it may not react to a request to end
        if workers:
            loader._iterator = None  # so that the next pass starts others
        return f"{error}: a worker hangs, or data_loader.args.timeout is too short"
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
    """ "ValueError: no such colour (my_data.py:31)", with the innermost line that is not a library's."""
    text = str(error) if "Original Traceback" in str(error) else "".join(_without_notes(error).format())
    places = [place for place in re.findall(r'File "(.+)", line (\d+)', text) if "site-packages" not in place[0]]
    place = f" ({':'.join(places[-1])})" if places else ""
    return text.strip().splitlines()[-1] + place


def _without_notes(error):
    """The traceback without what was added by add_note(), as by pickle in Python 3.14: it comes after the error."""
    told = traceback.TracebackException.from_exception(error)
    told.__notes__ = None
    return told


def file_of(dataset: Any, index: int) -> str | None:
    """Return the file of a sample if the dataset has a list of files or samples, as those of torchvision; or None.

    A list under a name that torchvision does not use is one if it holds a path of pathlib for each sample, and no
    other such list does.
    """
    for name in ("samples", "imgs", "files", "paths", "images"):
        entry = _entry(dataset, name, index)
        if isinstance(entry, (str, os.PathLike)):
            return os.fsdecode(entry)
    own = [_entry(dataset, name, index, len(dataset)) for name in getattr(dataset, "__dict__", ())]
    paths = [entry for entry in own if isinstance(entry, os.PathLike)]
    return os.fsdecode(paths[0]) if len(paths) == 1 else None


def _entry(dataset, name, index, length=None):
    """What a list, or array of text, of the dataset holds for a sample, or the first part of it; None for others."""
    try:
        entries = getattr(dataset, name)
        is_text = getattr(getattr(entries, "dtype", None), "kind", "") in ("U", "O")
        if not (is_text or isinstance(entries, (list, tuple))) or length not in (None, len(entries)):
            return None
        entry = entries[index]
    except Exception:  # as of a property that reads data
        return None
    return entry[0] if isinstance(entry, tuple) and entry else entry
