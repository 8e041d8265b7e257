"""The signature of a class or function of the user, whose annotations need not be names that exist at run time."""

import inspect
import sys
from collections.abc import Callable
from typing import Any


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return inspect.signature(function). Raises what it raises, but no NameError.

    Python 3.14 evaluates annotations when they are asked for. One may name what is imported under TYPE_CHECKING alone;
    it then is a ForwardRef.
    """
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        return inspect.signature(function, annotation_format=Format.FORWARDREF)
    return inspect.signature(function)
