"""One trial: a run of train.py for each seed, in a process of its own, started again where it was killed."""

import contextlib
import errno
import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from logger.csv_log import CsvLog, best_row
from sweeping.plan import PARAMETERS, Plan
from sweeping.shared_study import is_dead, this_host
from sweeping.space import with_settings
from utils.errors import UserError, shortened, shown
from utils.files import differences, read_json, read_json_beside
from utils.runs.environment import last_start
from utils.runs.run_folder import IS_TRAINED, WAS_TRAINED, is_being_trained
from utils.stop_signal import KILL, SIGNALS

_KILLS_WITHOUT_PROGRESS = 5  # in a row, after which a trial has failed
_ASKED_TO_STOP = {128 + number for number in SIGNALS}
_NO_SPACE = os.strerror(errno.ENOSPC)
_COUNT = re.compile(r": ([\d,]+) parameters(?:, ([\d,]+) of them frozen)?")  # in the first line of model.txt


class StopsSweep(UserError):
    """An error for which all trials should stop and be kept, rather than fail one after another."""


@dataclass(frozen=True)
class Launch:
    """How trials are started.

    config: file with the job. save_dir: of its runs. folder: where the output of trials goes. command: words in front
    of train.py's flags. device: of this trial, for -d. threads: OMP_NUM_THREADS, where the environment has none.
    """

    config: Path
    save_dir: Path
    folder: Path
    command: tuple[str, ...]
    device: str | None = None
    threads: int | None = None


@dataclass
class Ended:
    """How a trial ended: its values, or why it has none."""

    values: list[float] | None = None
    error: str | None = None
    was_stopped: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)


