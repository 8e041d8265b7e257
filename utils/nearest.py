"""Find the name that a user probably meant."""

import difflib
import re

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


def nearest(name, known, cutoff=0.75):
    """The known name most like the given one, or None."""
    if _OTHER_NAMES.get(name) in known:
        return _OTHER_NAMES[name]
    by_lower = {other.lower(): other for other in known}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[matches[0]] if matches else None


def did_you_mean(name, known):
    """ "; did you mean X?" for the nearest known name, else "; there are ...", for the end of a message."""
    close = nearest(name, known, cutoff=0.6)
    if close is not None:
        return f"; did you mean {close!r}?"
    return f"; there are {', '.join(sorted(known))}" if known else ""


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
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.75)
    return close[0] if close else None
