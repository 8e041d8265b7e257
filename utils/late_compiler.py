"""torch's compiler, imported when something uses it: that takes more than a second.

By itself, torch imports it with the first optimizer, even if nothing is compiled. Its optimizers call two functions of
torch._dynamo, which then have nothing to do. A module that stands for it until then answers these two.
"""

import copy
import importlib.abc
import importlib.util
import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_NAME = "torch._dynamo"
_LOCK = threading.RLock()  # of the exchange of one module for the other; a finalizer may come back within it


def defer_compiler() -> None:
    """Have torch._dynamo imported when it is used. Does nothing if it is imported already."""
    import torch

    if _NAME not in sys.modules:
        torch._dynamo = sys.modules[_NAME] = _Deferred()
        sys.meta_path.insert(0, _Below)


class _Deferred(ModuleType):
    """Stands for torch._dynamo in sys.modules. Whatever else than its two functions is used imports the module.

    Who has kept a reference to this one, as by "import torch._dynamo as dynamo", reads and sets what is in the other.
    """

    def __init__(self) -> None:
        super().__init__(_NAME)
        spec = importlib.util.find_spec(_NAME)
        assert spec is not None
        vars(self).update(vars(importlib.util.module_from_spec(spec)), _not_disabled=[])

    def graph_break(self, *args: Any, **kwargs: Any) -> None:
        """End the graph that is being compiled; without the compiler there is none."""
        if sys.modules.get(_NAME) is not self:
            _imported().graph_break(*args, **kwargs)

    def disable(self, *args: Any, **kwargs: Any) -> Any:
        """Return a function that is not compiled when called from a compiled one; without the compiler, the same."""
        with _LOCK:
            if sys.modules.get(_NAME) is self and _is_as_by_torch(args, kwargs):
                self._not_disabled.append(args[0])
                return args[0]
        return _imported().disable(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # asked of any module, as by inspect.unwrap
            raise AttributeError(f"module {_NAME!r} has no attribute {name!r}")
        return getattr(_imported(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_imported(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_imported(), name)

    def __dir__(self) -> list[str]:
        return dir(_imported())


def _is_as_by_torch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether these are the arguments of torch/_compile.py: a function, and whether all that it calls is meant, too."""
    return len(args) == 2 and callable(args[0]) and kwargs == {"wrapping": False}


def _imported() -> ModuleType:
    """torch._dynamo itself."""
    import torch

    with _LOCK:
        deferred = sys.modules.get(_NAME)
        if isinstance(deferred, _Deferred):
            del sys.modules[_NAME], torch._dynamo
            sys.meta_path.remove(_Below)
            for function in deferred._not_disabled:
                vars(function).pop("__dynamo_disable", None)  # where torch/_compile.py keeps what it was given
    return importlib.import_module(_NAME)


class _Below(importlib.abc.MetaPathFinder):
    """Imports torch._dynamo before a module below it, as import does with a package that is not in sys.modules.

    torch._dynamo imports most of them, so that import would execute them a second time.
    """

    @staticmethod
    def find_spec(name: str, *args: Any) -> ModuleSpec | None:
        """The spec of a module below torch._dynamo; None for others, which are not its business."""
        if not name.startswith(f"{_NAME}."):
            return None
        _imported()
        spec = importlib.util.find_spec(name)
        if spec is not None and name in sys.modules:
            spec = copy.copy(spec)
            spec.loader = _Loaded(sys.modules.pop(name))  # import takes no other spec than its own if it is there
        return spec


class _Loaded(importlib.abc.Loader):
    """Puts the module that is there in the place of a new one."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = self.module
