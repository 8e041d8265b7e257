"""The rows of a comparison: one for each run, or for each group of runs that differ in seed or fold alone."""

import json
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from logger.run_summary import RunSummary

ABOUT_A_RUN = (
    *("name", "run", "state", "epoch", "batch", "epochs", "monitor", "best", "best_epoch"),
    *("test_checkpoint", "test_epoch", "time", "started", "changed", "host", "commit", "folder", "reason"),
)
"""Names of values that every run has. The others are logged values, test_<name>, and dotted keys of the config."""
_SAYS_NOTHING = ("name", "description", "trainer.save_dir")
"""Keys of a config in which runs of one setting may differ."""
_SHOWN_ANYWAY = ("trainer.epochs", "trainer.monitor")
"""Keys that a table shows in a column of another name."""
_MOST_KEYS = 12  # in which runs differ, as columns of a table


class Spread(NamedTuple):
    """The mean of a value over the runs of a group, its standard deviation (that of a sample), and their number."""

    mean: float
    std: float
    runs: int


@dataclass
class Row:
    """A row of a comparison.

    cells: {name: value} with numbers, texts, lists of a config, Spread objects in a group, and no entry or None where
        there is no value.
    runs: the runs of a group; a single one otherwise.
    counted: the runs that the values are computed from.
    config: {dotted path: value} of the run; in a group, "3 values" where its runs differ.
    note: what a reader should know besides; "" if nothing.
    """

    cells: dict[str, Any]
    runs: list[RunSummary]
    counted: list[RunSummary]
    config: dict[str, Any]
    note: str = ""


def rows_of(runs: Sequence[RunSummary]) -> list[Row]:
    """Return a Row for each run."""
    logged = {*ABOUT_A_RUN, *(name for run in runs for name in run.values)}
    return [Row(_cells(run, logged), [run], [run], run.config, _note(run)) for run in runs]


def _cells(run, taken):
    """The values of a run by name; a key of the config that is also the name of another value begins with "config."."""
    environment = run.environment
    return {
        **{(f"config.{key}" if key in taken else key): value for key, value in run.config.items() if key != "name"},
        **{(f"logged.{name}" if name in ABOUT_A_RUN else name): value for name, value in run.values.items()},
        **{f"test_{name}": value for name, value in run.test.items()},
        **{name: getattr(run, name) for name in ("run", "state", "epoch", "batch", "epochs", "monitor", "folder")},
        "best": run.best,
        "best_epoch": run.best_epoch,
        "test_checkpoint": run.test_checkpoint or None,
        "test_epoch": run.test_epoch,
        "name": as_text(run.config.get("name", run.name)),
        "time": run.seconds,
        "started": run.started or None,
        "changed": run.changed,
        "host": environment.get("host"),
        "commit": environment.get("git_commit"),
        "reason": run.reason or None,
    }


def _note(run):
    return f"{run.name}/{run.run} {run.state}: {run.reason}" if run.state in ("failed", "damaged") else ""


def as_text(value: Any) -> str:
    """Return a value of a config as text: a text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def differing_keys(rows: Collection[Row]) -> list[str]:
    """Return the keys of the config in which rows differ, in the config's order; runs without a config are left out."""
    configs = [row.config for row in rows if row.config]
    keys: dict[str, Any] = {}
    for config in configs:
        keys.update(config)
    known = [key for key in keys if key not in _SAYS_NOTHING + _SHOWN_ANYWAY]
    return [key for key in known if any(config.get(key) != configs[0].get(key) for config in configs)]


def keys_shown(rows: Collection[Row]) -> tuple[list[str], list[str]]:
    """Return (keys of the config to show as columns, further ones in which the runs differ).

    Of many, as with runs of several jobs, those are shown in which runs of the same name differ.
    """
    keys = differing_keys(rows)
    if len(keys) <= _MOST_KEYS:
        return keys, []
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row.cells["name"], []).append(row)
    within = {key for group in by_name.values() for key in differing_keys(group)}
    shown = [key for key in keys if key in within][:_MOST_KEYS]
    return shown, [key for key in keys if key not in shown]


