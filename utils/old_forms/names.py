"""Names that old projects import from utils and logger: Logger, get_instance, setup_logging, Timer."""

import functools
import importlib
import json
import time
from typing import Any

_PLACES_OF_LOGGER = (
    "logger.logger.Logger",
    "utils.logger.Logger",
    "logger.Logger",
    "utils.Logger",
    f"{__name__}.Logger",
)


def old_name(module: str, name: str) -> Any:
    """Return what old projects import under this name from the module. Raises AttributeError for other names."""
    if name == "setup_logging" and module == "utils":
        return importlib.import_module("logger").setup_logging  # it was in utils until September 2019
    if name == "WriterTensorboardX":  # it was in utils until February 2019
        return _old_writer()
    if name not in _NAMES:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    if name == "Logger":
        _let_torch_read_loggers()
    return _NAMES[name]


@functools.cache
def _old_writer():
    class WriterTensorboardX(importlib.import_module("logger").TensorboardWriter):
        """The TensorboardWriter with the arguments of 2018."""

        def __init__(self, writer_dir: Any, logger: Any, enable: bool) -> None:
            super().__init__(writer_dir, logger, enable)

    return WriterTensorboardX


def get_instance(module: Any, name: str, config: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the object that section `name` of the config describes, its type being in the module."""
    return getattr(module, config[name]["type"])(*args, **config[name].get("args", {}), **kwargs)


class Logger:
    """The train_logger of before February 2019: the log of each epoch by its number."""

    def __init__(self) -> None:
        self.entries: dict[int, Any] = {}

    def add_entry(self, entry: Any) -> None:
        """Add the log of the next epoch."""
        self.entries[len(self.entries) + 1] = entry

    def __str__(self) -> str:
        return json.dumps(self.entries, sort_keys=True, indent=4, default=str)


class Timer:
    """Seconds since the last check."""

    def __init__(self) -> None:
        self.reset()

    def check(self) -> float:
        """Return the seconds since the last check or reset."""
        before = self._since
        self.reset()
        return self._since - before

    def reset(self) -> None:
        """Begin to count again."""
        self._since = time.perf_counter()


_NAMES = {"get_instance": get_instance, "Logger": Logger, "Timer": Timer}


def _let_torch_read_loggers():
    """Let torch.load(path) of a script read the checkpoints of that time, in which such a Logger is pickled."""
    import torch

    torch.serialization.add_safe_globals([(Logger, place) for place in _PLACES_OF_LOGGER])
