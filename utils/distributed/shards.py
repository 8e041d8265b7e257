"""Sharded tensors, torch's DTensors, which parallel.type "fsdp" makes of parameters: each process holds a shard.

They are recognized by an attribute: to import their module takes half a second, which other runs need not wait for.
"""

import inspect
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from utils.errors import UserError

if TYPE_CHECKING:
    import torch

# classes of torch.optim that treat each element by itself, so that shards come to the numbers of whole parameters
_SHARDABLE = ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "SGD")
FUSED_SHARDABLE = ("Adam", "AdamW")
"""Those of them whose fused kernel torch can run on sharded parameters."""


def is_shard(value: Any) -> bool:
    """Whether the value is a tensor that is sharded over the processes."""
    return hasattr(value, "device_mesh")


def is_sharded(model: "torch.nn.Module") -> bool:
    """Whether parameters of the model are sharded, so that all processes have to take part in its forward pass."""
    return mesh_of(model) is not None


def mesh_of(model: "torch.nn.Module") -> Any:
    """The processes, as a DeviceMesh, over which the model is sharded; None if it is not."""
    shards: Any = filter(is_shard, model.parameters())
    return next((shard.device_mesh for shard in shards), None)


def local(tensor: Any) -> "torch.Tensor":
    """The part of the tensor that this process holds; it may be empty."""
    return tensor.to_local() if is_shard(tensor) else tensor


def whole(tensor: Any) -> "torch.Tensor":
    """The whole tensor, in each process; all must ask for it."""
    return tensor.full_tensor() if is_shard(tensor) else tensor


def sharded_like(target: Any, value: Any) -> Any:
    """The value, a whole tensor, sharded as the target is; the value itself if they do not fit."""
    if not is_shard(target) or is_shard(value) or value.shape != target.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    # nothing is sent: each process takes its part of what it has
    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements, src_data_rank=None)


def refuse_sharded(model: "torch.nn.Module", what: str) -> None:
    """Raise UserError if the model is sharded and `what` needs all of it in one process."""
    if is_sharded(model):
        raise UserError(f'{what} needs a whole model, and parallel.type "fsdp" shards it; leave it out, or use "ddp"')


def require_shardable(optimizer: "torch.optim.Optimizer", path: str, type_name: str) -> None:
    """Raise UserError if the optimizer's parameters are sharded and it is not known to support that.

    path: of its section in the config. A class of a project's own declares that it treats each element by itself with
    the attribute works_on_shards = True.
    """
    import torch

    if not any(is_shard(parameter) for group in optimizer.param_groups for parameter in group["params"]):
        return
    kind, remedy = type(optimizer), 'use Adam, AdamW or SGD, or parallel.type "ddp"'
    if getattr(kind, "works_on_shards", False):
        return
    if kind not in [getattr(torch.optim, name) for name in _SHARDABLE]:
        raise UserError(f"{path}.type: {type_name} is not known to work on sharded parameters; {remedy}")
    if optimizer.defaults.get("fused") and kind.__name__ not in FUSED_SHARDABLE:
        raise UserError(
            f"{path}.type: {type_name} with its fused kernel does not work on sharded parameters; leave out fused, or "
            f"{remedy}"
        )


def require_shard_files() -> None:
    """Raise UserError if something is missing to save shards."""
    if missing := missing_for_shards():
        raise UserError(f"it saves its shards with {missing}")


def missing_for_shards() -> str | None:
    """Return what is needed to save shards and is not there, with the remedy; None if nothing is missing."""
    if find_spec("safetensors") is None:
        return "the package safetensors, which is not installed: pip install safetensors"
    import torch
    from torch.distributed.checkpoint import HuggingFaceStorageWriter  # pyright: ignore[reportPrivateImportUsage]

    if "save_distributed" not in inspect.signature(HuggingFaceStorageWriter).parameters:
        return f"torch 2.9 or newer, and this is {torch.__version__}"
    return None
