"""A study that several sweeps share: who trains which trial, and what becomes of one whose process is gone.

A trial whose sweep was stopped or is gone waits in Optuna's state WAITING with the settings that it has. Optuna lets
one process alone take it from there. A sweep updates the attribute "owner" of each trial that it trains; if that stays
the same for too long, another sweep returns the trial to WAITING.
"""

import contextlib
import itertools
import json
import os
import platform
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from sweeping.plan import Plan
from sweeping.space import Space
from sweeping.storage import Patience
from utils.errors import UserError, quantity, shortened, shown
from utils.files import differences

BEAT_SECONDS = 10.0
_GONE_SECONDS = 60.0  # without a beat
_UNOWNED_SECONDS = 10.0  # between Optuna's making of a trial and the first beat


@dataclass
class Counts:
    """How many trials of the study are in which state; waiting ones are not counted."""

    done: int
    pruned: int
    failed: int
    running: int

    @property
    def ended(self) -> int:
        """Number of trials that will not be trained any more."""
        return self.done + self.pruned + self.failed


class SharedStudy:
    """Trials of an Optuna study, taken, kept, let go and finished by this process beside others.

    study: what open_study returned. storage: of the study. total: number of trials; None for any. patience: how to
    wait for a storage that does not answer.
    """

    def __init__(self, study: optuna.Study, storage: BaseStorage, total: int | None, patience: Patience) -> None:
        self.study, self.total = study, total
        self._storage, self._patience = storage, patience
        self._me = [uuid.uuid4().hex, this_host(), os.getpid()]
        self._beats = 0
        self._seen = {}  # {number: (owner, when it was first seen)} of the others' running trials
        self._started, self._recorded = time.time(), 0.0
        self._own_time = f"swept {self._me[0]}"

    def trials(self) -> list[FrozenTrial]:
        """Return the trials of the plan: those with a number below the total."""
        trials = self._patience(self.study.get_trials, deepcopy=False)
        return trials if self.total is None else trials[: self.total]

    def counts(self) -> Counts:
        """Return how many trials there are in each state."""
        states = [trial.state for trial in self.trials()]
        kinds = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
        return Counts(*map(states.count, kinds))

    def take(self) -> Trial | None:
        """Return a trial for this process to train, one that waits or a new one; None if all are taken or done."""
        trials = self.trials()
        waits = any(trial.state == TrialState.WAITING for trial in trials)
        if not waits and self.total is not None and len(trials) >= self.total:
            return None
        trial = self._patience(self.study.ask)
        if self.total is not None and trial.number >= self.total:  # another process was faster
            self._let_wait(trial.number)
            return None
        return trial if self.keep(trial.number, check=False) and self.owns(trial.number) else None

    def keep(self, number: int, check: bool = True) -> bool:
        """Tell the others that this process trains the trial; returns whether it does. check: ask who owns it first."""
        if check and not self.owns(number):
            return False
        self._beats += 1
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.set(number, "owner", [*self._me, self._beats])
            return True
        return False

    def owns(self, number: int) -> bool:
        """Whether the trial runs, and this process was the last to say that it trains it."""
        trial = self._patience(self._storage.get_trial, self._id(number))
        return trial.state == TrialState.RUNNING and (trial.user_attrs.get("owner") or [None])[0] == self._me[0]

    def patiently(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return function(*args), which asks the storage; it is called again if the storage does not answer."""
        return self._patience(function, *args)

    def parameter_names(self, space: Space) -> dict[str, str]:
        """Return {key: Optuna's name of it}; a key whose choices have changed gets a new name, since Optuna asks so."""
        earlier = {}
        for trial in self._patience(self.study.get_trials, deepcopy=False):
            earlier.update(trial.distributions)
        names = {}
        for key, dimension in space.dimensions.items():
            candidates = (key if i == 1 else f"{key} ({i})" for i in itertools.count(1))
            names[key] = next(name for name in candidates if _is_compatible(earlier.get(name), dimension))
        return names

    def best_so_far(self, plan: Plan) -> list[str]:
        """Return the words for the best trial so far, none without any."""
        done = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        if not done:
            return []
        if len(plan.objectives) > 1:
            return [f"{quantity(len(self._patience(lambda: self.study.best_trials)), 'trial')} on the Pareto front"]
        best = (min if plan.directions == ["minimize"] else max)(done, key=lambda trial: trial.value or 0.0)
        return [f"best {plan.names[0]} {best.value:.5g} (trial {best.number})"]

    def set(self, number: int, key: str, value: Any) -> None:
        """Set an attribute of a trial that has not ended."""
        self._patience(self._storage.set_trial_user_attr, self._id(number), key, value)

    def get(self, number: int) -> FrozenTrial:
        """Return the trial as it is stored."""
        return self._patience(self._storage.get_trial, self._id(number))

    def let_go(self, number: int) -> None:
        """Let a trial of this process wait for whoever sweeps next."""
        if self.owns(number):
            self._let_wait(number)

    def finish(
        self, number: int, state: TrialState, values: Sequence[float] | None, attributes: dict[str, Any]
    ) -> bool:
        """End a trial of this process; returns False, and changes nothing, if another has taken it over."""
        if not self.owns(number):
            return False
        try:
            for key, value in attributes.items():
                self.set(number, key, value)
            self._patience(self.study.tell, number, values, state, skip_if_finished=True)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):  # taken over in this moment
            return False
        return True

    def release_lost(self) -> list[int]:
        """Let the trials wait whose process is gone; returns their numbers."""
        now, lost, seen = time.monotonic(), [], {}
        for trial in self._patience(self.study.get_trials, deepcopy=False, states=(TrialState.RUNNING,)):
            owner = trial.user_attrs.get("owner")
            if owner and owner[0] == self._me[0]:
                continue
            before, since = self._seen.get(trial.number, (owner, now))
            seen[trial.number] = (owner, since if before == owner else now)
            patience = _GONE_SECONDS if owner else _UNOWNED_SECONDS
            if (owner and is_dead(owner)) or now - seen[trial.number][1] > patience:
                self._let_wait(trial.number)
                lost.append(trial.number)
        self._seen = seen
        return lost

    def seconds_used(self) -> float:
        """Return the time for which any sweep has worked on the study, and record now and then that this one does."""
        if time.time() - self._recorded >= BEAT_SECONDS:
            self.record_time()
        used, end = 0.0, 0.0
        attributes = self._patience(lambda: self.study.user_attrs) | {self._own_time: [self._started, time.time()]}
        for first, last in sorted(value for key, value in attributes.items() if key.startswith("swept ")):
            used += max(0.0, last - max(first, end))
            end = max(end, last)
        return used

    def record_time(self) -> None:
        """Record until when this sweep has worked on the study."""
        self._recorded = time.time()
        self._patience(self.study.set_user_attr, self._own_time, [self._started, self._recorded])

    def _let_wait(self, number):
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.set(number, "owner", None)
            self._patience(self._storage.set_trial_state_values, self._id(number), TrialState.WAITING)

    def _id(self, number):
        """Optuna's number of the trial within the storage."""
        study = self._patience(self._storage.get_study_id_from_name, self.study.study_name)
        return self._patience(self._storage.get_trial_id_from_study_id_trial_number, study, number)


def _is_compatible(earlier, dimension):
    try:
        if earlier is not None:
            optuna.distributions.check_distribution_compatibility(earlier, dimension.distribution())
    except ValueError:
        return False
    return True


def this_host() -> str:
    """Return the name within which a process number has one meaning: of the host, and of a container on it."""
    try:
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def is_dead(process: Sequence[Any]) -> bool:
    """Whether a process, given as (anything, this_host(), number, ...), was on this host and has ended."""
    if process[1] != this_host() or os.name != "posix":  # Windows would send 0 as Ctrl-C
        return False
    try:
        os.kill(process[2], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _is_zombie(process[2])


def _is_zombie(number):
    """Whether the process has ended and its parent has not asked for its status; False where that is unknown."""
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def open_study(
    storage: BaseStorage, plan: Plan, space: Space, config: dict[str, Any], extend: bool = False
) -> optuna.Study:
    """Return the study of the plan's name, a new one if there is none. Raises UserError if it had another plan.

    config: the job. extend: accept another space, and another job.
    """
    study = optuna.create_study(storage=storage, study_name=plan.study, directions=plan.directions, load_if_exists=True)
    asked = {
        "space": {key: dimension.described() for key, dimension in space.dimensions.items()},
        "objectives": plan.objectives,
        "seeds": plan.seeds,
        "config": {key: value for key, value in config.items() if key not in ("name", "description")},
    }
    has_trials = bool(study.get_trials(deepcopy=False))  # first, since another sweep may begin the study now
    before = study.user_attrs.get("plan")
    if before is None and has_trials:
        raise UserError(f"--study {shown(plan.study)}: exists, and sweep.py has not made it; choose another name")
    changes = differences(before, asked) if before is not None else []
    fixed = [line for line in changes if line.startswith(("objectives", "seeds"))]
    if fixed or (changes and not extend):
        told = shortened("; ".join(fixed or changes))
        remedy = "--extend continues with the new one, --study NAME begins another"
        remedy = "begin another with --study NAME" if fixed else remedy
        raise UserError(f"{shown(plan.study)}: the study was begun with another plan: {told}; {remedy}")
    if before != asked:
        study.set_user_attr("plan", asked)
        study.set_metric_names(plan.names)
    return study


def settings_of_grid(study: optuna.Study, grid: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the settings of the grid, recorded in the study; those that are new in an extended study come last."""
    known = study.user_attrs.get("grid", [])
    there = {json.dumps(settings, sort_keys=True) for settings in known}
    asked = {json.dumps(settings, sort_keys=True) for settings in grid}
    begun = [trial.number for trial in study.get_trials(deepcopy=False) if "settings" in trial.user_attrs]
    for number, settings in enumerate(known):
        if number not in begun and json.dumps(settings, sort_keys=True) not in asked:
            one = ", ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
            remedy = "train the earlier grid first, or begin another study with --study NAME"
            raise UserError(f"--extend: the new grid lacks {shortened(one)}, which is not trained yet; {remedy}")
    settings = known + [one for one in grid if json.dumps(one, sort_keys=True) not in there]
    if settings != known:
        study.set_user_attr("grid", settings)
    return settings
