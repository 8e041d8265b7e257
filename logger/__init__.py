"""Where a run's words and numbers go: console, info.log, metrics.csv, TensorBoard, trackers."""

from logger.base_tracker import BaseTracker, TrackerList
from logger.csv_log import CsvLog
from logger.logger import require_log_files, setup_logging
from logger.pace import EpochClock, record_pace
from logger.visualization import TensorboardWriter

__all__ = [
    "BaseTracker",
    "CsvLog",
    "EpochClock",
    "TensorboardWriter",
    "TrackerList",
    "record_pace",
    "require_log_files",
    "setup_logging",
]
