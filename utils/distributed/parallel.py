"""What the config's "parallel" section names: how several processes train one model together."""

import functools
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from utils.distributed.launch import world_size
from utils.distributed.shards import is_shard, require_shard_files
from utils.distributed.world import largest
from utils.errors import UserError
from utils.patterns import choose_names

_ROUNDING = 1e-5  # of the largest weight of a parameter; where processes train one model, they round alike


def parallelize(model: torch.nn.Module, config: Any, device: torch.device) -> torch.nn.Module:
    """See world.parallelize."""
    if config["trainer"].get("channels_last"):
        model = model.to(memory_format=torch.channels_last)  # before memory for gradients is laid out
    if device.type == "cpu" and any(isinstance(module, torch.nn.SyncBatchNorm) for module in model.modules()):
        remedy = "use BatchNorm there, and parallel.args.sync_batchnorm on GPUs"
        raise UserError(f"arch: torch has SyncBatchNorm for GPUs only, and this run is on {device}; {remedy}")
    section = {"type": "ddp", **(config.get("parallel") or {})}
    if section["type"] == "fsdp":
        refuse_settings(config["trainer"])  # fsdp moves the model itself, which may be too large for one device
    else:
        model = model.to(device)
    parallel = config.build("parallel", section, model, device)
    if has_unshared_batch_norm(parallel):
        offers_sync = device.type != "cpu" and not section.get("args", {}).get("sync_batchnorm")
        config.get_logger("parallel").warning(
            "batch norm: each process computes statistics of its own part of a batch, so the numbers differ from those "
            "of one process%s",
            "; parallel.args.sync_batchnorm computes them over all" if offers_sync else "",
        )
    return parallel


def has_unshared_batch_norm(model: torch.nn.Module) -> bool:
    """Whether a module of the model computes statistics of a batch from the samples of its own process alone.

    That is a module with running statistics that it updates, which `momentum` tells, whatever its class: not all derive
    from torch.nn.BatchNorm2d. torch.nn.SyncBatchNorm shares them, and instance norm has those of single samples.
    """
    others = torch.nn.SyncBatchNorm, torch.nn.InstanceNorm1d, torch.nn.InstanceNorm2d, torch.nn.InstanceNorm3d
    return any(
        hasattr(module, "running_mean") and hasattr(module, "momentum") and not isinstance(module, others)
        for module in model.modules()
    )


def ddp(
    model: torch.nn.Module,
    device: torch.device,
    *,
    sync_batchnorm: bool = False,
    find_unused_parameters: bool = False,
    bucket_mb: float = 25.0,
    checkpoint_activations: list | None = None,
) -> torch.nn.Module:
    """A copy of the model in each process; the backward pass averages their gradients.

    sync_batchnorm: compute the statistics of batch norm over the whole batch; on GPUs only.
    find_unused_parameters: needed if some parameters have no part in some steps, as with Freeze; slower.
    bucket_mb: megabytes of gradients that are sent together.
    checkpoint_activations: patterns of modules whose activations the backward pass computes again to save memory.

    Source: Li et al., PyTorch Distributed, 2020.
    """
    if not 0 < bucket_mb <= 10_000:
        raise UserError(f"bucket_mb: got {bucket_mb}; it should be above 0, and 10000 at most")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return model
    model = _prepared(model, device, sync_batchnorm, checkpoint_activations)
    wrapped = DistributedDataParallel(
        model,
        find_unused_parameters=find_unused_parameters,
        bucket_cap_mb=bucket_mb,  # pyright: ignore[reportArgumentType]
        gradient_as_bucket_view=True,
    )
    sparse = any(getattr(module, "sparse", False) for module in model.modules())
    # torch keeps the layout with find_unused_parameters; a sum would make sparse gradients dense
    if not find_unused_parameters and not sparse:
        _settle_buckets(wrapped)
    return wrapped


