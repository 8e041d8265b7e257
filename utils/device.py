"""Choose the device that a run computes on: the CPU, or an accelerator of torch's (cuda, mps, xpu, ...)."""

import functools
import logging
import os
import re
from typing import TYPE_CHECKING

from utils.errors import UserError, quantity

if TYPE_CHECKING:
    import torch

KINDS = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "npu", "mlu")
"""The kinds of device that a config can name; "auto" takes whatever accelerator torch has."""

# mps: "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"
# xpu: "Required aspect fp64 is not supported on the device"
_NO_DOUBLES = re.compile(r"(float64|fp64|double).*support|support.*(float64|fp64|double)", re.IGNORECASE | re.DOTALL)


def prepare_device(n_gpu: int, name: str = "auto") -> "tuple[torch.device, list[int]]":
    """Return (torch.device, numbers of the accelerators to use) for at most n_gpu of them.

    name: "cpu"; an accelerator, as "cuda", "cuda:1" or "mps"; or "auto": the CPU if n_gpu is 0, otherwise the
        accelerator if there is one, otherwise the CPU. Raises UserError if the named device does not exist.
    """
    import torch

    kind, found = accelerator()
    if name == "auto":
        name = kind if n_gpu and found else "cpu"
        if n_gpu > 1 and not found:
            logging.getLogger("train").warning("n_gpu: %d asked for, none found; using one CPU", n_gpu)
    if name == "cpu":
        return torch.device("cpu"), []
    asked, _, number = name.partition(":")
    if number and not number.isdecimal():
        raise UserError(f"device: {name!r} given; a number follows the colon, as in 'cuda:1'")
    index, found = int(number or 0), found if asked == kind else 0
    if index >= found:
        raise UserError(
            f"device: {name!r} given, but torch finds {quantity(found, f'{asked.upper()} device')}; use 'auto' or 'cpu'"
        )
    if n_gpu > found:
        logging.getLogger("train").warning("n_gpu: %d asked for, %d found; using those", n_gpu, found)
    last = max(index + 1, min(n_gpu, found)) if index == 0 else index + 1
    torch.accelerator.set_device_index(index)  # what names no number, such as .cuda() in a model, means this one
    return torch.device(f"{kind}:{index}"), list(range(index, last))


def accelerator() -> tuple[str, int]:
    """Return (kind of accelerator that this torch is built for, how many there are); ("cpu", 0) if there is none."""
    import torch

    found = torch.accelerator.current_accelerator()
    return ("cpu", 0) if found is None else (found.type, torch.accelerator.device_count())


def chosen_device(text: str) -> str:
    """Return the device that -d means: a name, or "cuda" after hiding all GPUs but the listed ones from torch."""
    if re.fullmatch(r"\d+(,\d+)*", text):
        os.environ["CUDA_VISIBLE_DEVICES"] = text  # read when torch first looks for GPUs
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # the numbers that nvidia-smi shows
        return "cuda"
    if text == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # so that a script that asks torch itself finds none
    if text == "auto" or text.partition(":")[0] in KINDS:
        return text
    raise UserError(f"-d {text}: give GPU numbers, as in -d 2,3, or auto, cpu, cuda or mps")


def copies_ahead(device: "torch.device") -> bool:
    """Whether copies from pinned memory to the device need not wait for it, and are safe."""
    return device.type not in ("cpu", "mps", "meta")


def copied_ahead(tensor: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """Return a tensor of the CPU on the device, without waiting for the device where that is safe."""
    ahead = copies_ahead(device)
    return (tensor.pin_memory() if ahead else tensor).to(device, non_blocking=ahead)


def exact_float(device: "torch.device") -> "torch.dtype":
    """Return the dtype for sums that have to be exact: double precision, or single where the device has no other."""
    import torch

    return torch.float64 if _has_doubles(device) else torch.float32


def held_dtype(device: "torch.device", dtype: "torch.dtype") -> "torch.dtype":
    """Return the dtype in which the device holds such numbers: of double precision, single where it has no other."""
    import torch

    single = {torch.float64: torch.float32, torch.complex128: torch.complex64}.get(dtype)
    return dtype if single is None or _has_doubles(device) else single


@functools.cache
def _has_doubles(device):
    """Whether the device computes in double precision; mps and some of Intel's GPUs do not."""
    import torch

    try:
        torch.zeros((), dtype=torch.float64, device=device).add_(1)
    except (TypeError, RuntimeError) as error:
        if not _NO_DOUBLES.search(str(error)):  # such as one for a lack of memory, which says nothing of the device
            raise
        return False
    return True
