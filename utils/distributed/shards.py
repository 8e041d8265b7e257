"""Tensors of which each process holds a shard, as parallel.type "fsdp" makes them of parameters: torch's DTensors.

They are told by an attribute, since to import their module takes half a second, which other runs need not wait for.
"""

from utils.distributed.messages import broadcast
from utils.errors import UserError

# classes of torch.optim that treat each element by itself, so that shards come to the numbers of whole parameters
_SHARDABLE = ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "SGD")
FUSED_SHARDABLE = ("Adam", "AdamW")
"""Those of them whose fused kernel torch can run on sharded parameters."""


def is_shard(value):
    """Whether the value is a tensor that is sharded over the processes."""
    return hasattr(value, "device_mesh")


def is_sharded(model):
    """Whether parameters of the model are sharded, so that all processes have to take part in its forward pass."""
    return mesh_of(model) is not None


def mesh_of(model):
    """The processes, as a DeviceMesh, over which the model is sharded; None if it is not."""
    return next((parameter.device_mesh for parameter in model.parameters() if is_shard(parameter)), None)


def local(tensor):
    """What this process holds of the tensor; it may be empty."""
    return tensor.to_local() if is_shard(tensor) else tensor


def whole(tensor):
    """All of the tensor, in each process; all must ask for it."""
    return tensor.full_tensor() if is_shard(tensor) else tensor


def sharded_like(target, value):
    """The value, a tensor that each process has all of, sharded as the target is, if it is; others as they are."""
    if not is_shard(target) or is_shard(value) or value.shape != target.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    # nothing is sent: each process takes its part of what it has
    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements, src_data_rank=None)


def shows(writer, model):
    """Whether this process works out what the first one's writer shows: with a sharded model all have to."""
    return broadcast(writer.enabled) if is_sharded(model) else writer.enabled


def refuse_sharded(model, what):
    """Raise UserError if the model is sharded and `what` needs all of it in one process."""
    if is_sharded(model):
        raise UserError(f'{what} needs a whole model, and parallel.type "fsdp" shards it; leave it out, or use "ddp"')


def require_shardable(optimizer, path: str, type_name: str):
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
