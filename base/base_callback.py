"""BaseCallback: code that runs at set points of training, listed in the config's "callbacks"."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from base.training.nonfinite import validation_fault
from utils.distributed.world import broadcast
from utils.errors import UserError
from utils.signatures import signature

if TYPE_CHECKING:
    from base.base_trainer import BaseTrainer

HOOKS = ("on_train_start", "on_step_end", "on_valid_end", "on_epoch_end", "on_error", "on_train_end")


class BaseCallback:
    """Watches, reports, stops or saves. A subclass overrides the hooks it needs; the others cost nothing.

    Each hook gets the BaseTrainer, with its model, optimizer, epoch, step, logger and writer. trainer.stop(reason) ends
    the run; trainer.save_as(name) saves the next checkpoint under that name too. State that must survive a restart
    goes into state_dict.
    """

    def check(self, trainer: "BaseTrainer") -> None:
        """Called before the run has a folder; raise UserError for what cannot work.

        The trainer has its model, optimizer and settings, and its loaders if it is a Trainer.
        """

    def on_train_start(self, trainer: "BaseTrainer") -> None:
        """Called before the first batch of this process, after a resumed run is restored."""

    def on_step_end(self, trainer: "BaseTrainer") -> None:
        """Called after each batch, with or without an optimizer step; a custom _train_epoch does not call it."""

    def on_valid_end(self, trainer: "BaseTrainer", log: dict[str, Any]) -> None:
        """Called after each validation, within epochs too. log: {name: number}, as {"val_loss": 0.1}."""

    def on_epoch_end(self, trainer: "BaseTrainer", log: dict[str, Any]) -> None:
        """Called after each epoch, before it is saved. log: {name: number}; entries that a hook adds are logged too."""

    def on_error(self, trainer: "BaseTrainer", error: BaseException) -> None:
        """Called when an error ends the run, before it is raised."""

    def on_train_end(self, trainer: "BaseTrainer") -> None:
        """Called after the last epoch, or the one in which training was stopped.

        If the run is killed before all callbacks have returned, it calls all of them again when it is resumed.
        """

    def state_dict(self) -> dict[str, Any]:
        """The state to resume from: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned."""


class CallbackList:
    """The callbacks of the config, called in its order. Their states are stored by class name."""

    def __init__(self, callbacks: Iterable[BaseCallback] = ()) -> None:
        self.callbacks = []
        self._called = {hook: [] for hook in ("check", *HOOKS)}
        for i, callback in enumerate(callbacks):
            self.add(callback, f"callbacks.{i}")

    def add(self, callback: BaseCallback, place: str = "") -> None:
        """Add a callback after the others. place: its path in the config, for errors."""
        self.callbacks.append(callback)
        for hook, called in self._called.items():
            if _overrides(callback, hook):
                called.append((place, getattr(callback, hook)))

    def call(self, hook: str, *arguments: Any) -> None:
        """Call the hook of each callback that overrides it."""
        for place, method in self._called[hook]:
            _call(place, method, arguments)

    def call_all(self, hook: str, *arguments: Any) -> list[BaseException]:
        """Call the hook of each callback that overrides it, even after one has failed; returns the errors."""
        errors = []
        for place, method in self._called[hook]:
            try:
                _call(place, method, arguments)
            except (Exception, SystemExit) as error:
                errors.append(error)
        return errors

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """{class name: state of the callback}."""
        return {name: callback.state_dict() for name, callback in self._named().items()}

    def load_state_dict(self, states: dict[str, dict[str, Any]]) -> None:
        """Restore the states; a callback without one keeps its initial state."""
        for name, callback in self._named().items():
            if name in states:
                callback.load_state_dict(states[name])

    def _named(self):
        """{class name: callback}; from the second of a class on, with a number, as "Freeze.2"."""
        seen, named = Counter(), {}
        for callback in self.callbacks:
            name = type(callback).__name__
            seen[name] += 1
            named[name if seen[name] == 1 else f"{name}.{seen[name]}"] = callback
        return named


def call_at_epoch_end(
    callbacks: CallbackList, trainer: "BaseTrainer", log: dict[str, Any]
) -> tuple[dict[str, Any], BaseException | None]:
    """Call on_epoch_end; returns (the log with the entries that callbacks added, the first error or None).

    The log's numbers are written to TensorBoard and the trackers. Of several processes, the first one's log counts.
    After an error the other callbacks are still called, so that the epoch can be saved.
    """
    log = broadcast(as_numbers(log))
    wrong = [name for name, value in log.items() if isinstance(value, float) and not math.isfinite(value)]
    at_start = log["epoch"] == trainer.start_epoch and any(name.startswith("val_") for name in wrong)
    cause = validation_fault(getattr(trainer, "valid_data_loader", None)) if at_start else ""  # data do not change
    for name in wrong:
        trainer.logger.warning("epoch %d: %s is %s%s", log["epoch"], name, log[name], cause)
    errors = callbacks.call_all("on_epoch_end", trainer, log)
    log = as_numbers({name: value for name, value in log.items() if isinstance(name, str)} | {"epoch": trainer.epoch})
    try:
        _show(log, trainer)
    except Exception as error:
        errors.append(error)
    for error in errors[1:]:
        trainer.logger.error("at the end of epoch %d: %s: %s", trainer.epoch, type(error).__name__, error)
    return log, next(iter(errors), None)


def _show(log, trainer):
    # a loop of its own may not count its batches
    step = trainer.epoch * getattr(trainer, "len_epoch", 0) or trainer.step or trainer.epoch
    numbers = {name: float(value) for name, value in log.items() if isinstance(value, (int, float)) and name != "epoch"}
    trainer.writer.add_values(numbers, step)


def as_numbers(log: dict[str, Any]) -> dict[str, Any]:
    """The log with its 0-dim tensors converted to numbers."""
    return {key: value.item() if getattr(value, "ndim", None) == 0 else value for key, value in log.items()}


def _call(place, method, arguments):
    """Call a hook; a UserError that it raises gets the callback's place in the config."""
    try:
        method(*arguments)
    except UserError as error:
        if type(error) is not UserError or not place:
            raise
        argument = str(error).partition(":")[0].partition(".")[0]
        names_it = argument in signature(type(method.__self__)).parameters
        raise UserError(f"{place}.args.{error}" if names_it else f"{place}: {error}") from error


def _overrides(callback, hook):
    return getattr(type(callback), hook, None) is not getattr(BaseCallback, hook)
