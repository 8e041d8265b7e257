"""A _train_epoch of a project's own: which settings of the config are left to it."""

import inspect
import itertools

# what a trainer sees to batch by batch, and what Trainer does before the first one
LEFT_TO_EPOCH = (
    "accumulate",
    "clip_norm",
    "clip_value",
    "precision",
    "on_nonfinite",
    "validate_every_steps",
    "images_every_epochs",
    "histograms_every_epochs",
)
_LEFT_TO_ALL = (
    *LEFT_TO_EPOCH,
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


def has_own_loop(trainer_class, framework_class):
    """Whether the class trains by a _train_epoch that neither is the framework's nor calls the one it overrides."""
    above = itertools.takewhile(lambda each: each is not framework_class, trainer_class.__mro__)
    loops = [vars(each)["_train_epoch"] for each in above if "_train_epoch" in vars(each)]
    return any("_train_epoch" not in _names_in(getattr(inspect.unwrap(loop), "__code__", None)) for loop in loops)


def _names_in(code):
    """Names that a function's code, and that of functions within it, looks up."""
    if not hasattr(code, "co_names"):
        return set()
    return set(code.co_names).union(*map(_names_in, code.co_consts))


def warn_of_own_loop(trainer):
    """Name the settings given in the config that only the trainer's own _train_epoch can follow, in a line of the log.

    They are those of its attribute left_to_loop, or if it has none, all that BaseTrainer does not see to.
    """
    fields = type(trainer.settings).model_fields
    given = [
        f"trainer.{key}"
        for key in getattr(trainer, "left_to_loop", _LEFT_TO_ALL)
        if getattr(trainer.settings, key) not in (fields[key].default, "ignore")  # which is done by leaving it
    ]
    if given:
        own = "this trainer has a _train_epoch of its own, which alone decides what they do"
        trainer.logger.warning("%s: %s", ", ".join(given), own)
