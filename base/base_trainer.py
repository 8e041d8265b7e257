"""BaseTrainer: runs the epochs, keeps the best model, saves after each and resumes."""

import contextlib
import math
import time
from abc import ABC, abstractmethod

import torch

from base.base_callback import CallbackList
from base.checkpoint_saver import CheckpointSaver
from base.trainer_state import find_unsavable, restore_attributes, restore_trainer, trainer_state
from logger import CsvLog, TensorboardWriter
from utils.batches import DataError
from utils.checkpoint import (
    checkpoint_name,
)
from utils.config.schema import TrainerSettings
from utils.epoch_report import epoch_report
from utils.errors import UserError
from utils.nonfinite import MAX_LEFT_OUT, NonFiniteError, finite_state, require_finite
from utils.seed import derive_seed, seed_everything, set_rng_state
from utils.stop_signal import StopSignal
from utils.weights import unwrapped


class BaseTrainer(ABC):
    """Trains a model epoch by epoch. A subclass writes _train_epoch; train() does the rest.

    A _train_epoch that can begin after any batch sets resumes_within_epochs, counts with _count_batch and calls
    _save_if_due after each batch: such a run can be stopped and resumed anywhere. Others resume after an epoch.

    model: an nn.Module on its device. criterion: callable (output, target) -> 0-dim tensor. metric_ftns: callables
    (output, target) -> number, each with a __name__. optimizer: of the model's parameters. config: a ConfigParser.

    Every attribute that has state_dict and load_state_dict (a scheduler, a second model, a scaler) is saved with
    each checkpoint under its name, and restored when train() starts.
    """

    resumes_within_epochs = False

    def __init__(self, model, criterion, metric_ftns, optimizer, config):
        self.config = config
        self.settings = settings = TrainerSettings.model_validate(config["trainer"])
        self.logger = config.get_logger("trainer", settings.verbosity)

        self.model = model
        self.criterion = criterion
        self.metric_ftns = metric_ftns
        self.optimizer = optimizer

        self.epochs = settings.epochs
        self.save_period = settings.save_period
        self.start_epoch = 1
        self.epoch = 1  # under way
        self.batches_done = 0  # of it
        self.step = 0  # batches since the beginning
        self.validated_step = 0  # the last one after which the model was validated within an epoch
        self.left_out = set()  # (epoch, batch_idx) of batches that are not trained on

        self.monitor = settings.monitor
        self.mnt_mode, _, self.mnt_metric = settings.monitor.partition(" ")
        self.mnt_best = {"min": math.inf, "max": -math.inf}.get(self.mnt_mode, 0)
        self.early_stop = settings.early_stop or math.inf
        self.not_improved_count = 0

        self._seed = torch.initial_seed()  # what the script has seeded torch with
        self._to_restore = {}
        self._rng = None  # to begin with within an epoch; or of a moment to go back to, while the model is validated
        self._log = {}  # what the newest checkpoint's epoch logged
        self._unsavable = set()
        self.stop_signal = StopSignal()
        self.stop_reason = None  # of a callback
        self._callbacks = CallbackList(config.init_callbacks())
        if config.resume is not None:
            self._resume_checkpoint(config.resume)
            if not config.continues and self.start_epoch > self.epochs:
                raise UserError(
                    f"trainer.epochs: it is {self.epochs}, and the checkpoint is of epoch {self.start_epoch - 1} "
                    "already; raise it, since the count goes on"
                )

        self._must_be_finite = finite_state(unwrapped(model))
        saves_within = settings.save_every_steps or settings.save_every_minutes
        if saves_within and not self.resumes_within_epochs:
            raise UserError(
                "trainer.save_every_steps, trainer.save_every_minutes: this trainer with this data_loader cannot go on "
                "within an epoch; leave them out, or give the loader set_epoch(epoch, start_batch) or state_dict"
            )
        self.checkpoint_dir = config.save_dir  # makes the run's folders, so only now that nothing can be refused
        self.saver = CheckpointSaver(self.checkpoint_dir, config.resume, settings.keep_last, settings.async_save)
        self.writer = TensorboardWriter(config.log_dir, self.logger, settings.tensorboard)
        self.table = CsvLog(config.log_dir / "metrics.csv")

    @abstractmethod
    def _train_epoch(self, epoch):
        """Train one epoch, counted from 1; returns what it logged, {name: number}."""

    def train(self):
        """Run the epochs that are left. Each starts from random generators seeded by (seed, epoch)."""
        self._unsavable = find_unsavable(self, self.logger)
        ended = self._why_ended()
        if ended:
            self.logger.warning("nothing left to train: %s", ended)
            self._to_restore.pop("writer", None)  # which would take back what later epochs have shown
        self._restore_attributes()
        with self.stop_signal:  # also while the last checkpoint is written
            try:
                self._callbacks.call("on_train_start", self)
                if self.config.continues and not ended and self.stop_reason is None:
                    monitored = None if self.monitor == "off" else self.mnt_metric
                    place = self.start_epoch - 1, self.batches_done
                    self.saver.leave_later_epochs(*place, monitored, self.mnt_best, self.logger)
                with contextlib.suppress(_Stopped):
                    self._run_epochs()
                self.saver.wait()
                self._callbacks.call("on_train_end", self)
                if self.stop_reason:
                    self.logger.info(
                        "training stops: %s; the last checkpoint is %s", self.stop_reason, self.saver.newest
                    )
            except (KeyboardInterrupt, SystemExit):
                self._tell_where_to_resume()
                raise
            except DataError as error:
                self._callbacks.call("on_error", self, error)
                self._save_within_epoch()
                self._tell_where_to_resume()
                if self.stop_signal.received:  # and has ended the workers before
                    self.stop_signal.end()
                raise
            except Exception as error:
                self._callbacks.call("on_error", self, error)
                raise
            finally:
                error = self.saver.close()
                if error is not None:  # only beside another one, which is on its way already
                    self.logger.error("%s", error)
                self.writer.close()

    def _why_ended(self):
        """Why there is nothing to train, None if there is."""
        if self.start_epoch > self.epochs:
            done = f"epoch {self.start_epoch - 1} is done and trainer.epochs is {self.epochs}"
            return f"{done}; go on with --set trainer.epochs=..."
        if self.not_improved_count >= self.early_stop:
            since = f"no better {self.mnt_metric} for {self.not_improved_count} epochs"
            return f"{since}; go on with --set trainer.early_stop=..."
        return None

    def _tell_where_to_resume(self):
        self.saver.wait()
        resume = (
            f"resume with: python train.py -r {self.saver.newest}"
            if self.saver.newest
            else "no checkpoint was saved yet"
        )
        self.logger.warning("stopped%s in epoch %d; %s", self.stop_signal.by, self.epoch, resume)

    def _run_epochs(self):
        if self.settings.on_nonfinite == "rollback":  # needs a checkpoint of this config to go back to
            self._save([checkpoint_name(self.start_epoch - 1, self.batches_done)], self.start_epoch - 1)
        self.epoch = self.start_epoch
        stop = self.not_improved_count >= self.early_stop or self.stop_reason is not None
        while self.epoch <= self.epochs and not stop:
            if self.batches_done:
                set_rng_state(self._rng)
            else:
                seed_everything(derive_seed(self._seed, self.epoch))
            self._rng = None
            started = time.perf_counter()
            try:
                log = {"epoch": self.epoch} | self._train_epoch(self.epoch) | {"epoch": self.epoch}
                self.batches_done = 0
                stop = self._finish_epoch(log, seconds=time.perf_counter() - started)
                self.epoch += 1
            except NonFiniteError as error:
                self._roll_back(error)

    def _finish_epoch(self, log, seconds):
        """Report the epoch, record it and save; returns whether training stops early."""
        self.saver.check()
        log = {key: value.item() if getattr(value, "ndim", None) == 0 else value for key, value in log.items()}
        epoch = log["epoch"]
        for name in (key for key, value in log.items() if isinstance(value, float) and not math.isfinite(value)):
            self.logger.warning("epoch %d: %s is %s", epoch, name, log[name])
        self._callbacks.call("on_epoch_end", self, log)
        improved = self._track_best(log)
        stop = self.not_improved_count >= self.early_stop or self.stop_reason is not None
        self.logger.info(epoch_report(log, self.epochs, seconds, improved))
        self._log = {key: value for key, value in log.items() if isinstance(value, (int, float, str))}
        misnamed = self.monitor != "off" and self.mnt_metric not in log
        if epoch % self.save_period == 0 or epoch == self.epochs or stop or misnamed:
            self._save_checkpoint(epoch, save_best=improved)
        elif improved or self.saver.names:
            self._save(["model_best.pth"] if improved else [], epoch)
        self.table.append(log)
        if misnamed:
            self.saver.wait()
            raise UserError(
                f"trainer.monitor: nothing called {self.mnt_metric!r} is logged; logged are "
                f"{', '.join(key for key in log if key != 'epoch')} (epoch {epoch} is saved)"
            )
        if stop and self.stop_reason is None:
            self.logger.info("no better %s for %d epochs: training stops", self.mnt_metric, self.not_improved_count)
        return stop

    def _track_best(self, log):
        """Whether this epoch is the best so far; a tie or a nan is not."""
        value = log.get(self.mnt_metric, math.nan)
        improved = value < self.mnt_best if self.mnt_mode == "min" else value > self.mnt_best
        if self.monitor == "off" or self.mnt_metric not in log:
            return False
        if improved:
            self.mnt_best = value
        self.not_improved_count = 0 if improved else self.not_improved_count + 1
        return improved

    def _count_batch(self, batch_idx):
        """Say that the epoch's batch of this index, from 0, is done."""
        self.batches_done = batch_idx + 1
        self.step += 1

    def _save_if_due(self):
        """Between two batches: save if it is time to, and stop if a signal asks for it."""
        self.saver.check()
        every, minutes = self.settings.save_every_steps, self.settings.save_every_minutes
        due = every is not None and self.step % every == 0
        if due or (minutes is not None and time.monotonic() - self.saver.saved_at >= 60 * minutes):
            self._save_within_epoch()
        self._stop_if_asked()

    def _stop_if_asked(self):
        """Save and end the run if a signal has asked for it; to be called where the run could begin again."""
        if self.resumes_within_epochs and self.stop_signal.asks():
            self._save_within_epoch()
            self.stop_signal.end()
        if self.resumes_within_epochs and self.stop_reason is not None:
            self._save_within_epoch()
            raise _Stopped

    def stop(self, reason):
        """End training after this batch, or after this epoch if the trainer cannot go on within one. It is saved."""
        self.stop_reason = self.stop_reason or reason

    def save_as(self, name, instead_of=()):
        """Save what is saved next under this file name too, and then delete files of other names."""
        self.saver.save_as(name, instead_of)

    def _save_within_epoch(self):
        """Save all that is needed to go on after the batches done, if this trainer can."""
        self.saver.wait()
        name = checkpoint_name(self.epoch - 1, self.batches_done)
        begun = self.epoch > 1 or self.batches_done
        if self.resumes_within_epochs and begun and self.saver.newest != self.checkpoint_dir / name:
            self._save([name], self.epoch - 1)

    def _save_checkpoint(self, epoch, save_best=False):
        """Save checkpoint-epoch<N>.pth, and model_best.pth too if this epoch is the best so far."""
        names = ["model_best.pth", f"checkpoint-epoch{epoch}.pth"]  # the best first: who resumes has it then
        self._save(names if save_best else names[1:], epoch)

    def _save(self, names, epoch):
        """Write one checkpoint under all names; in the background, from a copy in memory, with trainer.async_save."""
        self.saver.wait()  # so that there is never more than one copy
        if self.settings.on_nonfinite != "ignore":
            self._require_finite()
        self.saver.save(trainer_state(self, epoch, self._unsavable), names)

    def _require_finite(self):
        """Raise NonFiniteError rather than let a poisoned model be saved."""
        require_finite(self._must_be_finite, f"epoch {self.epoch}")

    def _roll_back(self, error):
        """Go back to the newest checkpoint, to train on from there without the error's batches; or raise it."""
        if self.settings.on_nonfinite != "rollback" or not error.batches:
            last = f"the last checkpoint is {self.saver.newest}" if self.saver.newest else "no checkpoint was saved yet"
            other = 'trainer.on_nonfinite: "skip" and "rollback" go on without it'
            raise UserError(f"{error}; {last}; {other}") from error
        self.left_out |= {(self.epoch, batch_idx) for batch_idx in error.batches}
        if len([batch for batch in self.left_out if batch[0] == self.epoch]) > MAX_LEFT_OUT:
            raise UserError(f"{error}; {MAX_LEFT_OUT} batches of this epoch have been left out already") from error
        self.saver.wait()
        self.logger.warning("%s: back to %s, to train on without it", error, self.saver.newest)
        left_out = self.left_out
        self._resume_checkpoint(self.saver.newest)
        self._restore_attributes()
        self.left_out |= left_out
        self.epoch = self.start_epoch

    def _resume_checkpoint(self, path):
        """Go on from a checkpoint; the attributes that have a state get theirs when train() starts."""
        restore_trainer(self, path)

    def _restore_attributes(self):
        """Give each attribute that a resumed checkpoint holds its state back, and metrics.csv a row it lacks."""
        restore_attributes(self, self._to_restore, self.logger)
        self._to_restore = {}
        if "epoch" in self._log and self._log["epoch"] not in self.table.epochs():
            self.table.append(self._log)  # the run was killed between the checkpoint and the row


class _Stopped(Exception):
    """Raised within an epoch to end it, after it has been saved."""
