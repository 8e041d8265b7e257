"""Read and write weights as .safetensors files, for which the package safetensors is needed."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from utils.errors import CheckpointError
from utils.files import replacing

_MOST_TENSORS = 200_000  # an entry of a few bytes makes an object of hundreds


def read_safetensors(path: Path) -> dict[str, Any]:
    """Return {"state_dict": {name: tensor}}, and the "config" if the file has one. Raises CheckpointError."""
    _require_package(path)
    from safetensors import SafetensorError, safe_open

    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path}: not a file")
        with safe_open(path, framework="pt") as file:
            if len(file.keys()) > _MOST_TENSORS:
                raise CheckpointError(f"{path}: refused: it holds more than {_MOST_TENSORS:,} tensors")
            notes = file.metadata() or {}
            state = {"state_dict": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118
        return state | ({"config": json.loads(notes["config"])} if "config" in notes else {})
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the weights: {error.strerror or error}") from None
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file: {error}") from None


def write_safetensors(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint's weights, with its config in the metadata. Raises CheckpointError."""
    _require_package(path)
    import torch
    from safetensors.torch import save

    weights = checkpoint["state_dict"]
    odd = [name for name, value in weights.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise CheckpointError(f"{path}: {odd[0]} is not a tensor, and a safetensors file holds nothing else")
    # copies, since tied weights share memory and channels_last ones have another memory order
    weights = {name: value.clone(memory_format=torch.contiguous_format) for name, value in weights.items()}
    notes = {"config": json.dumps(checkpoint["config"])} if "config" in checkpoint else {}
    with replacing(path, "the weights", CheckpointError) as file:
        file.write(save(weights, metadata={"format": "pt", **notes}))


def _require_package(path):
    if find_spec("safetensors") is None:
        raise CheckpointError(f"{path}: needs the package safetensors; install it: pip install safetensors")
