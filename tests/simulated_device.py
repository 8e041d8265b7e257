"""A second device without hardware: tensors that compute on the CPU, and that torch takes for those of a device "sim".

Importing this file makes "sim" the process's accelerator, so only processes started for it import it. As on a GPU,
tensors of the two devices do not mix, and copies wait for the device unless they go to it and are non_blocking:
`transfers` counts those by line of the project. Streams and pinned memory do nothing. It needs torch's Python backend,
torch 2.9 or later.
"""

import collections
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

PROJECT = Path(__file__).resolve().parents[1]
transfers: collections.Counter = collections.Counter()
"""{"base/training/evaluate.py:60 function": number of copies that wait} since it was last cleared."""
has_doubles = True
"""Whether the device computes in double precision; mps does not."""

_MAY_MIX = ("aten::copy_", "aten::_local_scalar_dense", "aten::equal", "aten::_foreach_copy_")
_CPU = torch.device("cpu")


class _Module(_DummyBackendModule):
    """What torch.get_device_module("sim") returns; its random numbers are the CPU's."""

    def set_device(self, device):
        pass

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device=None):
        return torch.get_rng_state()

    def set_rng_state(self, state, device=None):
        pass

    def empty_cache(self):
        pass

    def _lazy_init(self):
        pass


class SimTensor(torch.Tensor):
    """Wraps a CPU tensor; its device is sim:0."""

    @staticmethod
    def __new__(cls, held):
        if held.dtype == torch.float64 and not has_doubles:
            raise TypeError("the device does not support float64")
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device("sim", 0),
        )
        made.held = held
        return made

    def tolist(self):
        """Read the values, as one transfer."""
        return self.to("cpu").tolist()

    def __reduce_ex__(self, protocol):
        """Be saved as a CPU tensor: a file of another device's tensors is read as such."""
        return self.held.detach().__reduce_ex__(protocol)

    def __deepcopy__(self, memo):
        copy = SimTensor(self.held.detach().clone())
        return copy.requires_grad_(self.requires_grad)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        """Call the function with the CPU tensors, and wrap what it returns."""
        kwargs = kwargs or {}
        name = function.overloadpacket._qualified_op_name
        if name == "aten::_to_copy" or "device" in kwargs:
            return _onto(torch.device(kwargs.get("device") or "sim"), function, args, kwargs)
        if name == "aten::_local_scalar_dense":
            _count()
        if name not in _MAY_MIX:
            _require_one_device(name, (args, kwargs))
        result = function(*tree_map(_unwrap, args), **tree_map(_unwrap, kwargs))
        in_place = function._schema.is_mutable and not name.startswith(("aten::_foreach", "aten::_fused", "aten::_amp"))
        return args[0] if in_place and isinstance(args[0], SimTensor) else tree_map(_wrap, result)


def _onto(device, function, args, kwargs):
    given = {"device": _CPU} if "device" in kwargs else {}
    result = function(*tree_map(_unwrap, args), **{**tree_map(_unwrap, kwargs), **given})
    if device.type == "sim":
        return tree_map(_wrap, result)
    _count()
    return result


def _require_one_device(name, values):
    for leaf in tree_leaves(values):
        if isinstance(leaf, torch.Tensor) and not isinstance(leaf, SimTensor) and leaf.dim() > 0:
            raise RuntimeError(f"{name}: expected all tensors on one device, but found sim:0 and {leaf.device}")


def _unwrap(value):
    if isinstance(value, torch.device):
        return _CPU
    return value.held if isinstance(value, SimTensor) else value


def _wrap(value):
    return SimTensor(value) if isinstance(value, torch.Tensor) and not isinstance(value, SimTensor) else value


def _count():
    """Count a transfer under the innermost line of the project."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PROJECT) and "site-packages" not in path.parts and path.name != "simulated_device.py":
            transfers[f"{path.relative_to(PROJECT)}:{frame.f_lineno} {frame.f_code.co_name}"] += 1
            return
        frame = frame.f_back
    transfers["elsewhere"] += 1


def _to_copy(self, *, dtype=None, layout=None, device=None, pin_memory=None, non_blocking=False, memory_format=None):
    if not isinstance(self, SimTensor) and not non_blocking:
        _count()
    how = {} if memory_format in (None, torch.preserve_format) else {"memory_format": memory_format}
    return SimTensor(_unwrap(self).to(_CPU, dtype, copy=True, **how))


def _empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return SimTensor(torch.empty(size, dtype=dtype))


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    return SimTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy(self, source, non_blocking=False):
    if isinstance(self, SimTensor) != isinstance(source, SimTensor) and not (
        non_blocking and isinstance(self, SimTensor)
    ):
        _count()
    held: Any = _unwrap(self)
    held.copy_(_unwrap(source))
    return self


_setup_privateuseone_for_python_backend("sim", backend_module=_Module())
torch.__future__.set_swap_module_params_on_conversion(True)  # so that module.to() can change the class of parameters
_library = torch.library.Library("aten", "IMPL")
for _operator, _function in (
    ("_to_copy", _to_copy),
    ("empty.memory_format", _empty),
    ("empty_strided", _empty_strided),
    ("copy_", _copy),
):
    _library.impl(_operator, _function, "PrivateUse1")
_all_operators = torch.library.Library("_", "IMPL")
_all_operators.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")  # autocast does nothing
torch.accelerator.synchronize = lambda device=None: None
torch.Tensor.pin_memory = lambda self, device=None: self  # all memory here is the CPU's
