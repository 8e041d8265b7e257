"""The weights that a run begins with, loaded from a file as the config's "init_weights" says."""

import json
import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import UserError, brief, shown
from utils.nearest import nearest
from utils.patterns import choose_names, expression_errors, in_bounded_time, patterns_mistake, rename_mistake
from utils.runs.checkpoint import CheckpointError, load_checkpoint
from utils.runs.weights import unwrapped, without_wrapper

if TYPE_CHECKING:
    import torch

    from parse_config import ConfigParser

_SHOWN = 5  # names in a message
_MAX_NAME_LENGTH = 1_000
_LOADER_STATES = weakref.WeakKeyDictionary()
"""{model: state of the data loader in the file of its initial weights}, since the data are built later."""


def initialize(model: "torch.nn.Module", config: "ConfigParser") -> "torch.nn.Module":
    """Return the model with the weights that the config's "init_weights" names, unless the run resumes."""
    if config.resume is None and config.get("init_weights"):
        config.get_logger("weights").info(load_initial_weights(model, **config["init_weights"]))
    return model


def load_initial_weights(
    model: "torch.nn.Module",
    path: str | Path,
    rename: Mapping[str, str] | None = None,
    skip: Sequence[str] = (),
    strict: bool = True,
) -> str:
    """Load a file's weights into the model; return a report of what was loaded and what was not.

    path: a checkpoint, a file of a state_dict alone, or .safetensors.
    rename: {regular expression: replacement} for the file's names, applied one after the other.
    skip: patterns, such as "fc.*", of entries that are not loaded: the model's stay as they are.
    strict: require that no other entries of the file or of the model are left over.

    Raises UserError, with all errors at once and the model untouched, for patterns that match nothing and for entries
    that do not fit.
    """
    file, model = shown(Path(path).name), unwrapped(model)
    own = model.state_dict()
    try:
        checkpoint = load_checkpoint(path)
        weights = without_wrapper(checkpoint["state_dict"])
    except CheckpointError as error:
        raise UserError(f"init_weights.path: {error}") from None
    with in_bounded_time("init_weights"):
        weights, errors = _renamed(weights, rename or {})
        skipped, not_matching = _chosen(skip, [*own, *weights])
    loaded = {name: weights[name] for name in own if name in weights and name not in skipped}
    errors += not_matching
    for name, value in loaded.items():
        given, expected = (tuple(getattr(entry, "shape", ())) for entry in (value, own[name]))
        if given != expected:
            pattern = f"{name.rpartition('.')[0]}.*" if "." in name else name  # all of the module that holds the entry
            shapes = f"{shown(name)} is {given} in {file} and {expected} in the model"
            errors.append(f'init_weights: {shapes}; to leave it as it is initialised: "skip": ["{shown(pattern)}"]')
    if strict or not loaded:
        missing = [name for name in own if name not in weights and name not in skipped]
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        unexpected = [name for name in weights if name not in own and name not in skipped]
        errors += _unmatched({f"in {file}": missing, f"in the model {type(model).__name__}": unexpected})
    if not loaded:
        errors.append(f"init_weights: nothing of {file} is left to be used")
    if errors:
        raise UserError("\n".join(errors))
    model.load_state_dict(loaded, strict=False)
    attributes = checkpoint.get("attributes")
    _LOADER_STATES[model] = attributes.get("data_loader") if isinstance(attributes, dict) else None
    lines = [f"weights of {shown(path)}: taken for {len(loaded)} of the model's {len(own)} entries"]
    if unchanged := [name for name in own if name not in loaded]:
        lines.append(f"left as initialised: {_some(unchanged)}")
    if unused := [name for name in weights if name not in loaded]:
        lines.append(f"not used: {_some(unused)}")
    return "\n    ".join(lines)


def other_meanings(model: "torch.nn.Module", section: Mapping[str, Any], now: Any) -> Iterator[str]:
    """Yield a line for each thing whose numbers stand for something else in the file than in the data of a run.

    model: it began with the weights of the file. section: the config's "init_weights". now: the state of the run's data
    loader, to compare with that of the checkpoint: the classes, unless entries are skipped, and the codes of a table's
    categories.
    """
    file, then = shown(Path(section["path"]).name), _LOADER_STATES.get(unwrapped(model))
    if not isinstance(then, dict) or not isinstance(now, dict):  # of another library's loader
        return
    old, new = list(then.get("classes") or ()), list(now.get("classes") or ())
    if old and new and not section.get("skip") and _differs(old, new):
        yield (
            f"init_weights: the classes of {file} are {brief(old)}, and those of the data {brief(new)}: "
            "an output begins with the weights of another class, or stands for none; skip the layer of the outputs"
        )
    known, found = _codes(then), _codes(now)
    for column in known:
        if column in found and _differs(known[column], found[column]):
            yield (
                f"init_weights: the codes of column {brief(column)} stand for {brief(known[column])} in {file}, "
                f"and for {brief(found[column])} in the data: a category begins with the weights of another"
            )


