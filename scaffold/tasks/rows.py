"""The network for rows of numbers and categories, and how it trains: for --task table and --task arrays."""

from collections.abc import Sequence
from typing import Any

from scaffold.tasks.looking import duration

ABOUT = "a linear model plus a small network, so that it finds simple relations as surely as others"
OPTIMIZER = {"type": "AdamW", "args": {"lr": 0.001, "weight_decay": 0.1}, "decay_biases_and_norms": False}

_STEPS = 4_000  # seconds on two CPU cores
_MOST_EPOCHS = 100


def table_net(
    num_train: int, out_features: int, n_numeric: int, codes: Sequence[int] = ()
) -> tuple[dict[str, Any], int, dict[str, int]]:
    """Return the section arch, the batch size and the duration. Fewer rows get a narrower network and smaller batches.

    On 16 splits each of wine, breast cancer and diabetes, width 32 and dropout 0.3 came closest to linear models.
    """
    width = 32 if num_train < 1_000 else 64 if num_train < 10_000 else 128
    batch_size = 16 if num_train < 500 else 32 if num_train < 5_000 else 128 if num_train < 50_000 else 512
    args = {"n_numeric": n_numeric, "codes": list(codes), "out_features": out_features, "width": width, "dropout": 0.3}
    return {"type": "TableNet", "args": args}, batch_size, duration(num_train, batch_size, _STEPS, _MOST_EPOCHS)
