"""Patterns that choose parameters by their names, as shells choose files: "encoder.*", "*.bias"."""

import fnmatch

from utils.errors import UserError
from utils.nearest import nearest


def choose_names(patterns, names, where, kind="parameter"):
    """The names that one of the patterns fits, in their order.

    where: of the patterns in the config, for errors. kind: what it is that has the names.

    Raises UserError for a pattern that fits none.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    names = list(names)
    if (
        not patterns
        or not isinstance(patterns, (list, tuple))
        or not all(isinstance(pattern, str) for pattern in patterns)
    ):
        raise UserError(f"{where}: got {patterns!r}; give patterns of names, such as 'encoder.*'")
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            close = nearest(pattern.replace("*", ""), names, cutoff=0.4)
            there = f"; is {close!r} meant?" if close else f"; there are {', '.join(names[:4])}, ..."
            raise UserError(f"{where}: no {kind} is called {pattern!r}{there}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