def _differs(then, now):
    """Whether a number stands for something else; further names at the end change none."""
    return any(old != new for old, new in zip(then, now, strict=False)) or len(now) < len(then)


def _codes(state):
    """{column: its categories in the order of their codes} of the state of a table's loader."""
    given = state.get("input")
    given = given.get("args") if isinstance(given, dict) else None
    if not isinstance(given, dict) or not isinstance(given.get("categories"), list):
        return {}
    return dict(zip(given.get("categorical") or (), given["categories"], strict=False))


def _renamed(weights, rename):
    """({new name: value}, [errors])."""
    if mistake := rename_mistake(rename):
        raise UserError(f"init_weights.rename: got {brief(rename)}; {mistake}")
    names, errors = {name: name for name in weights}, []
    _require_short(names.values())
    for pattern, replacement in rename.items():
        if wrong := list(expression_errors([pattern])):
            errors += [f"init_weights.rename: {error}" for error in wrong]
            continue
        if not any(re.search(pattern, new) for new in names.values()):
            errors.append(f"init_weights.rename: {pattern!r} matches no name{_meant(pattern, list(names.values()))}")
        try:
            names = {name: re.sub(pattern, replacement, new) for name, new in names.items()}
        except (re.error, IndexError) as error:
            errors.append(f"init_weights.rename: {replacement!r} cannot replace {pattern!r}: {error}")
        _require_short(names.values())
    renamed = {}
    for name, new in names.items():
        if new in renamed:
            errors.append(f"init_weights.rename: two entries are renamed to {new!r}")
        renamed[new] = weights[name]
    return renamed, errors


def _require_short(names):
    """Raise UserError for a name so long that matching patterns with it takes too long."""
    if any(len(name) > _MAX_NAME_LENGTH for name in names):
        raise UserError(f"init_weights: an entry of the file has a name of more than {_MAX_NAME_LENGTH:,} characters")


def _chosen(patterns, names):
    """(names that match a pattern, [errors])."""
    if mistake := patterns_mistake(patterns):
        raise UserError(f"init_weights.skip: got {brief(patterns)}; {mistake}")
    chosen, errors = set(), []
    for pattern in patterns:
        try:
            chosen.update(choose_names(pattern, names, "init_weights.skip"))
        except UserError as error:
            errors.append(str(error))
    return chosen, errors


def _unmatched(names):
    """A line for the entries that are not in the file, and one for those not in the model. names: {where: names}."""
    hint = _rename_hint(*names.values()) or '; "skip" patterns for them, or "strict": false, would do'
    return [f"init_weights: not {where}: {_some(unmatched)}{hint}" for where, unmatched in names.items() if unmatched]


def _meant(pattern, names):
    """The end of a message about a pattern that matches no name: the nearest one, or how the names begin."""
    parts = list(dict.fromkeys(name.rsplit(".", i)[0] for name in names for i in range(name.count(".") + 1)))
    close = nearest(re.sub(r"[^\w.]|\.$", "", pattern.replace("\\.", ".")), parts, cutoff=0.6)
    if close:
        return f"; did you mean {close!r}?"
    return f"; they begin with {_some(list(dict.fromkeys(name.partition('.')[0] for name in names)))}"


def _rename_hint(missing, unexpected):
    """The "rename" that removes or adds the prefix in which the names differ; "" if there is none."""
    for short, long, is_removed in ((missing, unexpected, True), (unexpected, missing, False)):
        fitting = [name for name in short if long and long[0].endswith("." + name)]
        if fitting:
            prefix = long[0].removesuffix(max(fitting, key=len))
            rename = {"^" + re.escape(prefix): ""} if is_removed else {"^": prefix}
            return f'; "rename": {json.dumps(rename)} would do'
    return ""


def _some(names):
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(shown, names[:_SHOWN])) + more
