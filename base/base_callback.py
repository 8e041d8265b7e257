"""BaseCallback: something that happens at moments of a training run, named in the config's "callbacks"."""

import inspect
import math
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from utils.distributed.world import broadcast
from utils.errors import UserError

if TYPE_CHECKING:
    from base.base_trainer import BaseTrainer

HOOKS = ("on_train_start", "on_step_end", "on_valid_end", "on_epoch_end", "on_error", "on_train_end")


class BaseCallback:
    """Watches, reports, stops or saves at moments. A subclass overrides the hooks that it wants; others cost nothing.

    trainer: the BaseTrainer at work, with its model, optimizer, epoch, step, logger and writer. trainer.stop(reason)
    ends the run, trainer.save_as(name) has what is saved next saved under that name too. What must survive a restart
    goes into state_dict.
    """

    def check(self, trainer: "BaseTrainer") -> None:
        """Before the run has a folder: raise UserError for what cannot work.

        The trainer has its model, optimizer and settings by then; our Trainer has its loaders, too.
        """

    def on_train_start(self, trainer: "BaseTrainer") -> None:
        """Before the first batch of this process, after a resume has put everything back."""

    def on_step_end(self, trainer: "BaseTrainer") -> None:
        """After each batch, whether or not it brought an update; not in a _train_epoch of a project's own."""

    def on_valid_end(self, trainer: "BaseTrainer", log: dict[str, Any]) -> None:
        """After each validation, within epochs too. log: {name: number}, as {"val_loss": 0.1}."""

    def on_epoch_end(self, trainer: "BaseTrainer", log: dict[str, Any]) -> None:
        """After each epoch and before it is saved. log: {name: number} of it all; what is added is logged too."""

    def on_error(self, trainer: "BaseTrainer", error: BaseException) -> None:
        """When an error ends the run, before it is raised."""

    def on_train_end(self, trainer: "BaseTrainer") -> None:
        """After the last epoch, or the one in which training was stopped.

        A run that was killed before all callbacks were done with it calls them all again when it is resumed.
        """

    def state_dict(self) -> dict[str, Any]:
        """What must survive a restart: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned."""


class CallbackList:
    """Callbacks, called in the order of the list: the config's, whose errors say so, and after them the standard ones.

    Its states go by the callbacks' class names.
    """

    def __init__(self, callbacks: Iterable[BaseCallback] = (), standard: Iterable[BaseCallback] = ()) -> None:
        self.callbacks = []
        self._called = {hook: [] for hook in ("check", *HOOKS)}
        for i, callback in enumerate(callbacks):
            self.add(callback, f"callbacks.{i}")
        for callback in standard:
            self.add(callback)

    def add(self, callback: BaseCallback, place: str = "") -> None:
        """Call this callback too, after the others. place: its path in the config, for errors."""
        self.callbacks.append(callback)
        for hook, called in self._called.items():
            if _overrides(callback, hook):
                called.append((place, getattr(callback, hook)))

    def call(self, hook: str, *arguments: Any) -> None:
        """Call the hook of each callback that has one."""
        for place, method in self._called[hook]:
            _call(place, method, arguments)

    def call_all(self, hook: str, *arguments: Any) -> list[BaseException]:
        """Call the hook of each callback that has one, also after an error of one of them; returns the errors."""
        errors = []
        for place, method in self._called[hook]:
            try:
                _call(place, method, arguments)
            except (Exception, SystemExit) as error:
                errors.append(error)
        return errors

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """{name: state} of each."""
        return {name: callback.state_dict() for name, callback in self._named().items()}

    def load_state_dict(self, states: dict[str, dict[str, Any]]) -> None:
        """Restore the states; a callback without one starts from its beginning."""
        for name, callback in self._named().items():
            if name in states:
                callback.load_state_dict(states[name])

    def _named(self):
        """{class name: callback}, with a number behind it from the second of a class on."""
        seen, named = Counter(), {}
        for callback in self.callbacks:
            name = type(callback).__name__
            seen[name] += 1
            named[name if seen[name] == 1 else f"{name}.{seen[name]}"] = callback
        return named


def call_at_epoch_end(
    callbacks: CallbackList, trainer: "BaseTrainer", log: dict[str, Any]
) -> tuple[dict[str, Any], BaseException | None]:
    """(the epoch's log with what its callbacks have added, the first error of one of them or None).

    TensorBoard and trackers are shown what was added, as epoch_<name>. Of several processes the log is the first one's.
    An error, which may be the writer's too, keeps no other callback from its part, so that the epoch can be saved.
    """
    log = broadcast(as_numbers(log))  # pyright: ignore[reportAssignmentType]
    for name in (key for key, value in log.items() if isinstance(value, float) and not math.isfinite(value)):
        trainer.logger.warning("epoch %d: %s is %s", log["epoch"], name, log[name])
    before = set(log)
    errors = callbacks.call_all("on_epoch_end", trainer, log)
    log = as_numbers({name: value for name, value in log.items() if isinstance(name, str)} | {"epoch": trainer.epoch})
    added = {name: log[name] for name in log if name not in before and isinstance(log[name], (int, float))}
    try:
        _show(added, trainer.writer, trainer.step or trainer.epoch)  # a loop of a project's own may count no batches
    except Exception as error:
        errors.append(error)
    for error in errors[1:]:
        trainer.logger.error("at the end of epoch %d: %s: %s", trainer.epoch, type(error).__name__, error)
    return log, next(iter(errors), None)


def _show(values, writer, step):
    for name, value in values.items():
        writer.set_step(step, "valid" if name.startswith("val_") else "train", timed=False)
        writer.add_scalar(f"epoch_{name.removeprefix('val_')}", float(value))


def as_numbers(log: dict[str, Any]) -> dict[str, Any]:
    """The log with 0-dim tensors, on any device, as numbers."""
    return {key: value.item() if getattr(value, "ndim", None) == 0 else value for key, value in log.items()}


def _call(place, method, arguments):
    """Call a hook. A UserError of it says where in the config the callback stands."""
    try:
        method(*arguments)
    except UserError as error:
        if type(error) is not UserError or not place:
            raise
        names_it = str(error).partition(":")[0] in inspect.signature(type(method.__self__)).parameters
        raise UserError(f"{place}.args.{error}" if names_it else f"{place}: {error}") from error


def _overrides(callback, hook):
    return getattr(type(callback), hook, None) is not getattr(BaseCallback, hook)
