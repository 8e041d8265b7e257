"""Where a run's words and numbers go: console, info.log, metrics.csv, TensorBoard, trackers."""

from logger.base_tracker import BaseTracker, TrackerList
from logger.csv_log import CsvLog
from logger.logger import setup_logging
from logger.visualization import TensorboardWriter

__all__ = ["BaseTracker", "CsvLog", "TensorboardWriter", "TrackerList", "setup_logging"]
