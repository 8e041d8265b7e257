"""Whether two runs are the same, bit for bit: in all checkpoints that both have, in metrics.csv and in TensorBoard."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from logger.csv_log import CsvLog
from utils.errors import UserError, quantity, shown
from utils.runs.run_folder import folders_of, is_run_folder, log_folder


def report_same(*runs: str | Path) -> bool:
    """Print what two runs have in common, or the first step at which they differ. Returns whether they are the same."""
    one, other = map(run_folder, runs)
    logs = [log_folder(run) for run in (one, other)]
    found = scalar_differences(*map(tensorboard_scalars, logs))
    row = table_difference(logs)
    names = [{path.name for path in run.glob("*.pth") if "overtaken" not in path.name} for run in (one, other)]
    only_one = {name for name in names[0] ^ names[1] if "-batch" not in name}  # those are left by a stopped run alone
    common = sorted(names[0] & names[1])
    if not common:
        raise UserError(f"{one}, {other}: no checkpoints of the same name, so nothing to compare")
    for name in common:
        states = [comparable_state(run / name) for run in (one, other)]
        found += [
            (states[0].get("step", 0), f"{name}: {place}") for place in differing_values(states[0], states[1])[:3]
        ]
    if found:
        step = min(step for step, _ in found)
        print(shown(f"different from step {step} on: {'; '.join(what for at, what in found if at == step)}"))
    elif row:
        print(shown(f"different: {row}"))
    elif only_one:
        print(shown(f"the same as far as both go; one alone has {', '.join(sorted(only_one))}"))
    else:
        print(
            f"the same: {quantity(len(common), 'checkpoint')}, metrics.csv, and what TensorBoard shows but for the pace"
        )
    return not found and not row and not only_one


def comparable_state(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint without what differs between equal runs.

    That is the config, which names the run, the TensorBoard files, and the reason for a stop.
    """
    from utils.runs.checkpoint import load_checkpoint

    state = load_checkpoint(path)
    state.pop("config", None)
    state.pop("stop_reason", None)  # a run resumed with another config is the same as one that never stopped
    state.get("attributes", {}).pop("writer", None)
    return state


def scalar_differences(
    one: dict[str, list[tuple[int, float]]], other: dict[str, list[tuple[int, float]]]
) -> list[tuple[int, str]]:
    """Return [(step, what differs)], the first difference of each tag, of two runs' {tag: [(step, value), ...]}."""
    found = []
    for tag in sorted(one.keys() | other.keys()):
        for left, right in itertools.zip_longest(one.get(tag, ()), other.get(tag, ())):
            if repr(left) == repr(right):  # as text, since nan differs from itself
                continue
            both = left and right and f"{left[1]:.9g} and {right[1]:.9g}"
            step = min(point[0] for point in (left, right) if point)
            found.append((step, f"{tag} is {both or 'in one alone'}"))
            break
    return found


def table_difference(logs: Sequence[Path]) -> str | None:
    """Return the first place at which the runs' metrics.csv differ in the rows that both have; None if they do not."""
    tables = [CsvLog(log / "metrics.csv").rows() for log in logs]
    if not all(tables) and any(tables):
        return "one alone has a metrics.csv"
    for left, right in zip(*tables, strict=False):
        for column in dict.fromkeys([*left, *right]):
            if left.get(column) != right.get(column):
                values = f"{left.get(column)} and {right.get(column)}"
                return f"in metrics.csv, from epoch {left.get('epoch')} on: {column} is {values}"
    return None


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return {tag: [(step, value), ...]} of a run's TensorBoard files, as TensorBoard shows them, without the pace.

    The tags of validation, whose files are in the folder val, begin with val_.
    """
    inner = folder / "val"
    of_validation = _scalars_in(inner) if inner.is_dir() else {}
    return _scalars_in(folder) | {f"val_{tag}": points for tag, points in of_validation.items()}


def _scalars_in(folder):
    import logging

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for path in folder.glob("*tfevents*"):
        if not path.is_file():  # reading from a pipe would never end
            raise UserError(f"{shown(path)}: not a file; move it away")
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of points that a resumed run has taken back
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("steps_per_sec")]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


_ABSENT = object()  # not None, which a state may hold


def differing_values(one: Any, other: Any, place: str = "") -> list[str]:
    """Return the dotted places at which two nested states differ in bits, type or presence."""
    import torch

    if type(one) is not type(other):
        return [place]
    if isinstance(one, (list, tuple)):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if isinstance(one, dict):
        found = []
        for name in {**one, **other}:
            left, right = one.get(name, _ABSENT), other.get(name, _ABSENT)
            found += differing_values(left, right, f"{place}.{name}".lstrip("."))
        return found
    if isinstance(one, torch.Tensor):
        bits = [tensor.flatten().contiguous().view(torch.uint8) for tensor in (one, other)]
        same = one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)
    else:
        same = repr(one) == repr(other)
    return [] if same else [place]


def run_folder(text: str | Path) -> Path:
    """Return the folder of a run's checkpoints, given it, its log folder or a checkpoint. Raises UserError."""
    folder, _ = folders_of(text)
    if not is_run_folder(folder):
        raise UserError(f"{text}: not a run; give its folder, saved/models/<name>/<run>")
    return folder