# ---- groups


_REPEATED = ("seed", "fold")
_SERIES = re.compile(r"-(seed\d+|fold\d+of\d+)$")  # what --seeds and --folds add to the name of a job


def grouped(rows: Sequence[Row]) -> list[Row]:
    """Return the rows, with runs that differ only in seed or fold merged into one row in the place of the first.

    Its values are those of the runs that have finished, if any has. Of runs with the same seed and fold, such as one
    that died and was started again, the newest counts.
    """
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        setting, repetition = _setting(row)
        groups.setdefault(setting, {}).setdefault(repetition, []).append(row)
    result = []
    for group in groups.values():
        result += [_one_row(list(group.values()))] if len(group) > 1 else next(iter(group.values()))
    return result


_encoded = json.JSONEncoder(sort_keys=True).encode


def _setting(row):
    """(text that is equal for runs that differ in seed or fold alone, text that tells these apart)."""
    if not row.config:
        return row.runs[0].folder, ""
    setting, repetition = {}, {}
    for key, value in row.config.items():
        if key.rpartition(".")[2] in _REPEATED:
            repetition[key] = value
        elif key not in _SAYS_NOTHING:
            setting[key] = value
    return _encoded([_SERIES.sub("", row.cells["name"]), setting, list(repetition)]), _encoded(repetition)


def _one_row(group):
    """The row of a group, given as lists of rows of the same seed and fold."""
    members = [row for repeated in group for row in repeated]
    finished = [[row for row in repeated if row.cells["state"] == "finished"] for repeated in group]
    counted = [max(repeated, key=_started) for repeated in (filter(None, finished) if any(finished) else group)]
    first = counted[0]
    logged = {name for row in counted for name in row.cells if name not in row.config and name not in ABOUT_A_RUN}
    cells = dict(first.cells)
    for name in ABOUT_A_RUN:
        cells[name] = (
            first.cells.get(name) if all(r.cells.get(name) == first.cells.get(name) for r in members) else None
        )
    for name in ("best", "time", *logged):
        cells[name] = _spread([row.cells.get(name) for row in counted])
    repeated = {key for row in members for key in row.config if key.rpartition(".")[2] in _REPEATED}
    values = {key: {as_text(row.config.get(key)) for row in members} for key in repeated}
    several = {key: f"{len(texts)} values" for key, texts in values.items() if len(texts) > 1}
    cells |= several
    states = {row.cells["state"] for row in members}
    cells["name"] = _SERIES.sub("", first.cells["name"])
    cells["run"] = f"{len(members)} runs"
    cells["state"] = states.pop() if len(states) == 1 else f"{sum(map(len, finished))} finished"
    cells["started"] = min(map(_started, members))
    runs = [row.runs[0] for row in members]
    return Row(cells, runs, [row.runs[0] for row in counted], first.config | several, _note_on(cells, runs, counted))


def _note_on(cells, runs, counted):
    """What the runs of a group do not have in common, though they should."""
    commits = {run.environment.get("git_commit") for run in runs}
    differ = [f"runs of {len(commits)} commits"] if len(commits) > 1 else []
    tested = {row.cells.get("test_checkpoint") for row in counted}
    if len(tested) > 1 and None not in tested:
        from utils.runs.checkpoint import BEST_MODEL

        if BEST_MODEL in tested:
            others = ", ".join(sorted(tested - {BEST_MODEL}))
            differ.append(f"test results of {BEST_MODEL} and of {others}")
    return f"{cells['name']}: a group has {' and '.join(differ)}" if differ else ""


def _started(row):
    return row.cells["started"] or ""


def _spread(values):
    return spread_of(values) if all(type(value) in (int, float) for value in values) else None


def spread_of(values: Sequence[float]) -> Spread:
    """Return the Spread of one number or more; the deviation of one is nan."""
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return Spread(mean, math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else math.nan, len(values))
