"""Find the name that a user probably meant."""

import difflib
import heapq
import re
from collections.abc import Collection, Iterable

from utils.errors import shortened, shown

# What other frameworks, or earlier versions of the old template, call a thing that has another name here.
_FORMER_NAMES = {
    "save_freq": "save_period",
    "save_every": "save_period",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "tensorboardX": "tensorboard",
}
_OTHER_NAMES = _FORMER_NAMES | {
    "learning_rate": "lr",
    "model": "arch",
    "dataset": "data_loader",
    "scheduler": "lr_scheduler",
    "criterion": "loss",
}
# What others call a key of the section trainer. A project may have keys of these names, so they are not refused.
_TRAINER_KEYS = {
    "max_grad_norm": "clip_norm",
    "grad_clip": "clip_norm",
    "gradient_clip_val": "clip_norm",
    "gradient_accumulation_steps": "accumulate",
    "accumulate_grad_batches": "accumulate",
    "patience": "early_stop",
    "early_stopping_patience": "early_stop",
    "eval_steps": "validate_every_steps",
    "val_check_interval": "validate_every_steps",
    "amp": "precision",
    "fp16": "precision",
    "bf16": "precision",
    "mixed_precision": "precision",
    "output_dir": "save_dir",
    "save_total_limit": "keep_last",
}
_MAX_LETTERS = 300  # of a name that is compared; parameters of nested adapter models have more than 100
_MAX_PAIRS = 200_000  # of letters that one search compares, which takes about a tenth of a second
_MAX_SHOWN = 50  # names in a message


def nearest(name: str, known: Iterable[str], cutoff: float = 0.75) -> str | None:
    """Return the known name most like the given one; None if none is, or if the name is too long to be compared."""
    by_lower = {other.lower(): other for other in known}
    other_name = (_OTHER_NAMES | _TRAINER_KEYS).get(name)
    if other_name in by_lower.values():
        return other_name
    close = _closest(name.lower(), by_lower, cutoff)
    return None if close is None else by_lower[close]


def _closest(name, known, cutoff):
    """What difflib.get_close_matches finds, but only among the names that share the most letters with this one."""
    if len(name) > _MAX_LETTERS:
        return None
    matcher = difflib.SequenceMatcher(b=name, autojunk=False)  # which would ignore common letters of long names
    sharing = []
    for other in known:
        matcher.set_seq1(other)
        if matcher.real_quick_ratio() >= cutoff and (shared := matcher.quick_ratio()) >= cutoff:
            sharing.append((shared, other))
    ratios = []
    for _, other in heapq.nlargest(_MAX_PAIRS // (len(name) ** 2 + 1), sharing):
        matcher.set_seq1(other)
        ratios.append((matcher.ratio(), other))
    ratio, closest = max(ratios, default=(0, None))
    return closest if ratio >= cutoff else None


def own_keys_line(keys: Iterable[str]) -> list[str]:
    """Return a line that lists a project's own keys, in a list; [] if there are none.

    Behind a key that others use, it says what the framework calls it: "trainer.max_grad_norm (clip_norm?)".
    """
    listed = []
    for key in keys:
        section, _, name = key.rpartition(".")
        known = _TRAINER_KEYS.get(name) if section == "trainer" else None
        listed.append(f"{key} ({known}?)" if known else key)
    return [f"own keys: {shortened(', '.join(listed))}"] if listed else []


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return "; did you mean X?" for the nearest known name, else "; there are ...", for the end of a message."""
    close = nearest(name, known, cutoff=0.6)
    if close is not None:
        return f"; did you mean {close!r}?"
    names = [shown(other) for other in sorted(known)]
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return f"; there are {', '.join(names[:_MAX_SHOWN])}{more}" if names else ""


def resembles(name: str, known: Collection[str]) -> str | None:
    """Return the known name that this one is a misspelling of; None if it is a name of its own.

    A name that adds a number or a word to a known one (optimizer2, lr_scheduler_G, warmup_epochs) is not a misspelling.
    """
    if name in _FORMER_NAMES:
        return _FORMER_NAMES[name] if _FORMER_NAMES[name] in known else None
    words = set(re.sub(r"\d+$", "", name).split("_")) - {""}
    for other in known:
        more = words - set(other.split("_"))
        if set(other.split("_")) <= words and (more or name[-1].isdigit()):
            return None
    return _closest(name.lower(), known, cutoff=0.75)
