"""A second device without hardware: tensors that compute on the CPU, and that torch takes for those of a device "sim".

Importing this file makes "sim" the process's accelerator, so only processes started for it import it. As on a GPU,
tensors of the two devices do not mix, the device has random numbers of its own, and copies wait for the device unless
they go to it and are non_blocking: `transfers` counts those by line of the project. Copies to it that do not wait, but
come from memory that is not pinned, are counted in `unpinned`. It needs torch's Python backend, torch 2.9 or later.
"""

import collections
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

PROJECT = Path(__file__).resolve().parents[1]
transfers: collections.Counter = collections.Counter()
"""{"base/training/evaluate.py:60 function": number of copies that wait} since it was last cleared."""
unpinned: collections.Counter = collections.Counter()
"""The same for copies to the device that do not wait, from memory that is not pinned."""
has_doubles = True
"""Whether the device computes in double precision; mps does not."""

_MAY_MIX = ("aten::copy_", "aten::_local_scalar_dense", "aten::equal", "aten::_foreach_copy_")
_CPU = torch.device("cpu")


class _Module(_DummyBackendModule):
    """What torch.get_device_module("sim") returns."""

    def __init__(self):
        self.manual_seed_all(0)

    def set_device(self, device):
        pass

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]

    def manual_seed_all(self, seed):
        self._random = torch.Generator().manual_seed(seed + 1).get_state()  # never the numbers of the CPU

    def get_rng_state(self, device=None):
        return self._random.clone()

    def set_rng_state(self, state, device=None):
        self._random = state.clone()

    def drawing(self, function, *args, **kwargs):
        """Call a function that draws random numbers: the device's."""
        if kwargs.get("generator") is not None:
            raise RuntimeError("expected a generator of the device sim, but found one of cpu")
        before = torch.get_rng_state()
        torch.set_rng_state(self._random)
        try:
            return function(*args, **kwargs)
        finally:
            self._random = torch.get_rng_state()
            torch.set_rng_state(before)

    def max_memory_allocated(self, device=None):
        return 1_000_000

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

    def __repr__(self):
        return f"SimTensor({self.to('cpu')!r})"

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
        args_there, kwargs_there = tree_map(_unwrap, args), tree_map(_unwrap, kwargs)
        call = (_module.drawing, function) if torch.Tag.nondeterministic_seeded in function.tags else (function,)
        result = call[0](*call[1:], *args_there, **kwargs_there)
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
            raise RuntimeError(f"{name}: expected all tensors on one device, but found sim and {leaf.device}")


def _unwrap(value):
    if isinstance(value, torch.device):
        return _CPU
    return value.held if isinstance(value, SimTensor) else value


def _wrap(value):
    return SimTensor(value) if isinstance(value, torch.Tensor) and not isinstance(value, SimTensor) else value


def _count(counter=transfers):
    """Count a transfer under the innermost line of the project."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PROJECT) and "site-packages" not in path.parts and path.name != "simulated_device.py":
            counter[f"{path.relative_to(PROJECT)}:{frame.f_lineno} {frame.f_code.co_name}"] += 1
            return
        frame = frame.f_back
    counter["elsewhere"] += 1


def _count_copy_there(source, non_blocking):
    if not non_blocking:
        _count()
    elif not getattr(source, "in_pinned_memory", False) and source.dim():
        _count(unpinned)


def _pin(self, device=None):
    """A copy in pinned memory, which here is the CPU's."""
    copy: Any = self.clone()
    copy.in_pinned_memory = True
    return copy


def _to_copy(self, *, dtype=None, layout=None, device=None, pin_memory=None, non_blocking=False, memory_format=None):
    if not isinstance(self, SimTensor):
        _count_copy_there(self, non_blocking)
    how = {} if memory_format in (None, torch.preserve_format) else {"memory_format": memory_format}
    return SimTensor(_unwrap(self).to(_CPU, dtype, copy=True, **how))


def _empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return SimTensor(torch.empty(size, dtype=dtype))


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    return SimTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy(self, source, non_blocking=False):
    if isinstance(self, SimTensor) and not isinstance(source, SimTensor):
        _count_copy_there(source, non_blocking)
    elif not isinstance(self, SimTensor):
        _count()
    held: Any = _unwrap(self)
    held.copy_(_unwrap(source))
    return self


def autoload():
    """Do nothing: torch calls this where the folder of `for_processes` is on Python's path, and so imports the file."""


def for_processes(folder):
    """Return what to set in the environment so that all Python processes have the device; folder: a new one."""
    package = folder / "sim-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: sim\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[torch.backends]\nsim = simulated_device:autoload\n")
    return {"PYTHONPATH": os.pathsep.join(map(str, (folder, PROJECT, PROJECT / "tests")))}


def _process_group(store, rank, size, timeout):
    """What NCCL is to CUDA. The operators reach it with the tensors that are wrapped."""
    return torch.distributed.ProcessGroupGloo(store, rank, size, timeout)


_module = _Module()
_setup_privateuseone_for_python_backend("sim", backend_module=_module)
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
torch.accelerator.synchronize = torch.accelerator.set_device_index = lambda device=None: None
torch.distributed.Backend.register_backend("simccl", _process_group, devices=["sim", "cpu"])
torch.Tensor.pin_memory = _pin
