"""What the config's "parallel" section names: how the processes of a run train one model together."""

import torch

from utils.distributed import world_size
from utils.errors import UserError


def parallelize(model, config, device):
    """The model as several processes train it, each its part of every batch; in a world of one the model itself.

    config: with "parallel", by default {"type": "ddp"}. To be called before the optimizer is made of the parameters.
    """
    if world_size() == 1:
        return model
    if config["trainer"].get("channels_last"):
        model = model.to(memory_format=torch.channels_last)  # before memory for gradients is laid out
    section = config.get("parallel") or {}
    return config.build("parallel", {"type": "ddp", **section}, model, device)


def ddp(
    model,
    device,
    *,
    sync_batchnorm: bool = False,
    find_unused_parameters: bool = False,
    bucket_mb: float = 25.0,
):
    """A copy in each process, which exchange gradients during the backward pass.

    sync_batchnorm: statistics of batch norm over the whole batch, not each process's part of it; on GPUs only.
    find_unused_parameters: needed if some parameters have no part in some steps, as with Freeze; slower. bucket_mb: how
    much of the gradients travels together. Source: Li et al., PyTorch Distributed, 2020.
    """
    if bucket_mb <= 0:
        raise UserError(f"bucket_mb: got {bucket_mb}; it should be above 0")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return model
    model = with_sync_batchnorm(model, device) if sync_batchnorm else model
    wrapped = torch.nn.parallel.DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=find_unused_parameters,
        bucket_cap_mb=bucket_mb,
        gradient_as_bucket_view=True,
    )
    if not find_unused_parameters:  # with it, torch leaves them as they are
        _settle_buckets(wrapped)
    return wrapped


def _settle_buckets(wrapped):
    """Have gradients laid out for good before the first step: from the last layer's to the first one's.

    Torch does it after the first step of each process, by the order in which gradients came. The sums of three or more
    processes round differently by where in a bucket a gradient lies, so a resumed run's first step would differ.
    """
    model = wrapped.module
    model.forward = lambda: sum(p.sum().real * 0 for p in model.parameters() if p.requires_grad)
    try:
        for _ in range(2):  # the second forward pass takes notice of what the first backward pass has shown
            wrapped().backward()
    finally:
        del model.forward
    wrapped.zero_grad()


def needs_all_gradients(model):
    """Whether every step must give every parameter that was trained at the beginning a gradient."""
    return isinstance(model, torch.nn.parallel.DistributedDataParallel) and not model.find_unused_parameters


def with_sync_batchnorm(model, device):
    """The model with layers of batch norm that take their statistics over all processes."""
    if device.type != "cuda":
        raise UserError(f"sync_batchnorm: torch has it for GPUs only, and this run is on {device}; leave it out")
    return torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)


def exchange_gradients(model, wanted):
    """Have the next backward pass of the model exchange gradients between the processes, or only add them up here."""
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        model.require_backward_grad_sync = wanted
