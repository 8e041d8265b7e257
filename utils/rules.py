"""Rules about arguments, each written once: their owners call them, and so does the config check, without torch."""

import re
from collections.abc import Iterator
from numbers import Real
from typing import Any

from utils.errors import UserError, brief


def size_errors(args: dict[str, Any]) -> Iterator[str]:
    """Yield a line "argument: error" for each size that no loader can have. args: {name: value}, some or all."""
    for name, lowest in (("batch_size", 1), ("num_workers", 0)):
        value = args.get(name, lowest)
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            yield f"{name}: got {brief(value)}; it should be an integer of at least {lowest}"


def split_errors(args: dict[str, Any]) -> Iterator[str]:
    """Yield the same for the arguments that say how to split the samples into two parts."""
    split, fold = args.get("validation_split", 0), args.get("fold")
    if isinstance(split, int):
        fits = split >= 0 and not isinstance(split, bool)
    else:
        fits = isinstance(split, Real) and 0 <= float(split) < 1
    if not fits:
        yield f"validation_split: got {brief(split)}; give a share from 0.0 to below 1.0, or a number of samples"
    if fold is not None:
        try:
            parse_fold(fold)
        except UserError as error:
            yield str(error)
        if split != 0:
            yield "fold: validation_split sets samples aside too; leave one of them out"
    if all(args.get(name) is not None and args[name] is not False for name in ("stratify", "groups")):
        yield "groups: a split goes by stratify or by groups; leave one of them out"


def loader_errors(args: dict[str, Any]) -> Iterator[str]:
    """Yield the same for all arguments of a loader."""
    yield from size_errors(args)
    yield from split_errors(args)


def rate_errors(args: dict[str, Any]) -> Iterator[str]:
    """Yield the same for the arguments of an optimizer, whose rate is a number though torch also takes a tensor."""
    if isinstance(args.get("lr"), list):
        yield f"lr: got {brief(args['lr'])}; it should be a number"


def parse_fold(fold: object) -> tuple[int, int]:
    """Return (3, 5) for "3/5": the third of five folds. Raises UserError for a value of another form."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", fold) if isinstance(fold, str) else None
    number, folds = map(int, match.groups()) if match else (0, 0)
    if folds < 2 or not 1 <= number <= folds:
        raise UserError(f"fold: got {brief(fold)}; give one of at least two, such as '3/5', the third of five")
    return number, folds


def validated_twice(args: dict[str, Any]) -> str:
    """Return the error of a valid_data_loader beside a data_loader that sets samples aside, whose args are given."""
    how = next((name for name in ("fold", "validation_split") if args.get(name)), None)
    remedy = f"leave data_loader.args.{how} out, or this" if how else "give data_loader.args.validation_split: 0"
    return f"valid_data_loader: data_loader sets validation samples aside already; {remedy}"


def nothing_to_validate(key: str) -> str:
    """Return the error of a trainer key that needs validation data where there are none."""
    return f"trainer.{key}: there are no validation data; set data_loader.args.validation_split, or leave it out"


def optimizer_error(name: str) -> str | None:
    """Return the error of an optimizer class of that name; None if there is none."""
    if name == "LBFGS":
        remedy = "use another, or let a trainer of yours call it: docs/trainers.md"
        return f"LBFGS wants to compute the loss itself, several times a step; {remedy}"
    return None


def precision_error(precision: str, device: str) -> str | None:
    """Return the error of a precision on a kind of device, such as "cpu" or "cuda"; None if there is none."""
    if precision == "fp16" and device not in ("cuda", "mps", "xpu"):
        return f"'fp16' needs a GPU (cuda, mps or xpu), and this run is on {device}; use 'bf16' or 'fp32'"
    return None
