"""The plan of a sweep: sweep.json and the command line, checked with the config before anything starts."""

# pyright: reportInvalidTypeForm=false
import argparse
import contextlib
import inspect
import itertools
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict

from sweeping.space import Space, label, parse_dimension, with_settings
from utils.config import forms
from utils.config.check import check_config
from utils.config.components import PARTS, dict_at
from utils.config.files import deep_merge, read_config
from utils.config.schema import Component, RunSettings
from utils.errors import UserError, brief, refuse, shown
from utils.nearest import did_you_mean

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

PARAMETERS = "parameters"
"""The objective that metrics.csv does not have: the number of trainable parameters."""
GRID = "grid"


_Budget = forms.matching(r"^\d{1,5}:[0-5]\d:[0-5]\d$", "it should be hours, minutes and seconds: '02:00:00'")
_Objective = forms.matching(r"^(min|max) \S+$", "it should be 'min <name>' or 'max <name>', such as 'max val_accuracy'")


class Plan(forms.Section):
    """What a sweep does."""

    model_config = ConfigDict(extra="forbid")

    study: str = ""
    """Name of the study and of its runs, `<study>-<trial>`; by default the config's name and "-sweep"."""
    space: forms.Args
    """The keys of the config to vary, as {"optimizer.args.lr": "log:1e-4..1e-1", "arch.args.dropout": [0.1, 0.3]}."""
    objectives: forms.several(_Objective)
    """What to look for, as "max val_accuracy" or "min parameters"; by default `trainer.monitor`."""
    trials: forms.Count | None = None
    """Number of trials in all, those of earlier starts included."""
    seeds: forms.Count = 1
    """Number of seeds that each setting is trained with; it is judged by the mean."""
    budget: _Budget | None = None
    """Time to sweep in all, as "02:00:00"; running trials are then stopped and kept."""
    sampler: forms.named(Component) = "TPESampler"
    """A class of optuna.samplers, or "grid"."""
    pruner: forms.named(Component) = "MedianPruner"
    """A class of optuna.pruners; "NopPruner" stops no trial early."""

    @classmethod
    def rules(cls, given: dict[str, Any]) -> Any:
        yield from super().rules(given)
        if isinstance(given.get("study"), str):
            for _, line in forms.form_errors(RunSettings, {"name": given["study"]}):
                yield ("study",), line.partition(": ")[2]
        if isinstance(given.get("space"), dict) and not given["space"]:
            yield ("space",), "holds no key to vary; add some, as optimizer.args.lr=log:1e-4..1e-1"
        objectives = given.get("objectives")
        if isinstance(objectives, list) and len(objectives) > 1 and given.get("pruner"):
            yield ("pruner",), "trials of several objectives cannot be compared before their end; leave it out"

    @property
    def seconds(self) -> float | None:
        """The budget in seconds."""
        if self.budget is None:
            return None
        hours, minutes, seconds = map(int, self.budget.split(":"))
        return 3600 * hours + 60 * minutes + seconds

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Optuna's words for what is done to each objective."""
        return ["minimize" if objective.startswith("min ") else "maximize" for objective in self.objectives]

    @property
    def names(self) -> list[str]:
        """The objectives without min and max."""
        return [objective[4:] for objective in self.objectives]


def given_plan(flags: argparse.Namespace) -> dict[str, Any]:
    """Return the content of sweep.json under what the command line says. Raises UserError."""
    plan = read_config(flags.sweep) if flags.sweep else {}
    space = plan.get("space", {})
    for text in flags.space:
        key, equals, values = text.partition("=")
        if not equals or not key:
            raise UserError(f"{shown(text)}: give a key of the config and its values, as optimizer.args.lr=0.1,0.01")
        space = {**(space if isinstance(space, dict) else {}), key: values}
    given = {"objectives": flags.objective, "space": space}
    given |= {key: getattr(flags, key) for key in ("study", "trials", "seeds", "budget", "sampler", "pruner")}
    return {**plan, **{key: value for key, value in given.items() if value is not None}}


def read_plan(given: dict[str, Any], config: dict[str, Any]) -> tuple[Plan, Space]:
    """Return the checked plan and its space. Raises UserError with a line for each error.

    given: the content of sweep.json with what the command line adds. config: the job, merged.
    """
    check_config(config, PARTS)
    monitor = dict_at(config, "trainer").get("monitor", "off")
    given = dict(given)
    if not given.get("objectives"):
        if monitor == "off":
            raise UserError("objectives: trainer.monitor is 'off', so give one, as --objective 'max val_accuracy'")
        given["objectives"] = [monitor]
    name = config.get("name", RunSettings.model_fields["name"].default)
    refuse(line for _, line in forms.form_errors(Plan, given))
    plan = Plan.model_validate({"study": f"{name}-sweep", **given})
    space = Space({key: parse_dimension(key, values) for key, values in plan.space.items()})
    refuse(dict.fromkeys([*_objective_errors(plan, config), *_value_errors(space, config)]))
    if is_grid(plan):
        space.grid(config)
    elif plan.trials is None and plan.budget is None:
        raise UserError('trials: say when the sweep ends: --trials 30, or a "budget" of time such as "02:00:00"')
    return plan, space


