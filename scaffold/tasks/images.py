"""The network for images of a given size, and how long it trains: for --task image-folder and --task arrays."""

import itertools
from typing import Any

from scaffold.tasks.looking import duration

OPTIMIZER = {"type": "AdamW", "args": {"lr": 0.003, "weight_decay": 0.05}, "decay_biases_and_norms": False}

_OPERATIONS = 6e12  # multiplications of a training: about two minutes on two CPU cores
_WIDTH = 32


def convolutions(
    num_train: int, out_features: int, channels: int, height: int, width: int
) -> tuple[dict[str, Any], int, dict[str, int]]:
    """Return the section arch, the batch size and the duration."""
    n_halvings = 1
    while min(height, width) >> (n_halvings + 1) >= 4 and n_halvings < 4:
        n_halvings += 1
    batch_size = 16 if num_train < 500 else 32 if num_train < 5_000 else 64
    sizes = [channels, *(_WIDTH * min(2**i, 4) for i in range(n_halvings + 1))]
    pairs = itertools.pairwise(sizes)
    of_an_image = sum(9 * before * after * (height * width >> 2 * i) for i, (before, after) in enumerate(pairs))
    steps = int(_OPERATIONS / (3 * of_an_image * batch_size))
    args = {"out_features": out_features, "channels": channels, "n_halvings": n_halvings, "width": _WIDTH}
    return {"type": "ConvNet", "args": args}, batch_size, duration(num_train, batch_size, steps, most_epochs=40)
