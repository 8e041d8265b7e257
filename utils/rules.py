"""Rules on arguments, each written once: their owners ask them, and the check of a config before torch is there."""

import re
from numbers import Real

from utils.errors import UserError, brief


def size_errors(args):
    """A line "argument: what is wrong" for each size that no loader can have. args: {name: value}, some or all."""
    for name, lowest in (("batch_size", 1), ("num_workers", 0)):
        value = args.get(name, lowest)
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            yield f"{name}: got {brief(value)}; it should be an integer of at least {lowest}"


def split_errors(args):
    """The same for the arguments that say how to split the samples into two parts."""
    split, fold = args.get("validation_split", 0), args.get("fold")
    if isinstance(split, int):
        fits = split >= 0 and not isinstance(split, bool)
    else:
        fits = isinstance(split, Real) and 0 <= split < 1
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


def loader_errors(args):
    """The same for all arguments of a loader."""
    yield from size_errors(args)
    yield from split_errors(args)


def parse_fold(fold):
    """(3, 5) of "3/5": the third of five folds. Raises UserError for what is no fold."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", fold) if isinstance(fold, str) else None
    number, folds = map(int, match.groups()) if match else (0, 0)
    if folds < 2 or not 1 <= number <= folds:
        raise UserError(f"fold: got {brief(fold)}; give one of at least two, such as '3/5', the third of five")
    return number, folds


def validated_twice(args):
    """The error of a valid_data_loader beside a data_loader that sets samples aside itself. args: the latter's."""
    how = next((name for name in ("fold", "validation_split") if args.get(name)), None)
    remedy = f"leave data_loader.args.{how} out, or this" if how else "give data_loader.args.validation_split: 0"
    return f"valid_data_loader: data_loader sets validation samples aside already; {remedy}"


def nothing_to_validate(key):
    """The error of a key of the trainer that needs validation data, where there are none."""
    return f"trainer.{key}: there are no validation data; set data_loader.args.validation_split, or leave it out"


def optimizer_error(name):
    """What is wrong with an optimizer of the class of that name; None if nothing is."""
    if name == "LBFGS":
        return "LBFGS wants to compute the loss itself, several times a step; use another"
    return None


def precision_error(precision, device):
    """What is wrong with a precision on a kind of device, "cpu", "cuda" or "mps"; None if nothing is."""
    if precision == "fp16" and device != "cuda":
        return f"'fp16' needs a CUDA GPU, and this run is on {device}; use 'bf16' or 'fp32'"
    return None
