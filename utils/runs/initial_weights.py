"""The weights that a run begins with, from a file, as the config's "init_weights" says."""

import json
import re
from pathlib import Path

from utils.errors import UserError, brief, shown
from utils.nearest import nearest
from utils.patterns import choose_names, expression_errors, in_bounded_time, patterns_mistake, rename_mistake
from utils.runs.checkpoint import CheckpointError, load_checkpoint
from utils.runs.weights import unwrapped, without_wrapper

_SHOWN = 5  # names in a message
_MAX_NAME_LENGTH = 1_000


def initialize(model, config):
    """The model, with the weights that the config's "init_weights" names; a run that resumes has its own."""
    if config.resume is None and config.get("init_weights"):
        config.get_logger("weights").info(load_initial_weights(model, **config["init_weights"]))
    return model


def load_initial_weights(model, path, rename=None, skip=(), strict=True):
    """Put a file's weights into the model; returns a text that says which, and which not.

    path: a checkpoint, a file of a state_dict alone, or .safetensors. rename: {regular expression: replacement} for the
    file's names, applied one after the other. skip: patterns, as "fc.*", of entries of the model that stay as they are,
    and of the file that are not used. strict: no others may.

    Raises UserError, all mistakes at once and with the model untouched, for patterns that match nothing and for entries
    that do not fit.
    """
    file, model = shown(Path(path).name), unwrapped(model)
    own = model.state_dict()
    try:
        weights = without_wrapper(load_checkpoint(path)["state_dict"])
    except CheckpointError as error:
        raise UserError(f"init_weights.path: {error}") from None
    with in_bounded_time("init_weights"):
        weights, mistakes = _renamed(weights, rename or {})
        skipped, matching_none = _chosen(skip, [*own, *weights])
    taken = [name for name in own if name in weights and name not in skipped]
    mistakes += matching_none + _misshapen({name: (weights[name], own[name]) for name in taken}, file)
    if strict or not taken:
        missing = own.keys() - weights.keys() - skipped
        missing = [name for name in own if name in missing and not name.endswith("num_batches_tracked")]
        unexpected = [name for name in weights if name not in own and name not in skipped]
        mistakes += _unmatched({f"in {file}": missing, f"in the model {type(model).__name__}": unexpected})
    if not taken:
        mistakes.append(f"init_weights: nothing of {file} is left to be used")
    if mistakes:
        raise UserError("\n".join(mistakes))
    model.load_state_dict({name: weights[name] for name in taken}, strict=False)
    return _report(path, own, weights, taken)


def _renamed(weights, rename):
    """({new name: value}, [what is wrong])."""
    if mistake := rename_mistake(rename):
        raise UserError(f"init_weights.rename: got {brief(rename)}; {mistake}")
    names, mistakes = {name: name for name in weights}, []
    _require_short(names.values())
    for pattern, replacement in rename.items():
        if wrong := list(expression_errors([pattern])):
            mistakes += [f"init_weights.rename: {error}" for error in wrong]
            continue
        if not any(re.search(pattern, new) for new in names.values()):
            mistakes.append(f"init_weights.rename: {pattern!r} matches no name{_meant(pattern, list(names.values()))}")
        try:
            names = {name: re.sub(pattern, replacement, new) for name, new in names.items()}
        except (re.error, IndexError) as error:
            mistakes.append(f"init_weights.rename: {replacement!r} cannot be put in the place of {pattern!r}: {error}")
        _require_short(names.values())
    renamed = {}
    for name, new in names.items():
        if new in renamed:
            mistakes.append(f"init_weights.rename: two entries come to be called {new!r}")
        renamed[new] = weights[name]
    return renamed, mistakes


def _require_short(names):
    """Raise UserError for a name so long that patterns would take their time over it."""
    if any(len(name) > _MAX_NAME_LENGTH for name in names):
        raise UserError(f"init_weights: an entry of the file has a name of more than {_MAX_NAME_LENGTH:,} characters")


def _chosen(patterns, names):
    """(names that a pattern fits, [what is wrong])."""
    if mistake := patterns_mistake(patterns):
        raise UserError(f"init_weights.skip: got {brief(patterns)}; {mistake}")
    chosen, mistakes = set(), []
    for pattern in patterns:
        try:
            chosen.update(choose_names(pattern, names, "init_weights.skip"))
        except UserError as error:
            mistakes.append(str(error))
    return chosen, mistakes


def _misshapen(pairs, file):
    """A line for each entry of another shape. pairs: {name: (in the file, in the model)}."""
    return [
        f"init_weights: {shown(name)} is {_shape(given)} in {file} and {_shape(own)} in the model; "
        f'to leave it as it is initialised: "skip": ["{shown(_pattern_of(name))}"]'
        for name, (given, own) in pairs.items()
        if _shape(given) != _shape(own)
    ]


def _unmatched(names):
    """A line for what is not in the file, and one for what is not in the model. names: {where they are not: list}."""
    hint = _rename_hint(*names.values()) or '; "skip" patterns for them, or "strict": false, would do'
    return [f"init_weights: not {place}: {_some(lost)}{hint}" for place, lost in names.items() if lost]


def _report(path, own, weights, taken):
    taken = set(taken)
    parts = {
        "as initialised stay": [name for name in own if name not in taken],
        "not used are": [name for name in weights if name not in taken],
    }
    lines = [f"weights of {shown(path)}: taken for {len(taken)} of the model's {len(own)} entries"]
    return "\n    ".join(lines + [f"{what} {_some(names)}" for what, names in parts.items() if names])


def _meant(pattern, names):
    """The end of a message about a pattern that matches none of the names: the nearest one, or where they begin."""
    parts = list(dict.fromkeys(name.rsplit(".", i)[0] for name in names for i in range(name.count(".") + 1)))
    close = nearest(re.sub(r"[^\w.]|\.$", "", pattern.replace("\\.", ".")), parts, cutoff=0.6)
    return f"; did you mean {close!r}?" if close else f"; they begin with {_some(_tops(names))}"


def _tops(names):
    return list(dict.fromkeys(name.partition(".")[0] for name in names))


def _rename_hint(missing, unexpected):
    """The "rename" that would take off or add what all the names begin with, if one would; else ""."""
    for short, long, rename in (
        (missing, unexpected, lambda prefix: ("^" + re.escape(prefix), "")),
        (unexpected, missing, lambda prefix: ("^", prefix)),
    ):
        fitting = [name for name in short if long and long[0].endswith("." + name)]
        if fitting:
            pattern, replacement = rename(long[0].removesuffix(max(fitting, key=len)))
            return f'; "rename": {json.dumps({pattern: replacement})} would do'
    return ""


def _pattern_of(name):
    """A pattern for all of the module that holds the entry."""
    return f"{name.rpartition('.')[0]}.*" if "." in name else name


def _shape(value):
    return tuple(getattr(value, "shape", ()))


def _some(names):
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(shown, names[:_SHOWN])) + more
