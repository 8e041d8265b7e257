"""A second device without hardware: tensors that compute on the CPU, and that torch takes for those of a device "sim".

Importing this file makes "sim" the process's accelerator, so only processes started for it import it. As on a GPU,
tensors of the two devices do not mix, the device has random numbers of its own, and copies wait for the device unless
they are non_blocking: `transfers` counts those by line of the project, and the operators whose result has a size that
the device must tell first, such as indexing with a mask. Copies to it that do not wait, but come from memory that is
not pinned, are counted in `unpinned`. What does not wait is done at the next wait: a copy to the CPU has other numbers
before, and pinned memory may not be changed before. An index outside of its range is an error from then on. The check
of gradients takes no bf16, and without double precision the smallest floats may become 0, as on some devices. It needs
torch's Python backend, torch 2.9 or later.
"""

import collections
import os
import sys
from pathlib import Path
from typing import Any

import torch
from simulated_kernels import KERNELS
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

PROJECT = Path(__file__).resolve().parents[1]
transfers: collections.Counter = collections.Counter()
"""{"base/training/evaluate.py:60 function": number of copies that wait} since it was last cleared."""
unpinned: collections.Counter = collections.Counter()
"""The same for copies to the device that do not wait, from memory that is not pinned."""
has_doubles = True
"""Whether the device computes in double precision; mps does not."""

_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
_MAY_MIX = ("aten::copy_", "aten::_local_scalar_dense", "aten::equal", "aten::_foreach_copy_")
_CPU = torch.device("cpu")
_to_fill: list = []  # (tensor of the CPU, its values) of copies that do not wait
_in_use: list = []  # (tensor in pinned memory, its version) of copies that do not wait


class _Module(_DummyBackendModule):
    """What torch.get_device_module("sim") returns."""

    def __init__(self):
        self.number, self.count, self.is_broken = 0, 1, False
        self.manual_seed_all(0)

    def set_device(self, device):
        self.number = device if isinstance(device, int) else torch.device(device).index

    def current_device(self):
        return self.number

    def device_count(self):
        return self.count

    def synchronize(self, device=None):
        """Do what is left to do."""
        for tensor, values in _to_fill:
            tensor.copy_(values)
        assert all(one._version == version for one, version in _in_use), "pinned memory is changed before it is copied"
        _to_fill.clear()
        _in_use.clear()
        if self.is_broken:
            raise RuntimeError("SIM error: device-side assert triggered\nErrors may be reported at some later call.")

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]

    def manual_seed_all(self, seed):
        self._random = torch.Generator().manual_seed(seed + 1).get_state()  # never the numbers of the CPU
        self._of_others: dict = {}  # by number, where they are not the same

    def get_rng_state(self, device="sim"):
        return (self._random if self._is_in_use(device) else self._of_others.get(str(device), self._random)).clone()

    def set_rng_state(self, state, device="sim"):
        if self._is_in_use(device):
            self._random = state.clone()
        else:
            self._of_others[str(device)] = state.clone()

    def _is_in_use(self, device):
        return torch.device(device).index in (None, self.number)

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
        if name == "c10d::_allgather_base_":  # whose parts Gloo looks for in the first dimension
            args_there = *(one.flatten() for one in args_there[:2]), *args_there[2:]
        if _reads_sizes(function, name, args):
            _count()
        if name.startswith("aten::_amp_foreach_non") and any(one.dtype == torch.bfloat16 for one in args[0]):
            raise NotImplementedError(f"{name!r} not implemented for 'BFloat16'")
        kernel = KERNELS.get(name, function)
        call = (_module.drawing, kernel) if torch.Tag.nondeterministic_seeded in function.tags else (kernel,)
        try:
            result = call[0](*call[1:], *args_there, **kwargs_there)
        except IndexError:
            _module.is_broken = True  # which the next wait tells
            result = call[0](*call[1:], *tree_map(_without_indices, args_there), **kwargs_there)
        if torch.Tag.inplace_view in function.tags:
            with no_dispatch():  # gives the wrapper the new shape and strides, too
                function(*args, **kwargs)
        if name == "aten::cat" and not has_doubles and result.is_floating_point():
            result = result.where(result.abs() >= torch.finfo(result.dtype).tiny, 0)
        in_place = function._schema.is_mutable and not name.startswith(("aten::_foreach", "aten::_fused", "aten::_amp"))
        return args[0] if in_place and isinstance(args[0], SimTensor) else tree_map(_wrap, result)


def _onto(device, function, args, kwargs):
    given = {"device": _CPU} if "device" in kwargs else {}
    result = function(*tree_map(_unwrap, args), **{**tree_map(_unwrap, kwargs), **given})
    if device.type == "sim":
        return tree_map(_wrap, result)
    if kwargs.get("non_blocking"):
        _to_fill.append((torch.full_like(result, 77), result))
        return _to_fill[-1][0]
    _count()
    return result


def _reads_sizes(function, name, args):
    """Whether the device waits to tell how large the result, or what is written, is."""
    if name in _INDEXING:
        masked = any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1])
        return masked and not (name != "aten::index" and args[2].dim() == 0)  # of one value, it is a fill
    return name == "aten::_coalesce" or torch.Tag.dynamic_output_shape in function.tags


def _without_indices(value):
    """Zeros in the place of integers, which are valid indices."""
    return torch.zeros_like(value) if isinstance(value, torch.Tensor) and value.dtype == torch.int64 else value


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
    """Count a transfer, or another wait, under the innermost line of the project."""
    if counter is transfers:
        _module.synchronize()
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
    elif getattr(source, "in_pinned_memory", False):
        _in_use.append((source, source._version))
    elif source.dim():
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


def _load_state_dict(self, *args, load=torch.nn.Module.load_state_dict, **kwargs):
    """Copy into the parameters, as real devices do: those of recurrent layers cannot be swapped."""
    torch.__future__.set_swap_module_params_on_conversion(False)
    try:
        return load(self, *args, **kwargs)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(True)


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
torch.accelerator.synchronize, torch.accelerator.set_device_index = _module.synchronize, _module.set_device
torch.accelerator.current_device_index = _module.current_device
torch.distributed.Backend.register_backend("simccl", _process_group, devices=["sim", "cpu"])
torch.Tensor.pin_memory, torch.nn.Module.load_state_dict = _pin, _load_state_dict
