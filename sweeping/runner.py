"""The sweep itself: keeps all jobs at work until the trials are done, the budget is used up or something stops it."""

import contextlib
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from optuna import Trial
from optuna.trial import TrialState

from sweeping.plan import Plan
from sweeping.shared_study import BEAT_SECONDS, SharedStudy
from sweeping.space import Space, with_settings
from sweeping.storage import StorageGone
from sweeping.trial_run import Ended, StopsSweep, TrialRun
from utils.errors import UserError, quantity, shown
from utils.stop_signal import StopSignal

_POLL_SECONDS = 0.05
_LOOK_SECONDS = 0.5  # between two looks at the numbers of running trials
_IDLE_SECONDS = 1.0
_FAILURES_IN_A_ROW = 3


class Sweep:
    """Trains the trials of a study, several at a time.

    study: the SharedStudy. plan, space: what read_plan returned. config: the job. start: makes the TrialRun of
    (number, settings, number of the job, former process). jobs: trials at a time. line: for what the sweep tells.
    """

    def __init__(
        self,
        study: SharedStudy,
        plan: Plan,
        space: Space,
        config: dict[str, Any],
        start: Callable[[int, dict[str, Any], int, Any], TrialRun],
        jobs: int,
        line: "LiveLine",
    ) -> None:
        self.study, self.plan, self.space, self.config = study, plan, space, config
        self._start = start
        self._runs: dict[int, tuple[Trial, TrialRun, int]] = {}  # by slot: the job's number
        self._jobs = jobs
        self._failures: deque[str] = deque(maxlen=_FAILURES_IN_A_ROW)
        self._ended_here = 0
        self._began = time.monotonic()
        self._due = dict.fromkeys(("fill", "look", "beat", "budget", "total"), 0.0)
        self.line = line

    def run(self, stop: StopSignal) -> None:
        """Sweep until all trials are done, or until the signal or the budget stops it; trials under way are kept.

        Raises UserError where no trial would come to a result, StorageGone where the storage does not answer.
        """
        try:
            while not stop.asks() and not self._is_over():
                self._fill()
                self._poll()
                time.sleep(_POLL_SECONDS)
            self.line.show(self._line)
        finally:
            self._keep_all()
            self.line.end()

    def _is_over(self):
        if self.plan.seconds is not None and self._is_due("budget", 1.0):
            used = self.study.seconds_used()
            if used >= self.plan.seconds:
                self.line.tell(f"the budget of {self.plan.budget} is used up")
                return True
        if self._runs or self.plan.trials is None or not self._is_due("total", _LOOK_SECONDS):
            return False
        return self.study.counts().ended >= self.plan.trials

    def _is_due(self, what, seconds):
        """Whether it is time for something that is done every so many seconds."""
        if time.monotonic() < self._due[what]:
            return False
        self._due[what] = time.monotonic() + seconds
        return True

    # ---- begin trials

    def _fill(self):
        """Give each job that has none a trial; where there is none to begin, look again a second later."""
        free = [slot for slot in range(self._jobs) if slot not in self._runs]
        if not free or time.monotonic() < self._due["fill"]:
            return
        self._look_for_lost()
        for slot in free:
            trial = self.study.take()
            if trial is None:
                self._due["fill"] = time.monotonic() + _IDLE_SECONDS
                return
            self._begin(slot, trial)

    def _look_for_lost(self):
        for number in self.study.release_lost():
            self.line.tell(f"trial {number}: its sweep is gone; taken over")

    def _begin(self, slot, trial):
        stored = self.study.get(trial.number)
        settings = stored.user_attrs.get("settings")
        if settings is None:
            names = self.study.parameter_names(self.space)
            settings = self.space.settings(
                self.config, lambda key, d: self.study.patiently(d.suggest, trial, names[key])
            )
            self.study.set(trial.number, "settings", settings)
        try:
            run = self._start(trial.number, settings, slot, stored.user_attrs.get("process"))
        except StopsSweep:
            self.study.let_go(trial.number)
            raise
        self._runs[slot] = trial, run, len(stored.intermediate_values)
        self.study.set(trial.number, "process", run.process)

    # ---- follow trials

    def _poll(self):
        look, beat = self._is_due("look", _LOOK_SECONDS), self._is_due("beat", BEAT_SECONDS)
        for slot, (trial, run, _) in list(self._runs.items()):
            before = run.process
            ended = run.poll()
            if ended is None and run.process != before:
                self.study.set(trial.number, "process", run.process)
            if beat and not self.study.keep(trial.number):
                run.stop()
                self.line.tell(f"trial {trial.number}: another sweep has taken it over")
                del self._runs[slot]
            elif ended is not None:
                self._report(slot)
                del self._runs[slot]
                self._finish(trial, ended)
            elif look and self._report(slot) and not run.is_stopping:
                run.stop()
        if look:
            self.line.show(self._line)

    def _report(self, slot):
        """Report the epochs since the last look; returns whether the pruner stops the trial."""
        trial, run, reported = self._runs[slot]
        rows = run.rows() if len(self.plan.objectives) == 1 else []
        new = rows[reported:]
        for row in new:
            value, epoch = row.get(self.plan.names[0]), int(row["epoch"])
            if value is not None and epoch not in self.study.get(trial.number).intermediate_values:
                self.study.patiently(trial.report, value, epoch)
        self._runs[slot] = trial, run, len(rows)
        is_last = bool(rows) and rows[-1]["epoch"] >= self._epochs(run)
        return bool(new) and not is_last and self.study.patiently(trial.should_prune)

    def _epochs(self, run):
        """Number of epochs of a trial, which the space may vary."""
        return with_settings(self.config, run.settings)["trainer"]["epochs"]

    def _finish(self, trial, ended: Ended):
        number, attributes = trial.number, ended.attributes
        if ended.values is not None:
            ours = self.study.finish(number, TrialState.COMPLETE, ended.values, attributes)
            self._failures.clear()
        elif ended.was_stopped:
            ours = self.study.finish(number, TrialState.PRUNED, None, attributes)
        else:
            self.line.tell(f"trial {number} failed: {ended.error}")
            ours = self.study.finish(number, TrialState.FAIL, None, {**attributes, "error": ended.error})
            self._failures.append(re.sub(r"\d+", "#", ended.error or ""))
        self._ended_here += ours
        if len(self._failures) == _FAILURES_IN_A_ROW and len(set(self._failures)) == 1:
            raise UserError(f"{_FAILURES_IN_A_ROW} trials in a row failed alike, so the sweep stops: {ended.error}")

    # ---- end

    def _keep_all(self):
        """Stop the trials under way, each of which saves, and let them wait in the study."""
        runs = list(self._runs.values())
        for _, run, _ in runs:
            run.stop()
        if runs:
            trials = f"{len(runs)} trial{'s' if len(runs) > 1 else ''}"
            self.line.tell(f"stopping {trials}, each of which saves first; repeat the command to continue")
        while any(not run.is_over() for _, run, _ in runs):
            if self._is_due("beat", BEAT_SECONDS):  # so that no other sweep takes them over meanwhile
                with contextlib.suppress(StorageGone):
                    for trial, _, _ in runs:
                        self.study.keep(trial.number)
            time.sleep(_POLL_SECONDS)
        with contextlib.suppress(StorageGone):  # the next sweep notices that this process is gone
            if self.plan.seconds is not None:
                self.study.record_time()
            for trial, _, _ in runs:
                self.study.let_go(trial.number)
        self._runs.clear()

    def _line(self):
        counts = self.study.counts()
        trials = f"{counts.ended}/{self.plan.trials} trials" if self.plan.trials else quantity(counts.ended, "trial")
        parts = [f"{trials} done", f"{counts.running} running", f"{counts.pruned} pruned"]
        parts += [f"{counts.failed} failed"] if counts.failed else []
        return "; ".join([", ".join(parts), *self.study.best_so_far(self.plan), *self._remaining(counts)])

    def _remaining(self, counts):
        """The time that is left, from the pace of this process and of the others that run trials now."""
        if self.plan.trials is None:
            assert self.plan.seconds is not None  # the plan's check asks for one of the two
            seconds = max(0.0, self.plan.seconds - self.study.seconds_used())
            return [f"about {timedelta(seconds=round(seconds))} left"]
        under_way = sum(run.progress(self._epochs(run)) for _, run, _ in self._runs.values())
        here, left = self._ended_here + under_way, self.plan.trials - counts.ended - under_way
        if here <= 0 or left <= 0:
            return []
        share = max(1, counts.running) / max(1, len(self._runs))
        seconds = (time.monotonic() - self._began) / here * left / share
        return [f"about {timedelta(seconds=round(seconds))} left"]


class LiveLine:
    """One line on stderr: renewed at the bottom of a terminal; elsewhere, a new one when more than its time changes."""

    def __init__(self) -> None:
        self._renews = sys.stderr.isatty()
        self._shown = ""

    def show(self, make: Callable[[], str]) -> None:
        """Show the line that make() returns."""
        text = shown(make())
        without_time = text.rpartition("; about ")[0] or text
        if self._renews:
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            print(f"\r\033[K{text[: width - 1]}", end="", file=sys.stderr, flush=True)
        elif without_time != self._shown:
            print(text, file=sys.stderr, flush=True)
        self._shown = without_time

    def tell(self, text: str) -> None:
        """Print a line that stays."""
        if self._renews and self._shown:
            print("\r\033[K", end="", file=sys.stderr)
        print(shown(text), file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line as it is."""
        if self._renews and self._shown:
            print(file=sys.stderr, flush=True)
