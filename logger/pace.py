"""pace.csv: how long each epoch took. Unlike metrics.csv, it differs between runs that are the same."""

import logging
import time
from pathlib import Path

from utils.distributed.world import is_main
from utils.errors import shown
from utils.files import open_to_append, read_beside


class EpochClock:
    """Measures an epoch, and records the time in pace.csv: also of its part before a save, for a run resumed there."""

    def __init__(self) -> None:
        self._log_dir: Path | None = None  # until it is started

    def start(self, log_dir: Path, epoch: int, batches_done: int, step: int) -> None:
        """Measure an epoch from now on, after the part that an earlier process has trained and recorded.

        batches_done: position in the epoch. step: batches trained on so far, also in other epochs.
        """
        self._log_dir, self._epoch = log_dir, epoch
        parts = [(seconds, batches) for one, seconds, batches in _rows(log_dir) if one == epoch]
        known = [part for part in parts if 0 < part[1] <= batches_done]
        self._seconds_before, batches_before = known[-1] if known else (0.0, 0)
        self._first_step = step - batches_before
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """The time that the epoch has taken up to now, without that between its parts."""
        return self._seconds_before + time.perf_counter() - self._started

    def record(self, seconds: float, step: int) -> None:
        """Append the seconds of the epoch, with its validation, and its batches up to this step; 0 if not counted.

        For an epoch saved before its end, this is the time up to the save; a later line for the epoch replaces it.

        Of several processes the first one writes. If it cannot, it logs a warning: the run needs no times.
        """
        if self._log_dir is None or not is_main():
            return
        path = self._log_dir / "pace.csv"
        try:
            with open_to_append(path) as file:
                head = "" if file.tell() else "epoch,seconds,batches\n"
                file.write(f"{head}{self._epoch},{seconds:.6g},{step - self._first_step}\n".encode())
        except OSError as error:
            logging.getLogger("train").warning("%s: cannot be written: %s", shown(path), error.strerror or error)


def read_pace(log_dir: Path) -> dict[int, tuple[float, int]]:
    """Return {epoch: (seconds, batches)}, of an epoch that was trained again the last; {} without a file.

    An epoch that is not complete is there, too, if a part of it was saved.
    """
    found = {epoch: (seconds, batches) for epoch, seconds, batches in _rows(log_dir)}
    return {epoch: found[epoch] for epoch in sorted(found)}


def _rows(log_dir):
    """[(epoch, seconds, batches)] of the file's lines, without those that are not whole, as a kill leaves behind."""
    try:
        lines = read_beside(log_dir / "pace.csv").splitlines()
    except (OSError, ValueError):
        return []
    rows = []
    for line in lines[1:]:
        try:
            epoch, seconds, batches = line.split(",")
            rows.append((int(epoch), float(seconds), int(batches)))
        except ValueError:
            continue
    return rows
