"""Find the name that a user probably meant."""

import difflib
import heapq
import re

from utils.errors import shown

# What other frameworks, or earlier versions of the old template, call a thing that has another name here.
_OTHER_NAMES = {
    "save_freq": "save_period",
    "save_every": "save_period",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "tensorboardX": "tensorboard",
    "learning_rate": "lr",
    "model": "arch",
    "dataset": "data_loader",
    "scheduler": "lr_scheduler",
    "criterion": "loss",
}
_FORMER_NAMES = ("save_freq", "save_every", "n_epochs", "num_epochs", "max_epochs", "tensorboardX")


_MOST_PAIRS = 100_000  # of letters that are compared in one search, which takes less than a tenth of a second
_SHOWN = 50  # names in a message


def nearest(name, known, cutoff=0.75):
    """The known name most like the given one, or None; also None for a name too long to be compared."""
    if _OTHER_NAMES.get(name) in known:
        return _OTHER_NAMES[name]
    by_lower = {other.lower(): other for other in known}
    close = _closest(name.lower(), by_lower, cutoff)
    return None if close is None else by_lower[close]


def _closest(name, known, cutoff):
    """As difflib.get_close_matches gives it, but of the names that share the most letters with this one."""
    matcher = difflib.SequenceMatcher(b=name)
    sharing = []
    for other in known:
        matcher.set_seq1(other)
        if matcher.real_quick_ratio() >= cutoff and (shared := matcher.quick_ratio()) >= cutoff:
            sharing.append((shared, other))
    ratios = []
    for _, other in heapq.nlargest(_MOST_PAIRS // (len(name) ** 2 + 1), sharing):
        matcher.set_seq1(other)
        ratios.append((matcher.ratio(), other))
    ratio, closest = max(ratios, default=(0, None))
    return closest if ratio >= cutoff else None


def did_you_mean(name, known):
    """ "; did you mean X?" for the nearest known name, else "; there are ...", for the end of a message."""
    close = nearest(name, known, cutoff=0.6)
    if close is not None:
        return f"; did you mean {close!r}?"
    names = [shown(other) for other in sorted(known)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"; there are {', '.join(names[:_SHOWN])}{more}" if names else ""


def resembles(name, known):
    """The known name that this one is a misspelling of, or None.

    A name that adds a number or a word to a known one (optimizer2, lr_scheduler_G, warmup_epochs) is a name of
    its own, not a misspelling.
    """
    if name in _FORMER_NAMES:
        return _OTHER_NAMES[name] if _OTHER_NAMES[name] in known else None
    words = set(re.sub(r"\d+$", "", name).split("_")) - {""}
    for other in known:
        more = words - set(other.split("_"))
        if set(other.split("_")) <= words and (more or name[-1].isdigit()):
            return None
    return _closest(name.lower(), known, cutoff=0.75)
