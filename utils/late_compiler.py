"""torch's compiler, imported when something uses it: that takes more than a second.

By itself, torch imports it with the first optimizer, even if nothing is compiled. Its optimizers call two of its
functions, which then have nothing to do.
"""

import importlib.util
import sys
import threading
from functools import wraps
from types import ModuleType
from typing import Any

_NAME = "torch._dynamo"
_LOCK = threading.Lock()  # of the exchange of one module for the other


def defer_compiler() -> None:
    """Have torch._dynamo imported when it is used. Does nothing if it is imported already."""
    import torch

    if _NAME not in sys.modules:
        torch._dynamo = sys.modules[_NAME] = _Deferred()


class _Deferred(ModuleType):
    """Stands for torch._dynamo in sys.modules. Whatever else than its two functions is used imports the module.

    That holds for the modules below torch._dynamo, too, since this one has no __path__.
    """

    def __init__(self) -> None:
        super().__init__(_NAME)
        self.__spec__ = importlib.util.find_spec(_NAME)

    def graph_break(self, *args: Any, **kwargs: Any) -> None:
        """End the graph that is being compiled; without the compiler there is none."""
        if not self._is_waiting():
            _imported().graph_break(*args, **kwargs)

    def disable(self, *args: Any, **kwargs: Any) -> Any:
        """Return a function that is not compiled when called from a compiled one; called otherwise, it is as before."""
        if not (self._is_waiting() and _is_as_by_torch(args, kwargs)):
            return _imported().disable(*args, **kwargs)
        function, disabled = args[0], None

        @wraps(function)
        def run(*its_args: Any, **its_kwargs: Any) -> Any:
            nonlocal disabled
            if self._is_waiting():
                return function(*its_args, **its_kwargs)
            disabled = disabled or _imported().disable(*args, **kwargs)
            return disabled(*its_args, **its_kwargs)

        return run

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # asked of any module, as by inspect.getmodule
            raise AttributeError(f"module {_NAME!r}, which is not imported yet, has no {name!r}")
        return getattr(_imported(), name)

    def _is_waiting(self):
        return sys.modules.get(_NAME) is self


def _is_as_by_torch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether these are the arguments of torch/_compile.py: a function, and whether all that it calls is meant, too."""
    return len(args) == 2 and callable(args[0]) and kwargs == {"wrapping": False}


def _imported() -> ModuleType:
    """torch._dynamo itself."""
    import torch

    with _LOCK:
        if isinstance(sys.modules.get(_NAME), _Deferred):
            del sys.modules[_NAME], torch._dynamo
    return importlib.import_module(_NAME)
