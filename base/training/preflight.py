"""What a trainer refuses, tries and logs before its first epoch, and which settings a custom loop ignores."""

import contextlib
import copy
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from base.training.batch_stream import num_batches
from base.training.checkpoints import evaluated_model
from base.training.counted import averaged_over
from base.training.data_summary import data_lines, num_samples_of, single_batch_warning
from base.training.evaluate import evaluate
from base.training.loss_inputs import require_two_arguments
from logger.logger import IN_FILE_ONLY
from utils import MetricTracker, UserError
from utils.distributed.world import is_main, part_of, part_of_batch, world_size
from utils.files import write_whole
from utils.rules import nothing_to_validate
from utils.runs.schedule_state import unfit_length
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
    total = getattr(trainer.lr_scheduler, "total_steps", None)
    steps, unit = _schedule_steps(trainer)
    if total is not None and steps > total:
        raise UserError(f"lr_scheduler.args.total_steps: got {total}, but the run has {steps} {unit}; give {steps}")
    classes = getattr(trainer.data_loader, "classes", None) or ()
    given = trainer.config.get("arch", {}).get("args", {}).get("num_classes")
    if isinstance(given, int) and given < len(classes):
        raise UserError(f"arch.args.num_classes: got {given}, but the data have {len(classes)} classes")
    _refuse_small_parts(trainer.model, trainer.data_loader)
    has_own_loss = any(map(trainer.overrides, ("compute_loss", "_train_batch", "_train_epoch")))
    if not has_own_loss or (trainer.do_validation and not trainer.overrides("_valid_epoch")):
        require_two_arguments(trainer.criterion)


def _refuse_limits(trainer):
    """Refuse settings that would do nothing: their method is overridden, or validation has no data."""
    settings = trainer.settings
    if trainer.has_own_loop and settings.limit_train_batches is not None:
        raise UserError("trainer.limit_train_batches: is not for a trainer with a _train_epoch of its own")
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


def _schedule_steps(trainer):
    """(number of steps of the run's schedule, their unit)."""
    if trainer.schedule_interval == "step":
        return trainer.epochs * math.ceil(trainer.len_epoch / trainer.settings.accumulate), "optimizer steps"
    return trainer.epochs, "epochs"


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
        )


@contextlib.contextmanager
def left_alone(model: torch.nn.Module, loader: Any) -> Iterator[None]:
    """Restore random generators, training modes and data positions at the end, unless an error ends the context."""
    modes = {module: module.training for module in model.modules()}
    sources = loader, getattr(loader, "dataset", None)
    stateful: list[Any] = [source for source in sources if hasattr(source, "load_state_dict")]
    positions = [copy.deepcopy(source.state_dict()) for source in stateful]
    generator = getattr(loader, "generator", None)
    generator_state = None if generator is None else generator.get_state()
    rng = rng_state()
    yield
    set_rng_state(rng)
    if generator is not None:
        generator.set_state(generator_state)
    for source, position in zip(stateful, positions, strict=True):
        source.load_state_dict(position)
    for module, training in modes.items():
        module.training = training


# ---- what is logged


def describe_run(trainer: "Trainer", summary: str) -> None:
    """Log what is trained, where and how, and which settings are unusual. summary: of the model, as text."""
    logger, settings = trainer.logger, trainer.settings
    model, _, layers = summary.partition("\n")
    logger.info("run %s on %s, seed %d", trainer.checkpoint_dir, trainer.device, trainer.config.settings.seed)
    logger.info("%s%s", model, "; its layers are in info.log" if layers and not trainer.config.keeps_nothing else "")
    if layers:
        logger.info("%s", layers, extra=IN_FILE_ONLY)
    if is_main():
        write_whole(f"{summary}\n", trainer.config.log_dir / "model.txt", "the table of layers")
    for line in [*data_lines(trainer), *_batch_lines(trainer.data_loader, settings.accumulate)]:
        logger.info("%s", line)
    if line := averaged_over(trainer):
        logger.info("%s", line)
    if (warning := single_batch_warning(trainer)) and not trainer.config.keeps_nothing:
        logger.warning("%s", warning)
    if not trainer.resumes_within_epochs and not trainer.has_own_loop:
        logger.warning("data_loader cannot report its position: a run stopped within an epoch repeats that epoch")
    if settings.compile == "dynamic":
        what = "a resumed run may differ in the last bits, since kernels are made for the first shape they see"
        logger.warning('trainer.compile: "dynamic": %s', what)
    steps, _ = _schedule_steps(trainer)
    for name, scheduler in getattr(trainer.lr_scheduler, "by_name", {"": trainer.lr_scheduler}).items():
        if unfit := unfit_length(scheduler, steps - 1):  # no batch uses the rate that the last step sets
            logger.warning("%s: %s", f"lr_scheduler.{name}".rstrip("."), unfit)


def has_logged_nothing(trainer: Any) -> bool:
    """Whether a run of no checkpoint has not come to its first line of progress; False for a loop of one's own."""
    if trainer.config.resume is not None or world_size() > 1 or getattr(trainer, "has_own_loop", True):
        return False
    return trainer.step <= trainer.log_step


def _batch_lines(loader, accumulate):
    """Lines on any split of batches between processes, and on any accumulation."""
    size, lines = getattr(loader, "batch_size", None), []
    if size is None:
        return lines
    parts = [part_of(size, number).own for number in range(world_size())]
    if len(parts) > 1:
        each = " or ".join(map(str, dict.fromkeys(parts)))
        lines.append(f"batch_size {size}: {each} samples in each of {len(parts)} processes")
    if accumulate > 1:
        lines.append(f"an optimizer step takes {accumulate} batches, {accumulate * size} samples")
    return lines


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
