"""Tensors of which each process holds a shard, as parallel.type "fsdp" makes them of parameters: torch's DTensors.

They are told by an attribute, since to import their module takes half a second, which other runs need not wait for.
"""

from utils.distributed import contact
from utils.distributed.messages import broadcast
from utils.errors import UserError

_TRIED_STEPS = 2


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


def require_shardable(optimizer, path, type_name):
    """Raise UserError if the optimizer fails with sharded parameters, or comes to other numbers than with whole ones.

    That is tried, for a few steps, on a small parameter that is sharded as the optimizer's own are. path: of its
    section in the config.
    """
    import torch

    mesh = next((p.device_mesh for group in optimizer.param_groups for p in group["params"] if is_shard(p)), None)
    if mesh is None:
        return
    remedy = 'Adam, AdamW and SGD can be, or use parallel.type "ddp"'
    start = torch.linspace(-1, 1, 6 * mesh.size(), device=mesh.device_type).reshape(-1, 3)
    try:
        single = _tried(optimizer, start)
    except Exception:  # it wants something that this parameter is not, and so says nothing of sharded ones
        return
    try:
        from torch.distributed.tensor import Shard, distribute_tensor

        sharded = _tried(optimizer, distribute_tensor(start, mesh, [Shard(0)], src_data_rank=None)).full_tensor()
    except Exception as error:
        if contact.is_lost(error):  # another process
            raise
        kernel = "with its fused kernel " if optimizer.defaults.get("fused") else ""
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise UserError(f"{path}.type: {type_name} {kernel}cannot be sharded ({reason}); {remedy}") from None
    if not torch.allclose(single, sharded, rtol=1e-3, atol=1e-5):
        raise UserError(f"{path}.type: {type_name}, sharded, comes to other numbers than whole; {remedy}")


def _tried(optimizer, start):
    """What a few steps of an optimizer like this one make of a parameter with these values."""
    import inspect

    import torch

    parameter = torch.nn.Parameter(start.clone())
    taken = inspect.signature(type(optimizer)).parameters
    settings = {key: value for key, value in optimizer.defaults.items() if key in taken}
    trial = type(optimizer)([parameter], **settings)
    for _ in range(_TRIED_STEPS):
        parameter.grad = (parameter.detach() * 0.5).cos()
        trial.step()
    return parameter.detach()
