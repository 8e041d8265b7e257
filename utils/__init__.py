"""What the rest of the framework is built on. Nothing that this file imports imports torch before it is used."""

from utils.batches import inf_loop
from utils.device import prepare_device
from utils.errors import UserError
from utils.files import ensure_dir, read_json, write_json
from utils.metric_tracker import MetricTracker

__all__ = ["MetricTracker", "UserError", "ensure_dir", "inf_loop", "prepare_device", "read_json", "write_json"]