class TrialRun:
    """The processes of one trial.

    name: of its runs; with several seeds, each has its own behind it. settings: {key of the config: value}. seeds: of
    its runs, one after another. former: the process that trained it before, as `process` gives it, if any. Raises
    StopsSweep if a run of another study has the name.
    """

    def __init__(
        self,
        name: str,
        settings: dict[str, Any],
        plan: Plan,
        launch: Launch,
        seeds: Sequence[int | None],
        former: Sequence[Any] | None = None,
    ) -> None:
        self.plan, self.settings, self.launch = plan, settings, launch
        self._names = [name if seed is None else f"{name}-seed{seed}" for seed in seeds]
        self._seeds, self._at = list(seeds), 0
        self._former = former
        self._log = launch.folder / f"{name}.log"
        self._process: subprocess.Popen | None = None
        self._tables: dict[str, Any] = {}
        self._marks: list[Any] = []  # how far the run was at each kill
        self.is_stopping = False
        if former is None:  # else the runs are this trial's, also where --extend has changed the config since
            self._require_own_runs()
        self._next()

    @property
    def process(self) -> Sequence[Any] | None:
        """The process that trains now, as [host, number]; None if there is none."""
        return [this_host(), self._process.pid] if self._process else self._former

    @property
    def run(self) -> Path | None:
        """The newest folder of the first run's logs, None if it has none yet."""
        return self._log_folder(self._names[0])

    def rows(self) -> list[dict[str, float]]:
        """Return the rows of metrics.csv of the first run. Raises StopsSweep if they lack an objective."""
        return self._rows(self._names[0])

    def progress(self, epochs: int) -> float:
        """Return the share of the trial that is done. epochs: of a run."""
        now = len(self._rows(self._names[self._at])) if self._at < len(self._names) else 0
        return (self._at + min(1.0, now / max(1, epochs))) / len(self._names)

    def poll(self) -> Ended | None:
        """Return how the trial ended; None while it trains. Starts the next run, or again one that was killed."""
        if self._process is None:
            if self._is_trained_by_another():
                return None
            self._next()
            if self.is_stopping and self._at < len(self._names):
                return Ended(was_stopped=True)
            return self._finished() if self._at == len(self._names) else None
        status = self._process.poll()
        if status is None:
            return None
        self._process = None
        if status == 0:
            self._at += 1
            self._marks = []
            self._next()
            return self._finished() if self._at == len(self._names) else None
        if self.is_stopping:
            return Ended(was_stopped=True)
        if status < 0 or status in _ASKED_TO_STOP:
            return self._after_kill(status)
        message = last_line(self._log)
        if IS_TRAINED in message or WAS_TRAINED in message:
            return None  # the next poll waits for it
        if _NO_SPACE in message:
            raise StopsSweep(f"{self._names[self._at]}: {message}; make room")
        return Ended(error=message or f"ended with status {status}")

    def stop(self) -> None:
        """Ask the process to save and end, as poll() will tell."""
        self.is_stopping = True
        number = self._process.pid if self._process else self._former_number()
        if number is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGTERM)

    def is_over(self) -> bool:
        """Whether no process trains the trial any more, once stop() was called."""
        if self._process is not None:
            return self._process.poll() is not None
        return self._former_number() is None

    def _former_number(self):
        """The number of the process on this host that a sweep which is gone has started; None if it has ended."""
        former = self._former
        if not former or former[0] != this_host() or is_dead([None, *former]) or not self._is_trained_by_another():
            return None
        return former[1]

    def _is_trained_by_another(self):
        if self._at == len(self._names):
            return False
        runs = self._folder(self._names[self._at]).glob("*")
        return any(is_being_trained(run) for run in runs if run.is_dir())

    def _next(self):
        """Start the next run that has not ended, unless another process trains it or the trial is to stop."""
        while self._at < len(self._names) and self._has_ended():
            self._at += 1
        if self._at < len(self._names) and not self.is_stopping and not self._is_trained_by_another():
            self._start()

    def _require_own_runs(self):
        expected = None
        for path in (path for name in self._names for path in self._folder(name).glob("*/config.json")):
            try:
                found = read_json_beside(path)
            except (OSError, ValueError):  # which train.py reports
                continue
            expected = expected or with_settings(read_json(self.launch.config), self.settings)
            if not isinstance(found, dict) or differences(_without_name(found), _without_name(expected)):
                remedy = "move it away, or give --study NAME"
                raise StopsSweep(f"{shown(path.parent)}: a run of another study has this name; {remedy}")

    def _folder(self, name):
        """Of the runs' checkpoints."""
        return self.launch.save_dir / "models" / name

    def _has_ended(self):
        runs = sorted(self._folder(self._names[self._at]).glob("*/environment.json"))
        return bool(runs) and last_start(runs[-1].parent).get("ended") is not None

    def _start(self):
        settings = {**self.settings, "name": self._names[self._at]}
        if self._seeds[self._at] is not None:
            settings["seed"] = self._seeds[self._at]
        sets = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        device = ["-d", self.launch.device] if self.launch.device else []
        command = [*self.launch.command, "-c", str(self.launch.config), "-r", "auto", *device, *sets]
        environment = dict(os.environ)
        if self.launch.threads:
            environment.setdefault("OMP_NUM_THREADS", str(self.launch.threads))
        with open(self._log, "ab") as log:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def _after_kill(self, status):
        """Start a killed run again from its checkpoint, unless it is killed again and again before any progress."""
        name = self._names[self._at]
        saved = {path.name for path in self._folder(name).glob("*/*.pth")}
        self._marks.append((len(self._rows(name)), saved))
        recent = self._marks[-_KILLS_WITHOUT_PROGRESS:]
        if len(recent) == _KILLS_WITHOUT_PROGRESS and all(mark == recent[0] for mark in recent):
            number = -status if status < 0 else status - 128
            why = f"killed {_KILLS_WITHOUT_PROGRESS} times by {signal.Signals(number).name} without getting further"
            return Ended(error=f"{why}; is there too little memory?" if number == KILL else why)
        self._next()
        return None

    def _log_folder(self, name):
        tables = (self.launch.save_dir / "log" / name).glob("*/metrics.csv")
        newest = max(tables, key=_changed_at, default=None)
        return newest and newest.parent

    def _rows(self, name):
        folder = self._log_folder(name)
        if folder is None:
            return []
        table = CsvLog(folder / "metrics.csv")
        stamp = (table.path, _changed_at(table.path))
        if self._tables.get(name, (None,))[0] != stamp:
            self._tables[name] = stamp, table.numbers()
        rows = self._tables[name][1]
        logged = {key for row in rows for key in row} - {"epoch"}
        for objective in self.plan.names:
            if rows and objective not in logged and objective != PARAMETERS:
                there = ", ".join(sorted(logged))
                raise StopsSweep(f"objectives: nothing called {objective!r} is logged; logged are {there}")
        return rows

    def _finished(self):
        """The values of the best epoch of each run, in the mean over the runs."""
        first = next((objective for objective in self.plan.objectives if objective[4:] != PARAMETERS), "off")
        values = []
        for name in self._names:
            row = best_row(self._rows(name), first)
            if row is None:
                return Ended(error=f"no epoch has a finite {first[4:]}")
            try:
                values.append([self._value(objective, row, name) for objective in self.plan.names])
            except (KeyError, ValueError) as error:
                return Ended(error=f"the best epoch has no finite {error}")
        means = [statistics.fmean(column) for column in zip(*values, strict=True)]
        epoch = best_row(self._rows(self._names[0]), first)
        attributes = {"epoch": int(epoch["epoch"]) if epoch else None, "run": str(self.run)}
        if len(values) > 1:
            attributes["std"] = [statistics.stdev(column) for column in zip(*values, strict=True)]
        return Ended(values=means, attributes=attributes)

    def _value(self, objective, row, name):
        if objective in row:
            if row[objective] - row[objective] != 0:  # nan or infinite
                raise ValueError(objective)
            return row[objective]
        if objective != PARAMETERS:
            raise KeyError(objective)
        folder = self._log_folder(name)
        assert folder is not None  # its metrics.csv was read
        count = trainable_parameters(folder)
        if count is None:
            raise KeyError(objective)
        return float(count)


def trainable_parameters(log_folder: Path) -> int | None:
    """Return the number of parameters that the run trains, from model.txt or else info.log; None if neither says it."""
    for name in ("model.txt", "info.log"):
        with contextlib.suppress(OSError):
            if found := _COUNT.findall((log_folder / name).read_text(encoding="utf-8", errors="replace")):
                total, frozen = (int(count.replace(",", "") or 0) for count in found[-1])
                return total - frozen
    return None


def _without_name(config):
    """The config without what distinguishes runs of one setting."""
    return {key: value for key, value in config.items() if key not in ("name", "description", "seed")}


def _changed_at(path):
    """When the file was changed last, in nanoseconds; 0 if a run that has learned nothing has just removed it."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def last_line(path: Path) -> str:
    """Return the last error that a command printed into the file, or else its last line; "" without any."""
    try:
        lines = path.read_bytes()[-20_000:].decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    starts = [i for i, line in enumerate(lines) if line.startswith("$ ")]
    lines = [line.strip() for line in lines[starts[-1] + 1 if starts else 0 :] if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return shortened((errors or lines or [""])[-1])


def command_of(script: str, launcher: str | None) -> tuple[str, ...]:
    """Return the words that start a trial. launcher: instead of this Python, as "torchrun --nproc-per-node=2"."""
    if not Path(script).is_file():
        raise UserError(f"--script: there is no file {shown(script)}")
    return (*(shlex.split(launcher) if launcher else (sys.executable,)), script)
