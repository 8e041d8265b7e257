"""pace.csv: how long each epoch took. Unlike metrics.csv, it differs between runs that are the same."""

from pathlib import Path

from utils.distributed.world import is_main
from utils.errors import UserError, shown
from utils.files import open_to_append, read_beside


def record_pace(log_dir: Path, epoch: int, seconds: float, batches: int) -> None:
    """Append the seconds of an epoch, with its validation, and the batches trained on; 0 if they were not counted.

    Of several processes the first one writes. Raises UserError if it cannot.
    """
    if not is_main():
        return
    path = log_dir / "pace.csv"
    try:
        with open_to_append(path) as file:
            head = "" if file.tell() else "epoch,seconds,batches\n"
            file.write(f"{head}{epoch},{seconds:.6g},{batches}\n".encode())
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be written: {error.strerror or error}") from None


def read_pace(log_dir: Path) -> dict[int, tuple[float, int]]:
    """Return {epoch: (seconds, batches)}, of an epoch that was trained again the last; {} without a file.

    Lines that are not whole, such as a kill leaves behind, are left out.
    """
    try:
        lines = read_beside(log_dir / "pace.csv").splitlines()
    except (OSError, ValueError):
        return {}
    found = {}
    for line in lines[1:]:
        try:
            epoch, seconds, batches = line.split(",")
            found[int(epoch)] = float(seconds), int(batches)
        except ValueError:
            continue
    return {epoch: found[epoch] for epoch in sorted(found)}
