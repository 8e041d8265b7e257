"""Read checkpoints without a checksum: those of plain torch.save and of the old template, which pickled its config.

The classes that such a pickle names are mapped to the inert stand-ins below, and only to these, so no code of the
file's choosing can run.
"""

import struct
from pathlib import Path
from typing import Any

import torch

from utils.runs.torch_file import read_torch_file
from utils.untrusted import require_harmless


class _Record:
    """Stands in for an object of the old template: keeps its attributes and does nothing else."""

    def __init__(self, *args, **kwargs):
        self.args = args


class _NumpyType(_Record):
    """Stands in for numpy.dtype: keeps its code, such as "f8"."""

    def __setstate__(self, state):
        pass


def _numpy_scalar(dtype, data):
    """The number that NumPy pickled as a type code and its bytes."""
    codes = {"f8": "<d", "f4": "<f", "f2": "<e", "i8": "<q", "i4": "<i", "b1": "?"}
    return struct.unpack(codes[dtype.args[0]], data)[0]


_STAND_INS = {
    "parse_config.ConfigParser": _Record,
    "argparse.Namespace": _Record,
    "pathlib.PosixPath": _Record,
    "pathlib.WindowsPath": _Record,
    "pathlib._local.PosixPath": _Record,
    "pathlib._local.WindowsPath": _Record,
    "numpy.dtype": _NumpyType,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "_codecs.encode": lambda text, encoding: text.encode("latin1"),
}


def load_old_checkpoint(path: Path) -> Any:
    """Return what the file holds, tensors on the CPU; in the dict of a checkpoint, its config as a plain dict.

    Raises Refused for harmful content, and torch.load's errors for names outside the list above.
    """
    with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in _STAND_INS.items()]):
        checkpoint = read_torch_file(path, records=_STAND_INS)
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get("config"), _Record):
        attributes = vars(checkpoint["config"])
        checkpoint["config"] = attributes.get("_config") or attributes.get("config") or {}
    require_harmless(checkpoint, path.stat().st_size, also=(_Record,))
    if not isinstance(checkpoint, dict):
        return checkpoint
    if "config" in checkpoint:
        checkpoint["config"] = _plain(checkpoint["config"])
    best = checkpoint.get("monitor_best")
    if isinstance(best, torch.Tensor) and best.dim() == 0 and "state_dict" in checkpoint:
        checkpoint["monitor_best"] = best.item()
    return checkpoint


def _plain(value):
    """The config with plain dicts for ordered ones, and with the text of stand-ins such as paths."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return "/".join(map(str, value.args)) if isinstance(value, _Record) else value


def upgraded_states(states: dict[str, Any], first: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the states of a trainer's attributes, converted from our earlier versions.

    Those kept "nonfinite" in two parts. first: the states of rank 0.
    """
    states = dict(states)
    step_log = states.get("step_log")
    if not isinstance(step_log, dict) or "last_update" not in step_log:
        return states
    del states["step_log"]
    watch = states.pop("gradient_watch", (first or {}).get("nonfinite", {"found": []}))
    states["nonfinite"] = {**step_log, "found": watch["found"]}
    if isinstance(states.get("optim_step"), dict):
        states["optim_step"] = {"lr": step_log.get("lr"), **states["optim_step"]}
    return states
