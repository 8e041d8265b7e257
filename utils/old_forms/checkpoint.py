"""Read checkpoints without a checksum: those of plain torch.save and of the old template, which pickled its config.

The classes that such a pickle names are mapped to the inert stand-ins below, and only to these, so no code of the
file's choosing can run.
"""

import functools
import struct
from pathlib import Path
from typing import Any

import torch

from utils.files import read_json_beside
from utils.old_forms.names import Logger
from utils.runs.torch_file import allowed_name, read_torch_file, refusing, require_sound
from utils.untrusted import require_harmless


class _Record:
    """Stands in for an object of the old template: keeps its attributes and does nothing else."""

    def __init__(self, *args, **kwargs):
        self.args = args


class OldConfig(_Record):
    """Stands in for a ConfigParser; config["arch"] is read from it as from the old one."""

    @property
    def content(self) -> Any:
        """The config: a dict in every file that the old template wrote."""
        for name in ("_config", "config", "_ConfigParser__config"):
            if vars(self).get(name):
                return vars(self)[name]
        return {}

    def __getitem__(self, name: str) -> Any:
        return self.content[name]

    def __contains__(self, name: str) -> bool:
        return name in self.content

    def get(self, name: str, default: Any = None) -> Any:
        """Return the section, or the default if there is none."""
        return self.content.get(name, default)


class _NumpyType(_Record):
    """Stands in for numpy.dtype: keeps its code, such as "f8"."""

    def __setstate__(self, state):
        pass


def _numpy_scalar(dtype, data):
    """The number that NumPy pickled as a type code and its bytes."""
    codes = {"f8": "<d", "f4": "<f", "f2": "<e", "i8": "<q", "i4": "<i", "b1": "?"}
    return struct.unpack(codes[dtype.args[0]], data)[0]


_STAND_INS = {
    "numpy.dtype": _NumpyType,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "_codecs.encode": lambda text, encoding: text.encode("latin1"),
    "argparse.Namespace": _Record,
    "datetime.datetime": _Record,
    "logging.getLogger": _Record,  # how a Logger is pickled
    "pathlib.PosixPath": _Record,
    "pathlib.WindowsPath": _Record,
    "pathlib._local.PosixPath": _Record,
    "pathlib._local.WindowsPath": _Record,
}
_OF_ANY_MODULE = {"ConfigParser": OldConfig, "Logger": Logger}  # projects moved these classes


def stand_in(name: str) -> Any:
    """Return what stands in for a class that a pickle names, as "parse_config.ConfigParser"; None for other names."""
    return _STAND_INS.get(name) or _OF_ANY_MODULE.get(name.rpartition(".")[2])


def load_old_checkpoint(path: Path) -> Any:
    """Return what the file holds, tensors on the CPU; in the dict of a checkpoint, its config as a plain dict.

    A script may have written objects into a pickled config, so the config.json beside the file is used instead, if
    there is one. Raises Refused for harmful content, and torch.load's errors for names outside the list above.
    """
    checkpoint = read_torch_file(path, stand_in)
    config = checkpoint.get("config") if isinstance(checkpoint, dict) else None
    if isinstance(config, OldConfig):
        checkpoint["config"] = config.content
    require_harmless(checkpoint, path.stat().st_size, also=(_Record, OldConfig, Logger))
    if not isinstance(checkpoint, dict):
        return checkpoint
    if isinstance(config, OldConfig):
        checkpoint.setdefault("state_dict", {})  # a _save_checkpoint of a project's own may save others instead
    if config is not None:
        checkpoint["config"] = _plain(checkpoint["config"])
    if "state_dict" in checkpoint and not isinstance(config, dict) and (beside := _config_beside(path)):
        checkpoint["config"] = beside
    best = checkpoint.get("monitor_best")
    if isinstance(best, torch.Tensor) and best.dim() == 0 and "state_dict" in checkpoint:
        checkpoint["monitor_best"] = best.item()
    return checkpoint


def _config_beside(path):
    """The config of the run, as the old template wrote it at its start; None if there is none."""
    try:
        config = read_json_beside(path.parent / "config.json")
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def _plain(value):
    """The config with plain dicts for ordered ones, and with the text of stand-ins such as paths."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return "/".join(map(str, value.args)) if isinstance(value, _Record) else value


def let_torch_read(path: Path) -> None:
    """Let torch.load(path) of a script read an old checkpoint, still without running code of the file.

    torch then gets the stand-ins for the names in this file, except for those of classes that the script has allowed.
    Tensors of a GPU are put on the CPU if there is none. Does nothing for a .safetensors, which torch.load cannot read.
    Raises CheckpointError for a file that is refused.
    """
    if path.suffix == ".safetensors" or not path.is_file():
        return
    with refusing(path):
        names = require_sound(path, stand_in)
    known = {allowed_name(entry) for entry in torch.serialization.get_safe_globals()}
    torch.serialization.add_safe_globals([(stand_in(name), name) for name in names if name not in known])
    if not torch.cuda.is_available():
        _put_on_cpu()


def torch_load(path: str | Path) -> Any:
    """Return torch.load(path), also of an old checkpoint: for a BaseTrainer that --adopt keeps, with its own Logger.

    weights_only is given, so that TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD does not let the file import modules.
    """
    let_torch_read(Path(path))
    return torch.load(path, weights_only=True)


@functools.cache  # torch cannot register the same twice
def _put_on_cpu():
    def restored(storage, location):
        return storage if location.startswith("cuda") else None

    torch.serialization.register_package(15, lambda storage: None, restored)  # before torch's own, of priority 20
