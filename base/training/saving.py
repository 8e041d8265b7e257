"""When a run saves, and when it ends early: trainer.monitor, early_stop, save_period, save_every_..., and signals."""

import math
import time
from typing import TYPE_CHECKING, Any

from utils.batches import DataError
from utils.distributed.world import agreement, any_of, world_size
from utils.errors import UserError, quantity
from utils.runs.checkpoint import BEST_MODEL, CheckpointError, checkpoint_name

if TYPE_CHECKING:
    from base.base_trainer import BaseTrainer


class Stopped(Exception):
    """Raised to end training within an epoch, after a save."""


class SavePoints:
    """Saves a trainer at the end of an epoch, between two batches and on an error; and stops it.

    trainer: the BaseTrainer; its monitor, mnt_..., early_stop, save_period and settings say when to save.
    """

    def __init__(self, trainer: "BaseTrainer") -> None:
        self.trainer = trainer
        self._agreement = agreement()
        self._has_begun = False  # whether train() has reached the first epoch

    def check(self) -> None:
        """Raise UserError if the trainer has trained already, or cannot save where the config asks for it."""
        trainer, settings = self.trainer, self.trainer.settings
        if self._has_begun:
            within = f"{quantity(trainer.batches_done, 'batch')} of epoch {trainer.epoch}"
            place = within if trainer.batches_done else f"epoch {trainer.epoch - 1}"
            where = f'ConfigParser.from_file(<config>, resume="{trainer.checkpoint_dir}")'
            to_continue = f"; {where} continues its run" if trainer.saver.newest else ""
            raise UserError(f"this trainer has trained already, until {place}; build another one{to_continue}")
        if (settings.save_every_steps or settings.save_every_minutes) and not trainer.resumes_within_epochs:
            own = getattr(trainer, "has_own_loop", False)
            remedy = "give the loader set_epoch(epoch, start_batch) or state_dict"
            if own:
                remedy = "see docs/runs.md, Your own loop or loader"
            what = "a trainer with a _train_epoch of its own" if own else "this trainer with this data_loader"
            raise UserError(
                f"trainer.save_every_steps, trainer.save_every_minutes: {what} cannot resume within an epoch; leave "
                f"them out, or {remedy}"
            )

    def stop_if_over(self) -> None:
        """Stop a resumed run that has trained all its epochs, or was ended by early_stop."""
        trainer = self.trainer
        if trainer.start_epoch > trainer.epochs:
            done = f"epoch {trainer.start_epoch - 1} is done and trainer.epochs is {trainer.epochs}"
            trainer.stop(f"{done}; train more epochs with --set trainer.epochs=...")
        if trainer.not_improved_count >= trainer.early_stop:
            trainer.stop(f"{self._no_better()}; train on with --set trainer.early_stop=...")

    def begin(self) -> None:
        """Start the rounds in which the processes agree on saves and stops; a custom loop may do without."""
        self._agreement, self._has_begun = agreement(), True

    def end(self) -> None:
        """Finish the last round with the other processes."""
        self._agreement.close()

    def ask_at_epoch_end(self, log: dict[str, Any]) -> None:
        """Ask for the checkpoints of this epoch; stop the run if it has not improved for too long.

        log: {name: number} of the epoch. Whichever process ends the run, all of them save this epoch.
        """
        trainer = self.trainer
        logs_monitored = trainer.mnt_metric in log
        if self._keep_if_best(log):
            trainer.not_improved_count = 0
        elif logs_monitored:
            trainer.not_improved_count += 1
        if trainer.not_improved_count >= trainer.early_stop:
            trainer.stop(self._no_better())
        trainer.stop_reason = any_of(trainer.stop_reason)
        last = trainer.epoch >= trainer.epochs or trainer.stop_reason is not None
        ends = trainer.monitor != "off" and not logs_monitored  # require_monitored raises, once the epoch is saved
        if trainer.epoch % trainer.save_period == 0 or last or ends:
            trainer.save_as(checkpoint_name(trainer.epoch))

    def require_monitored(self, log: dict[str, Any]) -> None:
        """Raise UserError, once the epoch is saved, if its log lacks the monitored value."""
        trainer = self.trainer
        if trainer.monitor != "off" and trainer.mnt_metric not in log:
            trainer.saver.wait()
            raise UserError(
                f"trainer.monitor: nothing called {trainer.mnt_metric!r} is logged; logged are "
                f"{', '.join(key for key in log if key != 'epoch')} (epoch {trainer.epoch} is saved)"
            )

    def _keep_if_best(self, log):
        """Ask for model_best.pth if the monitored value is better; a tie or a nan is not. Returns whether it is."""
        trainer, value = self.trainer, log.get(self.trainer.mnt_metric, math.nan)
        improved = value < trainer.mnt_best if trainer.mnt_mode == "min" else value > trainer.mnt_best
        if improved:
            trainer.mnt_best, trainer.best_epoch = value, trainer.epoch
            trainer.save_as(BEST_MODEL)
        return improved

    def _no_better(self):
        return f"no better {self.trainer.mnt_metric} for {quantity(self.trainer.not_improved_count, 'epoch')}"

    def between_batches(self) -> None:
        """Save every save_every_steps batches; then stop_if_asked."""
        trainer = self.trainer
        trainer.saver.check()
        every = trainer.settings.save_every_steps
        if every is not None and trainer.step % every == 0:
            self.save_within_epoch()
        self.stop_if_asked()

    def stop_if_asked(self) -> None:
        """Save every save_every_minutes; save and end the run if a signal or stop() asks. Call it between batches."""
        trainer = self.trainer
        if not trainer.resumes_within_epochs:
            return
        minutes = trainer.settings.save_every_minutes
        save = minutes is not None and time.monotonic() - trainer.saver.saved_at >= 60 * minutes
        signal, stop = trainer.stop_signal.asks(), trainer.stop_reason is not None
        signal, stop, save = self._agreement(signal, stop, save, place=(trainer.epoch, trainer.batches_done))
        if stop:
            trainer.stop_reason = any_of(trainer.stop_reason)
        if signal or stop or save:
            self.save_within_epoch()
        if signal:
            trainer.stop_signal.end(signal)
        if stop:
            raise Stopped

    def save_within_epoch(self) -> None:
        """Save all that is needed to resume after the batches done, if this trainer can resume within an epoch."""
        trainer = self.trainer
        trainer.saver.wait()
        path = trainer.checkpoint_dir / checkpoint_name(trainer.epoch - 1, trainer.batches_done)
        has_trained = trainer.epoch > 1 or trainer.batches_done > 0
        if trainer.resumes_within_epochs and has_trained and path != trainer.saver.newest:
            trainer.save_now([path.name], trainer.epoch - 1)
            if trainer.batches_done:
                trainer.epoch_clock.record(trainer.epoch_clock.seconds, trainer.step)

    def save_before(self, error: BaseException) -> bool:
        """Save what was trained before an error; returns whether memory holds whole batches, not half an update.

        A failed save is not tried again. With several processes nothing is saved, since the others would wait.
        """
        trainer = self.trainer
        is_whole = trainer.is_whole or isinstance(error, DataError)
        if is_whole and world_size() == 1 and not isinstance(error, CheckpointError):
            try:
                self.save_within_epoch()
            except Exception as unsaved:  # which must not hide the error
                trainer.logger.error("cannot save the training since the last checkpoint: %s", unsaved)
        return is_whole


def in_background(trainer: Any) -> bool | None:
    """Return whether a BaseTrainer saves in the background, as trainer.async_save says; None: if the copy is small."""
    asked = trainer.settings.async_save
    own_loop = getattr(trainer, "has_own_loop", True)
    # those of old projects read a file right after they have saved it
    if asked is None and (own_loop or any(map(trainer.overrides, ("train", "_save_checkpoint")))):
        return False
    return asked
