"""report.html in a run's log folder: what was trained, how it went, and how good it is, in one file."""

import logging
from collections.abc import Callable
from pathlib import Path

from logger.details import TestDetails, save_details
from logger.report.page import page
from logger.run_files import RunFiles
from utils.files import write_whole
from utils.runs.run_folder import is_run_folder, make_log_folder


def write_report(save_dir: Path, log_dir: Path) -> Path:
    """Write the report of a run from its files, and return its path. save_dir: folder of the checkpoints."""
    path = log_dir / "report.html"
    text = page(RunFiles(save_dir, log_dir))
    write_whole(text.encode("utf-8", "backslashreplace"), path, "the report")
    return path


def renew_report(checkpoint: Path, details: Callable[[str], TestDetails], logger: logging.Logger) -> None:
    """Write the details of a test into the checkpoint's run, and its report again; nothing outside a run's folder.

    details: called with the checkpoint's name.
    """
    if is_run_folder(checkpoint.parent):
        log_dir = make_log_folder(checkpoint.parent)
        save_details(details(checkpoint.name), log_dir)
        logger.info("report written to %s", write_report(checkpoint.parent, log_dir))
