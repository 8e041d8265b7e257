"""What an optimizer of torch says of its arguments, such as a negative lr, before there is a model to optimize."""

import importlib
from collections.abc import Iterator
from typing import Any

from utils.config.components import Part
from utils.config.types import call, resolve
from utils.errors import UserError


class _Asked(Exception):
    """The constructor asks for the parameters: it has accepted its other arguments."""


def refused_by_optimizer(path: str, spec: dict[str, Any], part: Part) -> list[str]:
    """Return the error of an optimizer's constructor for the args of a spec, as a line; [] without one.

    path: of the spec, which need not be that of an optimizer. The type must exist and take these arguments.

    Optimizers of a project's own are not tried: they may look at the parameters first.
    """
    if path.partition(".")[0] != "optimizer":
        return []
    found = resolve(spec["type"], importlib.import_module(part.module), part)
    if not found.__module__.startswith("torch."):
        return []
    try:
        call(path, found, [_no_parameters()], spec["args"])  # with real ones, torch would import its compiler: seconds
    except _Asked:
        pass
    except UserError as error:
        return str(error).splitlines()
    return []


def _no_parameters() -> Iterator[Any]:
    raise _Asked
    yield
