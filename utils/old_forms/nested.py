"""A framework that lies within a package, as hw_asr/base, hw_asr/logger and hw_asr/utils.

Its rooms import each other as base, logger and utils, wherever they are. So that `hw_asr.base` and `base` are one
module, each name within the package leads to the module at the top, which is read from the package's folder.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_ROOMS = ("base", "logger", "utils", "parse_config")


class _Rooms(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the rooms of a package at the top, and under their names within the package."""

    def __init__(self, package: str, folder: Path) -> None:
        self.package, self.folder = package, folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        top = fullname.removeprefix(f"{self.package}.")
        if top.partition(".")[0] not in _ROOMS:
            return None
        if top != fullname:
            found = self._spec_at_top(top)
            is_package = found is not None and found.submodule_search_locations is not None
            return found and importlib.machinery.ModuleSpec(fullname, self, is_package=is_package)
        return self._spec_at_top(top) if path is None else None

    def _spec_at_top(self, name):
        if "." not in name:
            return importlib.machinery.PathFinder.find_spec(name, [str(self.folder)])
        parent = importlib.import_module(name.rpartition(".")[0])
        return importlib.machinery.PathFinder.find_spec(name, getattr(parent, "__path__", []))

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        top = importlib.import_module(module.__name__.removeprefix(f"{self.package}."))
        sys.modules[module.__name__] = top  # which the import returns instead


def lead_to_top(name: str, file: str) -> None:
    """Let a room that is being imported as <package>.<room> be the module <room>, and all other rooms too.

    name, file: __name__ and __file__ of the room.
    """
    package, _, room = name.rpartition(".")
    if not any(isinstance(finder, _Rooms) and finder.package == package for finder in sys.meta_path):
        path = Path(file).absolute()
        sys.meta_path.insert(0, _Rooms(package, path.parents[1 if path.name == "__init__.py" else 0]))
    sys.modules[name] = importlib.import_module(room)
