"""A _train_epoch of a project's own: which settings of the config it alone can follow."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from utils.config.schema import TrainerSettings

# What Trainer does batch by batch.
SETTINGS_OF_EPOCH = (
    "accumulate",
    "clip_norm",
    "clip_value",
    "precision",
    "on_nonfinite",
    "validate_every_steps",
    "images_every_epochs",
    "histograms_every_epochs",
)

# What it does besides, and a BaseTrainer does not.
SETTINGS_OF_TRAINER = (
    *SETTINGS_OF_EPOCH,
    "len_epoch",
    "log_step",
    "channels_last",
    "compile",
    "cudnn_benchmark",
    "limit_train_batches",
    "limit_valid_batches",
    "overfit_batches",
    "sanity_check_batches",
    "detect_anomaly",
)


def left_settings(settings: "TrainerSettings", keys: Iterable[str]) -> str:
    """Text of those of the keys that are set, and not to what a loop does that knows nothing of them; "" if none is.

    settings: TrainerSettings. keys: one of the tuples above, or () for a loop that follows them all.
    """
    fields = type(settings).model_fields
    given = [key for key in keys if getattr(settings, key) not in (fields[key].default, "ignore")]
    return ", ".join(f"trainer.{key}" for key in given)
