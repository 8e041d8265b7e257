"""Read what a run has left in its folders, as far as it is there, for its report."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from logger.csv_log import CsvLog
from logger.examined import TestDetails, load_details
from logger.measured import results_of
from logger.pace import read_pace
from logger.run_summary import RunSummary, summarize
from utils.errors import UserError
from utils.files import read_json_beside
from utils.runs.environment import changes_file

_MOST_SHOWN = 150_000  # characters of a text


@dataclass
class RunFiles:
    """What the files of a run say; what is not there is empty.

    summary: how far the run came, and its best value. columns: {name: a number for each of the epochs, nan where there
    is none} of metrics.csv. pace: as read_pace returns it, for these epochs. starts: of environment.json. results: as
    results_of returns them. problems: a line for each file that cannot be read.
    """

    save_dir: Path
    log_dir: Path
    summary: RunSummary
    config: dict[str, Any] = field(default_factory=dict)
    starts: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    columns: dict[str, list[float]] = field(default_factory=dict)
    pace: dict[int, tuple[float, int]] = field(default_factory=dict)
    model: str = ""
    changes: str = ""
    results: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    details: TestDetails | None = None
    problems: list[str] = field(default_factory=list)

    def at(self, *keys: str) -> Any:
        """Return the value at a place in the config; None if there is none."""
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    @property
    def start(self) -> dict[str, Any]:
        """The last start; {} if none is known."""
        return self.starts[-1] if self.starts else {}

    @property
    def state(self) -> str:
        """How far the run has come, in words that follow "this run"."""
        state, done, planned = self.summary.state, self.summary.epoch, self.summary.epochs
        epochs = f"epoch {done}" if planned is None else f"epoch {done} of {planned}"
        if state == "finished":
            return f"ended after {epochs}" if done else "ended before its first epoch was complete"
        if not self.starts:
            return f"reached {epochs}" if done else "has no complete epoch"
        if state == "running":
            return f"is being trained; {epochs} is complete" if done else "is being trained; no epoch is complete yet"
        return f"stopped before its {f'end; {epochs} is' if done else 'first epoch was'} complete"


def read_run(save_dir: Path, log_dir: Path) -> RunFiles:
    """Return the RunFiles of a run."""
    run = RunFiles(save_dir, log_dir, summarize(save_dir).with_present_state())
    config = _read(run, save_dir / "config.json")
    run.config = config if isinstance(config, dict) else {}
    starts = _read(run, save_dir / "environment.json")
    run.starts = [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []
    try:
        rows = CsvLog(log_dir / "metrics.csv").rows_of_epochs()
        run.epochs = [epoch for epoch, _ in rows]
        names = [name for name in (rows[0][1] if rows else ()) if name != "epoch"]
        run.columns = {name: [_number(row[name]) for _, row in rows] for name in names}
    except UserError as error:
        run.problems.append(str(error))
    run.pace = {epoch: row for epoch, row in read_pace(log_dir).items() if epoch in run.epochs}
    run.model = _text(log_dir / "model.txt")
    if name := changes_file(run.start):
        run.changes = _text(log_dir / name)
    run.results = results_of(save_dir)
    try:
        run.details = load_details(log_dir)
    except UserError as error:
        run.problems.append(str(error))
    return run


def _read(run, path):
    """The content of a JSON file; None, with a line in the problems, if it is damaged."""
    try:
        return read_json_beside(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        run.problems.append(f"{path.name}: cannot be read: {error}")
        return None


def _text(path):
    """The beginning of a text file; "" if there is none."""
    try:
        if not path.is_file():
            return ""
        with open(path, "rb") as file:
            text = file.read(_MOST_SHOWN + 1).decode("utf-8", "replace")
    except OSError:
        return ""
    return shortened_to(text, path.name)


def shortened_to(text: str, name: str) -> str:
    """Return the text, or its beginning and where the rest is, if it is long."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}\n... the rest is in {name}"


def as_json(content: Any, name: str) -> str:
    """Return the content as indented JSON, shortened to what a page can show."""
    return shortened_to(json.dumps(content, indent=2, ensure_ascii=False), name)


def _number(text):
    try:
        return float(text)
    except ValueError:
        return math.nan
