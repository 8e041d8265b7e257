"""What --fold, --folds and --seeds set in a config, so that each of their runs has a name of its own."""

from dataclasses import dataclass

from utils.config.schema import RunSettings
from utils.errors import UserError
from utils.rules import parse_fold

_ALONE = ("fast_dev_run", "show_batch", "find_lr", "find_batch_size")


@dataclass(frozen=True)
class Variant:
    """One run of a series: a fold or a seed."""

    label: str
    name: str
    """Of the run's job: the config's, and which variant it is."""
    assignments: tuple
    """(path, value) of what it sets in the config besides the name."""
    flags: tuple
    """What makes an ordinary command line that of this run."""


def variants_of(parsed, config):
    """The Variants that a command line asks for, in the order in which they are trained; [] for an ordinary run.

    parsed: what an ArgumentParser returned, perhaps with _fold ("3/5"), _folds or _seeds (numbers). Raises UserError.
    """
    asked = {key: getattr(parsed, f"_{key}", None) for key in ("fold", "folds", "seeds")}
    asked = {key: value for key, value in asked.items() if value is not None}
    if not asked:
        return []
    if len(asked) > 1:
        raise UserError(f"--{', --'.join(asked)}: give one of them at a time")
    ((key, value),) = asked.items()
    if key != "fold" and value < 2:
        raise UserError(f"--{key}: got {value}; it should be at least 2")
    alone = next((flag for flag in _ALONE if getattr(parsed, flag, None)), None)
    if key != "fold" and alone:
        flag = alone.replace("_", "-")
        raise UserError(
            f"--{key}: does not go with --{flag}, which leaves nothing to compare; give --{flag} without it"
        )
    if key != "fold" and parsed.resume not in (None, "auto"):
        raise UserError(f"-r: with --{key} it can only be 'auto', which goes on with the newest runs of that name")
    name = str(config.get("name", RunSettings.model_fields["name"].default))
    if key == "seeds":
        first = config.get("seed", RunSettings.model_fields["seed"].default)
        if isinstance(first, bool) or not isinstance(first, int):
            raise UserError(f"seed: got {first!r}; it should be an integer")
        return [_seed(name, first + i) for i in range(value)]
    folds = [value] if key == "fold" else [f"{number}/{value}" for number in range(1, value + 1)]
    return [_fold(name, config.get("data_loader"), fold) for fold in folds]


def _seed(name, seed):
    name = f"{name}-seed{seed}"
    return Variant(f"seed {seed}", name, (("seed", seed),), ("--set", f"seed={seed}", "--set", f"name={name}"))


def _fold(name, section, fold):
    """The fold takes the place of a validation_split."""
    try:
        number, folds = parse_fold(fold)
    except UserError as error:
        raise UserError(f"--{error}") from None
    args = section.get("args") if isinstance(section, dict) else None
    split = isinstance(args, dict) and "validation_split" in args
    assignments = (("data_loader.args.fold", fold), *([("data_loader.args.validation_split", 0)] if split else []))
    suffix = f"-fold{number}of{folds}"
    return Variant(f"fold {fold}", name.removesuffix(suffix) + suffix, assignments, ("--fold", fold))
