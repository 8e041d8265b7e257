"""A ConfigParser of a project's own that takes other arguments than the framework's, and reads its config by itself.

python new_project.py --adopt keeps such a class as it was, with this one and the framework's ConfigParser as its bases.
"""

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.errors import UserError, end_on_user_errors
from utils.runs.checkpoint import checksum_of


def _settable(name: str) -> Any:
    """Return a property for the attribute, or else for the same with or without an underscore; None if none is set."""
    other = name.removeprefix("_") if name[0] == "_" else f"_{name}"

    def read(self: Any) -> Any:
        return vars(self).get(name, vars(self).get(other))

    def write(self: Any, value: Any) -> None:
        vars(self)[name] = value

    return property(read, write)


class OwnConfigParser:
    """Sets up what the framework needs of a config, once a constructor of the project's own has run.

    The constructor sets config (dict), save_dir, log_dir and resume (path or None), each with an underscore or without,
    or the class has properties of these names. The run's folders are the project's: nothing else is recorded there, and
    a resumed run gets a folder of its own, as with the old template. A pickled one holds all its attributes.
    """

    config, save_dir, log_dir, resume = map(_settable, ("config", "save_dir", "log_dir", "resume"))
    _save_dir, _log_dir = map(_settable, ("_save_dir", "_log_dir"))

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__init__" in vars(cls):
            cls.__init__ = _completed(vars(cls)["__init__"])

    @property
    def has_ended(self) -> bool:
        """Whether the run had ended before this start; nothing of that is recorded."""
        return False

    def record_training(self, data_loader: Any = None) -> None:
        """Record nothing."""

    def record_end(self) -> None:
        """Record nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return vars(self).copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def _completed(init: Callable[..., None]) -> Callable[..., None]:
    """Return the constructor of a project's own, and of the framework after it; what the first has set stays."""

    @functools.wraps(init)
    def complete(self: Any, *args: Any, **kwargs: Any) -> None:
        end_on_user_errors()
        init(self, *args, **kwargs)
        own = vars(self).copy()
        resume = own["resume"] = Path(self.resume) if self.resume else None
        config = own.setdefault("_config", {} if self.config is None else self.config)
        own.setdefault("_log_dir", own.get("save_dir", own.get("_save_dir")))
        own["_logs"] = True
        framework: Any = importlib.import_module("parse_config").ConfigParser  # by name: it stands above this room
        theirs = object.__new__(framework)  # an object apart: properties of the project's may refuse to be set
        try:
            framework.__init__(theirs, config if isinstance(config, dict) else {}, resume, new_run=True)
        except UserError:  # the framework's trainer, which says so, may not be in use
            own |= {"own_keys": [], "_as_read": config}
        vars(self).update(vars(theirs) | own)
        if resume is not None and resume.is_file() and not checksum_of(resume):
            from utils.old_forms.checkpoint import let_torch_read

            let_torch_read(resume)

    return complete
