"""report.html in a run's log folder: what was trained, how it went, and how good it is, in one file."""

from pathlib import Path

from logger.report.page import page
from logger.report.run_files import read_run
from utils.files import write_whole

__all__ = ["write_report"]


def write_report(save_dir: Path, log_dir: Path, has_ended: bool = False) -> Path:
    """Write the report of a run from its files, and return its path.

    save_dir: folder of the checkpoints. has_ended: the run ends now, which its files do not say yet.
    """
    path = log_dir / "report.html"
    text = page(read_run(save_dir, log_dir, has_ended))
    write_whole(text.encode("utf-8", "backslashreplace"), path, "the report")
    return path
