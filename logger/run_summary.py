"""What the files of a run say: its config, how far it came, its best values and how it ended. Nothing here needs torch.

Runs of the old template and of projects derived from it, which have only config.json, checkpoints and info.log, are
read as well.
"""

import os
import platform
import re
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from logger.csv_log import best_row
from logger.run_files import RESULTS_FILE, RunFiles
from utils.errors import shortened
from utils.runs.run_folder import HAS_LOCKS, is_being_trained

LOG_FILES = ("metrics.csv", "info.log", "pace.csv")
RUN_FILES = ("config.json", "environment.json", RESULTS_FILE)
_QUIET_SECONDS = 24 * 3600  # after which a run that another host trained is taken for dead
_TAIL = 1 << 16  # characters of info.log that hold the last words of a run


@dataclass
class RunSummary:
    """A run as plain values: texts, numbers, and dicts of them.

    folder: of the checkpoints, <save_dir>/models/<name>/<run>.
    config: {dotted path: value} of all values in config.json; a list of plain values is one value.
    state: "finished" (all epochs are trained, or early stopping or a callback ended the run), "running", "stopped" (by
        a signal; it can be resumed), "failed" (by an error), "died" (without a word, as after SIGKILL), or "damaged" (a
        file of it cannot be read). "running?" and "died?": unknown, because another host trained the run or its program
        does not record how it ends; "died?" if no file has changed for a day.
    reason: why it stopped, failed or is damaged, and what ended it early; "" if there is nothing to say.
    epoch: number of complete epochs.
    batch: batches of the next epoch that the newest checkpoint holds.
    epochs: number of epochs in the config; None if it does not say.
    monitor: trainer.monitor, as "max val_accuracy" or "off".
    best, best_epoch: best value of the monitor and its epoch; None if there is none.
    values: {name: number} logged in the best epoch; in the last one if nothing is monitored.
    test: {name: number} of test.py for the test data, for model_best.pth if that was measured.
    test_checkpoint: name of the checkpoint that was measured; "" if none was.
    test_epoch: its last complete epoch; None if the result does not say it.
    seconds: time that the epochs took together; None if no file says it.
    started: time of the first start, in ISO format; "" if no file says it.
    environment: what environment.json says of the last start: host, commit, versions, data.
    changed: when one of its files changed last, in seconds since 1970.
    """

    folder: str
    name: str
    run: str
    config: dict[str, Any] = field(default_factory=dict)
    state: str = "unknown"
    reason: str = ""
    epoch: int = 0
    batch: int = 0
    epochs: int | None = None
    monitor: str = "off"
    best: float | None = None
    best_epoch: int | None = None
    values: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    test_checkpoint: str = ""
    test_epoch: int | None = None
    seconds: float | None = None
    started: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    changed: float = 0.0

    def with_present_state(self) -> "RunSummary":
        """Return this run with its present state: whether a process trains it, or it has died."""
        if self.state in ("finished", "damaged"):
            return self
        if is_being_trained(Path(self.folder)):
            self.state, self.reason = "running", ""
        elif self.state == "unknown":
            # the lock tells of processes on this machine only
            here = self.environment.get("host") == platform.node()
            known = HAS_LOCKS and here and os.path.exists(f"{self.folder}/.lock")
            quiet = time.time() - self.changed > _QUIET_SECONDS
            self.state = "died" if known else "died?" if quiet else "running?"
        return self


def summarize(source: RunFiles | str | Path, changed: float = 0.0) -> RunSummary:
    """Return the RunSummary of a run, given its files or its folder; one of state "unknown" needs with_present_state().

    A file that cannot be read makes it "damaged", with what the other files say. changed: see RunSummary.
    """
    from utils.runs.checkpoint import progress_of

    files = source if isinstance(source, RunFiles) else RunFiles(source)
    folder = files.save_dir
    run = RunSummary(str(folder), folder.parent.name, folder.name, changed=changed)
    try:
        run.config = flattened(files.config)
    except RecursionError:
        files.problems.append("config.json: is nested too deeply")
    epochs = run.config.get("trainer.epochs")
    run.epochs = epochs if type(epochs) is int else None
    run.monitor = str(run.config.get("trainer.monitor", "off"))
    saved = filter(None, map(progress_of, files.names_in(folder)))
    run.epoch, run.batch = max([*saved, *((epoch, 0) for epoch in files.rows)], default=(0, 0))
    _take_best(run, files.rows)
    _take_test(run, files.results)
    if files.starts:
        run.started = str(files.starts[0].get("started", ""))
        run.environment = _environment(files.start)
    run.seconds = _seconds(files)
    run.state, run.reason = _ending(run, files)
    if files.problems:
        run.state, run.reason = "damaged", files.problems[0]
    return run


