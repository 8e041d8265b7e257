"""Switches for speed: memory layout, precision, fused kernels, torch.compile; and moving batches to the device."""

import contextlib
import importlib.util
import os
import shutil
from typing import TYPE_CHECKING, Any

import torch

from utils.device import copies_ahead, exact_float, held_dtype
from utils.distributed.shards import FUSED_SHARDABLE, is_sharded
from utils.errors import UserError
from utils.nested import map_tensors
from utils.rules import precision_error
from utils.runs.weights import unwrapped
from utils.untrusted import as_count, as_number

if TYPE_CHECKING:
    from utils.config.schema import TrainerSettings

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_AS_IS = contextlib.nullcontext()
_LARGEST_KEPT = 31 << 20  # bytes
_FUSED = ("Adam", "AdamW", "SGD")  # torch.optim's classes whose fused kernel runs on each of these devices
_FUSED_ON = ("cpu", "cuda", "xpu")  # mps has them too, but see grad_scaler


def to_device(value: Any, device: torch.device) -> Any:
    """The tensor on the device, or a dict, list or tuple with all of its tensors there.

    The copy is asynchronous where that is safe. Numbers of double precision become those of single precision where
    the device has no other.
    """
    if not isinstance(value, torch.Tensor):
        return map_tensors(lambda part: _moved(part, device), value)
    if value.device == device:
        return value
    return value.to(device, held_dtype(device, value.dtype), non_blocking=copies_ahead(device))


def _moved(part, device):
    return to_device(part, device) if isinstance(part, torch.Tensor) else part.to(device)


def apply_switches(model: torch.nn.Module, settings: "TrainerSettings", device: torch.device) -> None:
    """Apply the trainer's settings on precision and layout to the model and to torch.

    Load the optimizer's state afterwards, since its tensors take the memory format of the parameters.
    Raises UserError, naming the switch, for what this device or machine cannot do.
    """
    if error := precision_error(settings.precision, device.type):
        raise UserError(f"trainer.precision: {error}")
    if settings.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        raise UserError(f"trainer.precision: {torch.cuda.get_device_name(device)} has no bf16; use 'fp16' or 'fp32'")
    if settings.compile:
        if isinstance(model, torch.nn.DataParallel):
            raise UserError("trainer.compile: a DataParallel model cannot be compiled; set n_gpu to 1")
        _require_compiler(device)
    if settings.channels_last and any(parameter.dim() == 5 for parameter in model.parameters()):
        raise UserError("trainer.channels_last: is for images, and the model has 3d convolutions; set it to false")
    if settings.precision == "tf32":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    if settings.cudnn_benchmark:
        torch.backends.cudnn.benchmark = True
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    if device.type == "cpu":
        _keep_freed_memory()


def _keep_freed_memory():
    """Have glibc keep the memory of a step for the next one, instead of giving it back and faulting for it again.

    It raises its limit for what it gives back at once to the largest block that it has given back so far, up to 32 MB;
    this block is never touched. Other C libraries take no notice.
    """
    torch.empty(_LARGEST_KEPT, dtype=torch.uint8)


def compile_as_set(model: torch.nn.Module, settings: "TrainerSettings") -> None:
    """Compile the model if trainer.compile says so."""
    if settings.compile:
        any_shape = settings.compile == "dynamic"
        mode = settings.compile if isinstance(settings.compile, str) and not any_shape else None
        # not torch's default: its kernels depend on the order of shapes, so a resumed run would differ in the last bits
        unwrapped(model).compile(mode=mode, dynamic=any_shape)


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """A context in which models and losses compute in the precision; enter a new one for each batch."""
    if precision not in _DTYPES:
        return _AS_IS
    return torch.autocast(device.type, _DTYPES[precision])


def grad_scaler(precision: str, device: torch.device, optimizer: Any = None) -> torch.amp.GradScaler | None:
    """The GradScaler that training in float16 needs; None for other precisions.

    Raises UserError if the device cannot scale, or if the optimizer would ignore the scaler.
    """
    if precision != "fp16":
        return None
    if device.type == "xpu" and exact_float(device) is not torch.float64:
        raise UserError("trainer.precision: the scaler of 'fp16' needs float64, which this device lacks; use 'bf16'")
    groups = optimizer.param_groups if optimizer is not None else ()
    if device.type == "mps" and any(group.get("fused") for group in groups):  # pytorch#186360
        what = "on mps some versions of torch ignore the scaler of 'fp16'"
        raise UserError(f"trainer.fused, optimizer.args.fused: {what}; set to false the one that is true")
    return torch.amp.GradScaler(device.type)


def require_scaler_state(state: dict[str, Any]) -> None:
    """Raise ValueError unless the numbers of a GradScaler's state are in range; its kernel does not check them."""
    for name in ("scale", "growth_factor", "backoff_factor"):
        if not 0 < as_number(state[name]) < float("inf"):
            raise ValueError(f"the scaler's {name!r} is {state[name]}")
    for name in ("growth_interval", "_growth_tracker"):
        if as_count(state[name]) >= 2**31:
            raise ValueError(f"the scaler's {name!r} is {state[name]}")


def fused_option(section: dict[str, Any], wanted: bool | None, model: torch.nn.Module) -> dict[str, bool]:
    """{"fused": True} if the optimizer should use its fused kernel, else {}.

    section: {"type": ..., "args": ...} of the optimizer.
    wanted: value of trainer.fused; None means True where the kernel is known to work.
    """
    given = section.get("args", {})
    if wanted is None:
        known = section["type"].removeprefix("torch.optim.") in (FUSED_SHARDABLE if is_sharded(model) else _FUSED)
        own_choice = any(key in given for key in ("fused", "foreach", "differentiable"))
        parameters = list(model.parameters())
        dense = not any(getattr(module, "sparse", False) for module in model.modules())
        fits = dense and all(p.device.type in _FUSED_ON and p.is_floating_point() for p in parameters)
        wanted = known and fits and not own_choice
    return {"fused": True} if wanted else {}


def _require_compiler(device):
    """Raise UserError if torch.compile would find no compiler for the device."""
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++", "cl"]
    if not any(map(shutil.which, compilers)):
        found = f"no C++ compiler is installed (looked for {', '.join(compilers)})"
    elif device.type == "cuda" and importlib.util.find_spec("triton") is None:
        found = "the package triton is not installed"
    else:
        return
    raise UserError(f"trainer.compile: {found}; install it, or train without: --set trainer.compile=false")
