"""Where a run's words and numbers go: console, info.log, metrics.csv, TensorBoard, trackers."""

if "." in __name__:  # an old project whose framework lies within a package
    from ..utils.old_forms.nested import lead_to_top

    lead_to_top(__name__, __file__)

from logger.base_tracker import BaseTracker, TrackerList
from logger.csv_log import CsvLog
from logger.logger import require_log_files, setup_logging
from logger.pace import EpochClock
from logger.visualization import TensorboardWriter

__all__ = [
    "BaseTracker",
    "CsvLog",
    "EpochClock",
    "TensorboardWriter",
    "TrackerList",
    "require_log_files",
    "setup_logging",
]


def __getattr__(name: str) -> object:
    """Return what old projects import from here under another name."""
    from utils.old_forms.names import old_name

    return old_name("logger", name)