def _environment(start):
    """What a start of a run records of its circumstances, as far as it has the form that this program writes."""
    plain = ("host", "platform", "python", "threads", "git_commit", "git_dirty", "git_diff")
    found: dict[str, Any] = {key: value for key in plain if isinstance(value := start.get(key), (str, int, float))}
    libraries, command, data = start.get("libraries"), start.get("command"), start.get("data")
    if isinstance(data, dict):
        found["data"] = {key: value for key, value in data.items() if isinstance(value, (str, int))}
    if isinstance(libraries, dict):
        found["libraries"] = {name: version for name, version in libraries.items() if isinstance(version, str)}
    if isinstance(command, list):
        found["command"] = [word for word in command if isinstance(word, str)]
    return found


def flattened(config: dict[str, Any]) -> dict[str, Any]:
    """Return {dotted path: value} of a config; a loss that is only a name is the value of "loss.type"."""
    flat = {}

    def add(path, value):
        if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
            value = {i: {"type": item} if isinstance(item, str) else item for i, item in enumerate(value)}
        if isinstance(value, dict):
            for key, item in value.items():
                add(f"{path}.{key}", item)
        else:
            flat[path] = value

    for key, value in config.items():
        if key != "$schema":
            add(key, {"type": value} if key == "loss" and isinstance(value, str) else value)
    return flat


# ---- values


def read_history(folder: str | Path) -> list[dict[str, float]]:
    """Return [{name: number}] of a run's epochs, each with its "epoch"; [] of a damaged table."""
    return [_numbers(row) for row in RunFiles(folder).rows.values()]


def _numbers(row):
    return {name: value for name, text in row.items() if (value := _number(text)) is not None}


def _number(text):
    try:
        return float(text)
    except (TypeError, ValueError, OverflowError):
        return None


def _take_best(run, rows):
    """Fill in the best value and the values of its epoch; of the last epoch if nothing is monitored."""
    mode, _, name = run.monitor.partition(" ")
    is_watched = mode in ("min", "max")
    watched = [{"epoch": epoch, **_numbers({name: row.get(name)})} for epoch, row in rows.items()]
    best = best_row(watched, run.monitor if is_watched else "off")
    if best is None:
        return
    if is_watched:
        run.best, run.best_epoch = best[name], int(best["epoch"])
    run.values = {name: value for name, value in _numbers(rows[best["epoch"]]).items() if name != "epoch"}


def _take_test(run, results):
    """Fill in the numbers of test.py for the best model, else for the newest checkpoint that was measured."""
    from utils.runs.checkpoint import BEST_MODEL, progress_of

    measured = {name: result for name, split, result in results if split == "test"}
    chosen = BEST_MODEL if measured.get(BEST_MODEL) else max(measured, key=progress_of, default="")
    numbers = {name: value for name, value in measured.get(chosen, {}).items() if type(value) in (int, float)}
    epoch = numbers.get("epoch")
    run.test_checkpoint, run.test_epoch = chosen, epoch if type(epoch) is int else None
    run.test = _numbers({name: value for name, value in numbers.items() if name not in ("epoch", "batch", "samples")})


# ---- time and ending


_EPOCH_SECONDS = re.compile(r"^.{23} INFO trainer: epoch \d+/\d+  ([\d.]+) s", re.MULTILINE)
_OLD_TIME = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d{3} - ", re.MULTILINE)
_RECORD = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d{3} ([A-Z]+) (\S+): ", re.MULTILINE)


def _seconds(files):
    """Sum of the seconds that epochs took; else the time between the first and the last word of a single start."""
    starts, log = files.starts, files.log
    if files.rows and files.pace.keys() == files.rows.keys():
        return sum(seconds for seconds, _ in files.pace.values())
    try:
        if epochs := _EPOCH_SECONDS.findall(log):
            return sum(map(float, epochs))
        if old := _OLD_TIME.findall(log):
            return (datetime.fromisoformat(old[-1]) - datetime.fromisoformat(old[0])).total_seconds()
        if len(starts) == 1 and starts[0].get("ended"):
            begin, end = (datetime.fromisoformat(starts[0][key]) for key in ("started", "ended"))
            return (end - begin).total_seconds()
    except (TypeError, ValueError, KeyError):  # not written by this program
        pass
    return None


def _ending(run, files):
    """(state, reason) by what the run has recorded; "unknown" if it ended without a word, or has not ended."""
    starts, tail = files.starts, files.log[-_TAIL:]
    since = str(files.start.get("started", ""))[:19].replace("T", " ")
    records = [found for found in _RECORD.finditer(tail) if found[1] >= since]
    ends = [*(found.start() for found in records), len(tail)][1:]
    words = [(found[2], found[3], tail[found.end() : end].strip()) for found, end in zip(records, ends, strict=False)]
    if files.start.get("ended"):
        early = [text for _, name, text in words if name == "trainer" and text.startswith("training stops: ")]
        return "finished", early[-1].partition("\n")[0] if early else ""
    for level, name, text in reversed(words):
        if (level, name) == ("ERROR", "run"):
            return "failed", shortened(text.rpartition("\n")[2])  # of a traceback, the last line
        if level == "WARNING" and (found := re.match(r"stopped( by \S+)? in epoch \d+", text)):
            return "stopped", (found[1] or "").strip()
    if not starts and run.epochs and (run.epoch >= run.epochs or "Training stops." in tail):
        return "finished", ""
    return "unknown", ""
