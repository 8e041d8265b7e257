"""Choose the device that a run computes on."""

import logging
import os
import re
from typing import TYPE_CHECKING

from utils.errors import UserError

if TYPE_CHECKING:
    import torch


def prepare_device(n_gpu: int, name: str = "auto") -> "tuple[torch.device, list[int]]":
    """Return (torch.device, ids of the GPUs to use) for at most n_gpu GPUs.

    name: "cpu", "cuda", "cuda:1" or "mps"; "auto" is the CPU if n_gpu is 0, otherwise CUDA if there is a GPU, then
    Apple's MPS, then the CPU. Raises UserError if the named device does not exist.
    """
    import torch

    num_gpus = torch.cuda.device_count()
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        name = "cpu" if n_gpu == 0 else "cuda" if num_gpus else "mps" if has_mps else "cpu"
        if n_gpu > 1 and not num_gpus:
            logging.getLogger("train").warning("n_gpu: %d asked for, none found; using one %s", n_gpu, name.upper())
    if name == "mps" and not has_mps:
        raise UserError("device: 'mps' given, but torch finds no Apple GPU; use 'auto' or 'cpu'")
    if not name.startswith("cuda"):
        return torch.device(name), []
    index = int(name.partition(":")[2] or 0)
    if index >= num_gpus:
        raise UserError(f"device: {name!r} given, but torch finds {num_gpus} CUDA devices; use 'auto' or 'cpu'")
    if n_gpu > num_gpus:
        logging.getLogger("train").warning("n_gpu: %d asked for, %d found; using those", n_gpu, num_gpus)
    last = max(index + 1, min(n_gpu, num_gpus)) if index == 0 else index + 1
    return torch.device(f"cuda:{index}"), list(range(index, last))


def chosen_device(text: str) -> str:
    """Return the device that -d means: a name, or "cuda" after hiding all GPUs but the listed ones from torch."""
    if re.fullmatch(r"\d+(,\d+)*", text):
        os.environ["CUDA_VISIBLE_DEVICES"] = text  # read when torch first looks for GPUs
        return "cuda"
    if text == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # so that a script that asks torch itself finds none
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        return text
    raise UserError(f"-d {text}: give GPU numbers, as in -d 2,3, or auto, cpu, cuda or mps")
