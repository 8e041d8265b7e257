"""A sampler that goes through a list of settings, the trial's number being the place in it."""

from collections.abc import Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from sweeping.space import label


class GridOfSettings(BaseSampler):
    """Gives trial n the nth of the settings, whichever process trains it and however often it was restarted."""

    def __init__(self, settings: Sequence[dict[str, Any]]) -> None:
        self._settings = settings

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        key = param_name.partition(" ")[0]  # in an extended study there may be a number behind it
        return label(self._settings[trial.number % len(self._settings)][key])
