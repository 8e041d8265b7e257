"""Seed every random generator, from (seed, epoch) alone; carry their states across a restart."""

import random

import numpy as np

from utils.errors import UserError


def derive_seed(seed, *path):
    """A 63-bit seed mixed from a seed and a path of integers, so that neighbouring seeds share no stream."""
    return int(np.random.SeedSequence((seed, *path)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_everything(seed):
    """Seed python, numpy and torch (all devices). DataLoader workers derive their seeds from torch's."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def make_deterministic():
    """Let torch use only kernels that give the same bits on every run; those that cannot raise an error."""
    import os

    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when CUDA starts
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def rng_state():
    """The states of all generators, as tensors and plain lists that a checkpoint can hold."""
    import torch

    version, internal, gauss = random.getstate()
    name, keys, *position = np.random.get_state()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *position],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state):
    """Put back what rng_state returned. CUDA states are put back where as many devices are present.

    Raises UserError for anything else.
    """
    import torch

    try:
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, *position = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *position))
        torch.set_rng_state(state["torch"])
        if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError(f"the checkpoint does not fit the random generators: {error!r}") from None
