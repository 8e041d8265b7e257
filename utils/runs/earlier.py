"""Convert what earlier versions of this project saved."""

from typing import Any


def upgraded_states(states: dict[str, Any], first: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the states of a trainer's attributes, converted from our earlier versions.

    Those kept "nonfinite" in two parts. first: the states of rank 0.
    """
    states = dict(states)
    step_log = states.get("step_log")
    if not isinstance(step_log, dict) or "last_update" not in step_log:
        return states
    del states["step_log"]
    watch = states.pop("gradient_watch", (first or {}).get("nonfinite", {"found": []}))
    states["nonfinite"] = {**step_log, "found": watch["found"]}
    if isinstance(states.get("optim_step"), dict):
        states["optim_step"] = {"lr": step_log.get("lr"), **states["optim_step"]}
    return states
