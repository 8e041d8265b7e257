"""What a trainer refuses and tries before its first epoch, and which settings a custom loop ignores."""

import contextlib
import copy
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from base.training.batch_stream import num_batches, position_kept
from base.training.checkpoints import evaluated_model
from base.training.evaluate import evaluate
from base.training.loss_inputs import LossWatch, require_two_arguments
from base.training.schedules import require_steps
from base.training.summary import num_samples_of
from utils import MetricTracker, UserError
from utils.distributed.world import part_of_batch, world_size
from utils.rules import nothing_to_validate
from utils.runs.initial_weights import other_meanings
from utils.seed import rng_state, set_rng_state

if TYPE_CHECKING:
    from trainer.trainer import Trainer
    from utils.config.schema import TrainerSettings


def refuse_what_cannot_work(trainer: "Trainer") -> None:
    """Raise UserError where settings, data and model do not fit together."""
    if num_samples_of(trainer.data_loader) == 0:
        raise UserError("data_loader: has no samples to train on")
    if num_batches(trainer.data_loader) == 0:
        raise UserError("data_loader: has no batches; is batch_size larger than the data, with drop_last?")
    _refuse_limits(trainer)
    require_steps(trainer)
    classes = getattr(trainer.data_loader, "classes", None) or ()
    given = trainer.config.get("arch", {}).get("args", {}).get("num_classes")
    if isinstance(given, int) and given < len(classes):
        raise UserError(f"arch.args.num_classes: got {given}, but the data have {len(classes)} classes")
    _refuse_small_parts(trainer.model, trainer.data_loader)
    has_own_loss = any(map(trainer.overrides, ("compute_loss", "_train_batch", "_train_epoch")))
    if trainer.criterion is None and not has_own_loss:
        raise UserError(
            'loss: null is for a trainer with a compute_loss of its own; name a loss, as "torch.nn.CrossEntropyLoss"'
        )
    validates = trainer.do_validation and not trainer.overrides("_valid_epoch")
    if trainer.criterion is not None and (validates or not has_own_loss):
        require_two_arguments(trainer.criterion)
    if trainer.config.get("init_weights") and trainer.config.resume is None:
        state = getattr(trainer.data_loader, "state_dict", dict)()
        for line in other_meanings(trainer.model, trainer.config["init_weights"], state):
            trainer.logger.warning(line)


def _refuse_limits(trainer):
    """Refuse settings that would do nothing: their method is overridden, or validation has no data."""
    settings = trainer.settings
    if trainer.has_own_loop and settings.limit_train_batches is not None:
        raise UserError("trainer.limit_train_batches: is not for a trainer with a _train_epoch of its own")
    if trainer.stream.only_continues and settings.limit_train_batches is not None and settings.epochs > 1:
        raise UserError(
            "trainer.limit_train_batches: data_loader continues from its own position; give the number of batches in "
            "an epoch as trainer.len_epoch instead"
        )
    for key in ("validate_every_steps", "limit_valid_batches", "sanity_check_batches"):
        if trainer.overrides("_valid_epoch") and getattr(settings, key):
            raise UserError(f"trainer.{key}: is not for a trainer with a _valid_epoch of its own")
    share = isinstance(settings.limit_valid_batches, float) and trainer.do_validation
    if share and num_batches(trainer.valid_data_loader) is None:
        raise UserError(
            "trainer.limit_valid_batches: valid_data_loader has no length to take a share of; give a number of batches"
        )
    if settings.sanity_check_batches and not trainer.do_validation:
        raise UserError(nothing_to_validate("sanity_check_batches"))


def _refuse_small_parts(model: torch.nn.Module, loader: Any) -> None:
    """Refuse a last batch so small that BatchNorm1d would get a single sample in one of several processes."""
    if world_size() == 1 or not any(isinstance(module, torch.nn.BatchNorm1d) for module in model.modules()):
        return
    part = part_of_batch(loader, len(loader) - 1)
    assert part is not None  # there are several processes
    if part.total < 2 * world_size():
        raise UserError(
            f"data_loader.args.batch_size: the last batch has {part.total} samples for {world_size()} processes, and "
            "batch norm needs two in each; choose another size"
        )


def try_validation(trainer: "Trainer", batches: int) -> None:
    """Validate on this many batches, without changing any state."""
    loader = copy.copy(trainer.valid_data_loader)  # a copy, so that its worker processes end with it
    tracker = MetricTracker.of(trainer.metric_ftns, trainer.device)
    with left_alone(trainer.model, loader):
        evaluate(
            evaluated_model(trainer),
            trainer.criterion,
            trainer.metric_ftns,
            loader,
            trainer.device,
            tracker,
            trainer.settings.precision,
            limit=batches,
            first_loss=LossWatch("validation"),
        )


@contextlib.contextmanager
def left_alone(model: torch.nn.Module, loader: Any) -> Iterator[None]:
    """Restore random generators, training modes and data positions at the end, unless an error ends the context."""
    modes = {module: module.training for module in model.modules()}
    generator = getattr(loader, "generator", None)
    generator_state = None if generator is None else generator.get_state()
    rng = rng_state()
    with position_kept(loader):
        yield
    set_rng_state(rng)
    if generator is not None:
        generator.set_state(generator_state)
    for module, training in modes.items():
        module.training = training


def has_logged_nothing(trainer: Any) -> bool:
    """Whether a new run has not reached its first log point; False for a custom loop, whose progress is unknown."""
    if trainer.config.resume is not None or world_size() > 1 or getattr(trainer, "has_own_loop", True):
        return False
    return trainer.step <= trainer.log_step


# ---- settings that only the loop of trainer/trainer.py follows

# Followed in Trainer._train_epoch.
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

# Followed by Trainer, but not by a bare BaseTrainer.
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


def warn_of_ignored_settings(trainer: Any, keys: Iterable[str]) -> None:
    """Warn of settings in the config that the trainer's own _train_epoch may not follow.

    keys: one of the tuples above, or () for a loop that follows them all.
    """
    settings: TrainerSettings = trainer.settings
    fields = type(settings).model_fields
    given = [key for key in keys if getattr(settings, key) not in (fields[key].default, "ignore")]
    if given:
        own = "this trainer has a _train_epoch of its own, which alone decides what they do"
        trainer.logger.warning("%s: %s", ", ".join(f"trainer.{key}" for key in given), own)