def _settle_buckets(wrapped):
    """Fix the layout of the gradients before the first step: from the last layer's to the first one's.

    torch does it after the first step of each process, in the order in which gradients came. The sums of three or more
    processes round differently depending on a gradient's place in a bucket, so a resumed run's first step would differ.
    """
    model = wrapped.module
    wrapped.module = _SumOfParameters(model)
    try:
        for _ in range(2):  # the second forward pass applies the order of the first backward pass
            wrapped().backward()
    finally:
        wrapped.module = model
    wrapped.zero_grad()


class _SumOfParameters(torch.nn.Module):
    """Stands in for a model in a pass that reaches all its parameters and needs no data."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self):
        return sum(p.sum().real * 0 for p in self.model.parameters() if p.requires_grad)


def fsdp(
    model: torch.nn.Module,
    device: torch.device,
    *,
    units: list | None = None,
    mixed_precision: Literal["bf16"] | None = None,
    reshard_after_forward: bool = True,
    checkpoint_activations: list | None = None,
    sync_batchnorm: bool = False,
) -> torch.nn.Module:
    """The model with a shard of each parameter, its gradient and the optimizer's state in each process.

    units: patterns of modules, as ["layers.*"], whose parameters are gathered when needed and freed afterwards; of
        nested modules the outer one counts. By default the children of the model, and the items of those that are a
        Sequential or a ModuleList. The rest of the model is one more unit.
    mixed_precision: "bf16" gathers and computes in bfloat16; shards stay as they are, gradients add up in float32.
    reshard_after_forward: False keeps gathered parameters until the backward pass, which saves sending them again.
    checkpoint_activations: patterns of modules whose activations the backward pass computes again to save memory.
    sync_batchnorm: as for ddp.

    Source: Zhao et al., PyTorch FSDP, 2023; torch.distributed.fsdp.fully_shard.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    from utils.distributed.process_group import end_threads_with

    require_shard_files()
    if mixed_precision not in (None, "bf16"):
        raise UserError(f"mixed_precision: got {mixed_precision!r}; it should be 'bf16' or null")
    model = _prepared(model, device, sync_batchnorm, checkpoint_activations)
    if device.type != "cpu":
        torch.accelerator.set_device_index(device)
    low = torch.bfloat16 if mixed_precision else None
    mesh = init_device_mesh(device.type, (world_size(),))
    end_threads_with(mesh)
    settings = {"mesh": mesh, "reshard_after_forward": reshard_after_forward}
    for unit in _units(model, units):
        _settle(unit.parameters(), device)
        policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32 if low else None)
        fully_shard(unit, mp_policy=policy, **settings)
    _settle((*model.parameters(), *model.buffers()), device)
    policy = MixedPrecisionPolicy(low, torch.float32, torch.float32) if low else MixedPrecisionPolicy()
    fully_shard(model, mp_policy=policy, **settings)
    return model


def _settle(tensors, device):
    """Move those of the tensors that are not sharded yet to the device, and give them the first process's values."""
    for tensor in tensors:
        if is_shard(tensor):
            continue
        tensor.data = tensor.data.to(device).contiguous()
        if tensor.numel():
            # as bytes: not every backend sends every dtype
            torch.distributed.broadcast(tensor.data.reshape(-1).view(torch.uint8), src=0)


def _prepared(model, device, sync_batchnorm, checkpoint_activations):
    """The model with what ddp and fsdp have in common."""
    if sync_batchnorm:
        if device.type == "cpu":
            raise UserError(f"sync_batchnorm: torch has it for GPUs only, and this run is on {device}; leave it out")
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if checkpoint_activations:
        named = {name: module for name, module in model.named_modules() if name}
        for name in _outermost(choose_names(checkpoint_activations, named, "checkpoint_activations", kind="module")):
            # no wrapper, so that names in checkpoints stay
            named[name].forward = functools.partial(checkpoint, named[name].forward, use_reentrant=False)
    return model


