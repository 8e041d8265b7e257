"""Seed all random generators, and save and restore their states."""

import contextlib
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.device import accelerator
from utils.errors import UserError
from utils.untrusted import as_count, as_list, as_number

if TYPE_CHECKING:
    from utils.config.schema import RunSettings

_TABLE = 624  # numbers that the Mersenne Twister generates at a time


def derive_seed(seed: int, *path: int) -> int:
    """Return a 63-bit seed mixed from a seed and a path of integers; neighbouring seeds share no stream."""
    return int(np.random.SeedSequence((seed, *path)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on all devices. DataLoader workers derive their seeds from torch's."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw random numbers of this seed; all generators are as before at the end."""
    before = rng_state()
    seed_everything(seed)
    try:
        yield
    finally:
        set_rng_state(before)


def seed_run(settings: "RunSettings") -> None:
    """Seed everything and choose kernels, as "seed" and "deterministic" in the config say."""
    seed_everything(settings.seed)
    if settings.deterministic:
        make_deterministic()


def make_deterministic() -> None:
    """Let torch use only kernels that give the same bits on every run. Operations without one raise an error."""
    import os

    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when CUDA starts
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def rng_state() -> dict[str, Any]:
    """Return the states of all generators, as tensors and plain lists that a checkpoint can hold."""
    import torch

    version, internal, gauss = random.getstate()
    state: Any = np.random.get_state()
    name, keys, *position = state
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *position],
        "torch": torch.get_rng_state(),
        **_accelerator_states(),
    }


def set_rng_state(state: Any) -> None:
    """Restore what rng_state returned; the states of accelerators only if there are some of the same kind.

    That of the current one goes to the one that is current now, whatever their numbers are. Raises UserError for
    anything else.
    """
    import torch

    try:
        python, numpy = _python_state(*state["python"]), _numpy_state(*state["numpy"])
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(state["torch"])
        kind, found = accelerator()
        states = state.get(kind, state["cuda"])
        if found and states:
            current = torch.accelerator.current_device_index()
            own = as_count(state.get("current", min(current, len(states) - 1)))
            for index, one in {**dict(enumerate(states[:found])), current: states[own]}.items():
                torch.get_device_module(kind).set_rng_state(one, *([] if kind == "mps" else [f"{kind}:{index}"]))
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the checkpoint does not fit the random generators: {reason}") from None


def _accelerator_states():
    """{kind of accelerator: state of each, "current": number of the one in use}, "cuda" is always there.

    It was so in the first checkpoints, which have no "current".
    """
    import torch

    kind, found = accelerator()
    if not found:
        return {"cuda": []}
    module = torch.get_device_module(kind)
    devices = [()] if kind == "mps" else [(f"{kind}:{index}",) for index in range(found)]
    states = [module.get_rng_state(*device) for device in devices]
    return {"cuda": [], kind: states, "current": torch.accelerator.current_device_index()}


def _python_state(version, internal, gauss):
    """The argument of random.setstate, which checks all of it except the number that gauss() has stored."""
    if gauss is not None:
        as_number(gauss)
    return version, tuple(as_list(internal)), gauss


def _numpy_state(name, keys, position, has_gauss, gauss):
    """The argument of np.random.set_state, which does not check the position and would read outside the keys."""
    if name != "MT19937" or keys.shape != (_TABLE,) or not bool(((keys >= 0) & (keys < 2**32)).all()):
        raise ValueError(f"NumPy's generator is not an MT19937 with {_TABLE} keys")
    if as_count(position) > _TABLE:
        raise ValueError(f"NumPy's generator is at {position} of {_TABLE} keys")
    return name, keys.numpy().astype(np.uint32), position, as_count(has_gauss) > 0, as_number(gauss)
