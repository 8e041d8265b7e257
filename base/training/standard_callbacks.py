"""What trainer.monitor, early_stop and save_period are short for: the callbacks that every trainer has."""

import math
import time

from base.base_callback import BaseCallback
from utils.distributed.messages import any_of
from utils.errors import UserError
from utils.runs.checkpoint import BEST_MODEL, checkpoint_name


class BestModel(BaseCallback):
    """Has the best model saved, and stops when no epoch brings a better one: trainer.monitor and early_stop."""

    def on_train_start(self, trainer):
        if trainer.not_improved_count >= trainer.early_stop:
            trainer.stop(f"{_no_better(trainer)}; go on with --set trainer.early_stop=...")

    def on_valid_end(self, trainer, log):
        self._track(trainer, log)

    def on_epoch_end(self, trainer, log):
        self._track(trainer, log)
        if trainer.mnt_metric in log:
            trainer.not_improved_count += 1
        elif trainer.monitor != "off":
            trainer.save_as(checkpoint_name(trainer.epoch))  # before the error
        if trainer.not_improved_count >= trainer.early_stop:
            trainer.stop(_no_better(trainer))

    def _track(self, trainer, log):
        """Take the value for the best if it is better; a tie or a nan is not."""
        value = log.get(trainer.mnt_metric, math.nan)
        if value < trainer.mnt_best if trainer.mnt_mode == "min" else value > trainer.mnt_best:
            trainer.mnt_best, trainer.best_epoch = value, trainer.epoch
            trainer.not_improved_count = -1  # the end of the epoch makes it 0
            trainer.save_as(BEST_MODEL)


class SavePeriod(BaseCallback):
    """Has a checkpoint saved every so many epochs, and after the last one: trainer.save_period."""

    def check(self, trainer):
        saves_within = trainer.settings.save_every_steps or trainer.settings.save_every_minutes
        if saves_within and not trainer.resumes_within_epochs:
            raise UserError(
                "trainer.save_every_steps, trainer.save_every_minutes: this trainer with this data_loader cannot go on "
                "within an epoch; leave them out, or give the loader set_epoch(epoch, start_batch) or state_dict"
            )

    def on_epoch_end(self, trainer, log):
        trainer.stop_reason = any_of(trainer.stop_reason)  # all save the last epoch, whoever has ended the run
        last = trainer.epoch >= trainer.epochs or trainer.stop_reason is not None
        if trainer.epoch % trainer.save_period == 0 or last:
            trainer.save_as(checkpoint_name(trainer.epoch))


def save_is_due(trainer):
    """Whether to save within the epoch, after this batch: trainer.save_every_steps."""
    every = trainer.settings.save_every_steps
    return every is not None and trainer.step % every == 0


def minutes_are_over(trainer):
    """Whether to save within the epoch because it is time to: trainer.save_every_minutes."""
    minutes = trainer.settings.save_every_minutes
    return minutes is not None and time.monotonic() - trainer.saver.saved_at >= 60 * minutes


def require_monitored(trainer, log):
    """Raise UserError if the epoch, which is saved, has not logged what trainer.monitor names."""
    if trainer.monitor != "off" and trainer.mnt_metric not in log:
        trainer.saver.wait()
        raise UserError(
            f"trainer.monitor: nothing called {trainer.mnt_metric!r} is logged; logged are "
            f"{', '.join(key for key in log if key != 'epoch')} (epoch {trainer.epoch} is saved)"
        )


def _no_better(trainer):
    return f"no better {trainer.mnt_metric} for {trainer.not_improved_count} epochs"