def _units(model, patterns):
    """The modules that are units, besides the model itself."""
    named = {name: module for name, module in model.named_modules() if name and any(True for _ in module.parameters())}
    names = _default_units(model) if patterns is None else choose_names(patterns, named, "units", kind="module")
    units = {name: named[name] for name in _outermost(names) if name in named}
    while tied := _tied(model, units):
        if patterns is not None:
            raise UserError(f"units: {' and '.join(tied)} share a parameter; leave out both, which then are the rest")
        units = {name: unit for name, unit in units.items() if name not in tied}
    return list(units.values())


def _tied(model, units):
    """Names of two units, or of one and the rest of the model, that share a parameter; () if none do."""
    inside = {module for unit in units.values() for module in unit.modules()}
    rest = [p for module in model.modules() if module not in inside for p in module.parameters(recurse=False)]
    owners = dict.fromkeys(rest, "the rest")
    for name, unit in units.items():
        for parameter in unit.parameters():
            if owners.setdefault(parameter, name) != name:
                return owners[parameter], name
    return ()


def _default_units(model):
    """Names of the model's children, and of the items of those that only hold a list."""
    for name, part in model.named_children():
        if isinstance(part, (torch.nn.Sequential, torch.nn.ModuleList)):
            yield from (f"{name}.{item}" for item, _ in part.named_children())
        else:
            yield name


def _outermost(names):
    """The names that are not within another one."""
    names = list(names)
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def needs_all_gradients(model: torch.nn.Module) -> bool:
    """Whether every step must give every parameter that was trained at the beginning a gradient."""
    return isinstance(model, DistributedDataParallel) and not model.find_unused_parameters


def exchange_gradients(model: torch.nn.Module | None, wanted: bool) -> None:
    """Have the next backward pass of the model exchange gradients between the processes, or only add them up here.

    A sharded model always exchanges them: no process could hold the whole sum.
    """
    if isinstance(model, DistributedDataParallel):
        model.require_backward_grad_sync = wanted


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Give the parameters' gradients, which backward passes have only added up here, their means over the processes."""
    if world_size() == 1:
        return
    for parameter in parameters:
        if parameter.requires_grad:  # whether or not it has had a part in the steps of this process
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.distributed.all_reduce(gradient.div_(world_size()))
            parameter.grad = gradient


def require_same_weights(model: torch.nn.Module | None) -> None:
    """Raise UserError if the weights of a copy of the model in each process have come to differ; all must ask."""
    if not isinstance(model, DistributedDataParallel):
        return
    trained = {name: p.detach() for name, p in model.module.named_parameters() if p.requires_grad and p.numel()}
    differ = []
    for own in trained.values():
        first = own.clone(memory_format=torch.contiguous_format)
        torch.distributed.broadcast(first.reshape(-1).view(torch.uint8), src=0)  # as bytes: see _settle
        differ.append((own - first).abs().max() > _ROUNDING * first.abs().max())
    found = largest(torch.stack(differ).to(torch.float32)).tolist() if differ else []
    without = {p.grad is None for p in model.parameters() if p.requires_grad}
    if len(without) == 2:  # some had no part in the loss, so DistributedDataParallel averages nothing, and names them
        return
    if names := [name for name, is_other in zip(trained, found, strict=True) if is_other]:
        what = f"the processes' weights differ, as {names[0]!r}, so they no longer train one model"
        remedy = "gradients that backward() has not made must be averaged before the optimizer step"
        raise UserError(f"parallel: {what}; {remedy}: docs/several_processes.md, A step of your own")


def refuse_settings(trainer: dict[str, Any]) -> None:
    """Raise UserError for settings of the section "trainer" that sharded models do not have."""
    remedy = 'or use parallel.type "ddp"'
    if trainer.get("async_save"):
        raise UserError(f"trainer.async_save: shards are saved by all processes together; leave it out, {remedy}")
    if trainer.get("channels_last"):
        raise UserError(f"trainer.channels_last: a sharded model has its own order in memory; leave it out, {remedy}")
    if trainer.get("precision") == "fp16":
        raise UserError(f"trainer.precision: 'fp16' is not there for sharded models; use 'bf16', {remedy}")
