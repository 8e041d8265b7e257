"""The entries of a checkpoint, and those that a project has added."""

from typing import Any

_ENTRIES = {
    *("format", "arch", "epoch", "batch", "step", "validated_step", "left_out", "state_dict", "trained_state_dict"),
    *("optimizer", "monitor_best", "best_epoch", "not_improved_count", "attributes", "rng", "log", "config"),
    *("stop_reason", "of_other_processes", "shards", "logger", "outputs"),
}


def further_states(checkpoint: dict[str, Any]) -> str:
    """Return the names of entries that a _save_checkpoint of a project's own has added, as text; "" if there are none.

    Such as the states of a discriminator and its optimizer.
    """
    return ", ".join(sorted(repr(name) for name in checkpoint if name not in _ENTRIES))
