"""What the run of a config measures, as far as its text and source files show: names in the log, and on which data."""

from collections.abc import Iterable, Iterator
from typing import Any

from utils.config.components import (
    Part,
    args_of,
    dict_at,
    entries,
    is_spec,
    metric_names,
    specs_in,
    watched,
)
from utils.config.source import Definition
from utils.config.types import find_in_source, find_type
from utils.errors import UserError, brief
from utils.nearest import did_you_mean, nearest
from utils.rules import nothing_to_validate, validated_twice

_ALSO_LOGGED = "; trainer.also_logged names what a trainer or callback of yours logs"


def monitor_errors(config: dict[str, Any], parts: dict[str, Part], also_logged: Iterable[str] | None) -> Iterator[str]:
    """Yield a line for each monitored name that nothing will log. also_logged: as for check_config."""
    if also_logged is None or not isinstance(config.get("metrics", []), list):
        return
    metrics, specs = metric_names(config), specs_in(config, "metrics")
    logged = ["loss", *(name for path, name in metrics.items() if specs[path].get("training", True))]
    if _has_validation_data(config, parts) is not False:
        measured = ([] if config.get("loss", "") is None else ["loss"]) + list(metrics.values())
        logged += [f"val_{name}" for name in measured]
    own = entries(dict_at(config, "trainer").get("also_logged"))
    logged += [*also_logged, *(name for name in own if isinstance(name, str))]
    no_split = "; data_loader.args.validation_split sets no samples aside, and there is no valid_data_loader"
    of = parts.get("metrics")
    misspelt = [name for path, name in metrics.items() if of and definition_of(specs[path], of) is None]
    right = [name for name in logged if name.removeprefix("val_") not in misspelt]
    for path, name in watched(config).items():
        bare = name.removeprefix("val_")
        of_misspelt = misspelt and (not nearest(name, right) or nearest(bare, misspelt))  # that error is enough
        if name not in logged and not of_misspelt:
            hint = did_you_mean(name, right) + ("" if nearest(name, right) else _ALSO_LOGGED)
            yield f"{path}: nothing called {brief(name)} is logged{no_split if bare in logged else hint}"


def validation_errors(config: dict[str, Any], parts: dict[str, Part]) -> Iterator[str]:
    """Yield a line for validation data from two places, and for each key that needs such data where there are none."""
    trainer = dict_at(config, "trainer")
    if config.get("valid_data_loader") is not None and _sets_aside(config, parts):
        yield validated_twice(args_of(config, "data_loader"))
    if trainer.get("overfit_batches") is None and _has_validation_data(config, parts) is False:
        keys = ("limit_valid_batches", "sanity_check_batches")
        yield from (nothing_to_validate(key) for key in keys if trainer.get(key))


def measured_by_test_alone(config: dict[str, Any], parts: dict[str, Part]) -> Iterator[str]:
    """Yield a line for each metric that is left out of training where there are no validation data.

    The types of the metrics are imported, since a class or function may say so itself.
    """
    has_data = dict_at(config, "trainer").get("overfit_batches") is not None or _has_validation_data(config, parts)
    if has_data is not False or "metrics" not in parts:
        return
    for path, spec in specs_in(config, "metrics").items():
        of_type = getattr(find_type(path, spec["type"], parts["metrics"]), "in_training", True)
        if not spec.get("training", of_type):
            yield f"{path}: is not measured in training, and there are no validation data; test.py alone measures it"


def _has_validation_data(config, parts):
    """None if that cannot be told."""
    return config.get("valid_data_loader") is not None or _sets_aside(config, parts)


def _sets_aside(config, parts):
    """Whether data_loader sets validation samples aside; None if that cannot be told."""
    args = args_of(config, "data_loader")
    definition = definition_of(config.get("data_loader"), parts.get("data_loader"))
    if args.get("fold") is not None:
        return None if definition and definition.default("fold") is None else True
    if "validation_split" in args:
        return args["validation_split"] != 0
    default = definition and definition.default("validation_split")
    return default not in ("0", "0.0") if isinstance(default, str) else None


def definition_of(spec: object, part: Part | None) -> Definition | None:
    """Return the Definition of a component as source files show it; None if it is not found."""
    if part is None or not is_spec(spec):
        return None
    try:
        return find_in_source(spec["type"], part)
    except UserError:
        return None
