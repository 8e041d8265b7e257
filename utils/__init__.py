"""What the rest of the framework is built on. Nothing that this file imports imports torch before it is used."""

if "." in __name__:  # an old project whose framework lies within a package
    from .old_forms.nested import lead_to_top

    lead_to_top(__name__, __file__)

from utils.batches import inf_loop
from utils.device import prepare_device
from utils.errors import UserError
from utils.files import ensure_dir, read_json, write_json
from utils.metric_tracker import MetricTracker

__all__ = ["MetricTracker", "UserError", "ensure_dir", "inf_loop", "prepare_device", "read_json", "write_json"]


def __getattr__(name: str) -> object:
    """Return what old projects import from here under another name."""
    from utils.old_forms.names import old_name

    return old_name("utils", name)