def _objective_errors(plan, config):
    """Objectives that nothing will log, as the check of trainer.monitor finds them."""
    for i, objective in enumerate(plan.objectives):
        if objective[4:] == PARAMETERS:
            continue
        for line in _errors_of(with_settings(config, {"trainer.monitor": objective})):
            where, _, text = line.partition(": ")
            if where == "trainer.monitor":
                yield f"objectives.{i}: {text}"


def _value_errors(space, config):
    """Keys that do not exist and values that do not fit, each tried alone where its condition holds."""
    free = {key: d for key, d in space.dimensions.items() if not d.when}
    for key, dimension in space.dimensions.items():
        around = _where_it_applies(key, dimension, free, config)
        if around is None:
            yield f"space.{key}.when: {brief(dict(dimension.when))} is true of no setting"
            continue
        for value in dimension.ends():
            for line in _errors_of(config, {**around, key: value}):
                where, _, text = line.partition(": ")
                yield f"space.{key}: {text}" if where == key else f"space.{key}: with {brief(value)}, {line}"
        yield from _same_config(key, dimension, around, config)


def _same_config(key, dimension, around, config):
    """Choices that differ only in what they leave to the config, so that one setting would be trained twice."""
    seen = {}
    for value in dimension.choices:
        with contextlib.suppress(UserError):  # it is an error of its own
            made = label(with_settings(config, {**around, key: value}))
            if made in seen:
                same = (
                    f"{brief(seen[made])} and {brief(value)} are the same, since the config gives what they leave out"
                )
                yield f"space.{key}: {same}; write the values of both"
            seen[made] = value


def _where_it_applies(key, dimension, free, config):
    """Settings of other keys with which the key is set; None if there are none."""
    if not dimension.when:
        return {}
    parents = {k: d for k, d in free.items() if any(f"{path}.".startswith(f"{k}.") for path in dimension.when)}
    for values in itertools.product(*(d.choices or d.ends() for d in parents.values())):
        around = dict(zip(parents, values, strict=True))
        dimensions = {**{k: free[k] for k in parents}, key: dimension}
        if key in Space(dimensions).settings(config, lambda k, d, around=around: around.get(k)):
            return around
    return None


def _errors_of(config, settings: Mapping[str, Any] | None = None) -> Iterable[str]:
    try:
        check_config(with_settings(config, settings or {}), PARTS)
    except UserError as error:
        return str(error).split("\n")
    return ()


def make_sampler(plan: Plan) -> "BaseSampler | None":
    """Return the sampler that the plan names; None for a grid. Raises UserError."""
    import optuna

    if is_grid(plan):
        return None
    spec = _spec_of(plan.sampler, "Sampler")
    if spec["type"] == "TPESampler":  # running trials count as bad, so that several jobs do not try the same
        spec = {**spec, "args": {"constant_liar": True, **spec["args"]}}
    return _made("sampler", spec, optuna.samplers, optuna.samplers.BaseSampler)


def is_grid(plan: Plan) -> bool:
    """Whether the trials are all settings of a grid."""
    return plan.sampler == GRID


def make_pruner(plan: Plan) -> "BasePruner":
    """Return the pruner that the plan names. Raises UserError."""
    import optuna

    return _made("pruner", _spec_of(plan.pruner, "Pruner"), optuna.pruners, optuna.pruners.BasePruner)


def _spec_of(named, kind):
    """{"type", "args"} of a sampler or a pruner; "TPE" is short for "TPESampler"."""
    name, args = (named, {}) if isinstance(named, str) else (named.type, named.args)
    return {"type": name if name.endswith(kind) else f"{name}{kind}", "args": args}


def _made(key, spec, module, base) -> Any:
    import optuna

    found = getattr(module, spec["type"], None)
    if not (inspect.isclass(found) and issubclass(found, base) and found is not base):
        names = [name for name in module.__all__ if name != base.__name__ and name[0].isupper()]
        raise UserError(f"{key}.type: optuna has no {brief(spec['type'])}{did_you_mean(spec['type'], names)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return found(**deep_merge({}, spec["args"]))
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}.args: {brief(spec['args'])}: {error}") from None
