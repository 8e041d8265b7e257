"""Where a run's words and numbers go: console, info.log, metrics.csv, TensorBoard."""

from logger.csv_log import CsvLog
from logger.logger import setup_logging
from logger.visualization import TensorboardWriter

__all__ = ["CsvLog", "TensorboardWriter", "setup_logging"]
