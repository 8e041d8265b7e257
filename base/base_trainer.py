"""BaseTrainer: runs the epochs, keeps the best model, saves after each and resumes."""

import contextlib
import math
import time
from abc import ABC, abstractmethod

import torch

from base.base_callback import CallbackList, call_at_epoch_end
from base.training.checkpoint_saver import CheckpointSaver
from base.training.nonfinite import NonFiniteError, finite_state, require_finite
from base.training.own_loop import warn_of_own_loop
from base.training.rollback import complete_last_save, leave_later_epochs, roll_back
from base.training.standard_callbacks import BestModel, SavePeriod, minutes_are_over, require_monitored, save_is_due
from base.training.trainer_state import find_unsavable, restore_attributes, restore_trainer, trainer_state
from logger import CsvLog, TensorboardWriter, require_log_files
from logger.epoch_report import epoch_report
from logger.run_report import run_report, tell_how_to_resume
from utils.batches import DataError
from utils.config.schema import TrainerSettings
from utils.distributed.messages import Agreement, any_of
from utils.distributed.world import seed_of_process, world_size
from utils.runs.checkpoint import BEST_MODEL, CheckpointError, checkpoint_name
from utils.runs.weights import unwrapped
from utils.seed import derive_seed, seed_everything, set_rng_state
from utils.stop_signal import StopSignal


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

        self.model, self.optimizer = model, optimizer
        self.criterion, self.metric_ftns = criterion, metric_ftns

        self.epochs = settings.epochs
        self.save_period = settings.save_period
        self.start_epoch = self.epoch = 1  # under way
        self.batches_done = 0  # of it
        self.step = 0  # batches since the beginning
        self.validated_step = 0  # the last one after which the model was validated within an epoch
        self.left_out = set()  # (epoch, batch_idx) of batches that are not trained on

        self.monitor = settings.monitor
        self.mnt_mode, _, self.mnt_metric = settings.monitor.partition(" ")
        self.mnt_best = {"min": math.inf, "max": -math.inf}.get(self.mnt_mode, 0)
        self.early_stop = settings.early_stop or math.inf
        self.not_improved_count, self.best_epoch = 0, 0  # there is none yet

        self._seed = torch.initial_seed()  # what the script has seeded torch with
        self._to_restore = {}
        self._rng = None  # to begin with within an epoch; or of a moment to go back to, while the model is validated
        self._log = {}  # what the newest checkpoint's epoch logged
        self._unsavable = set()
        self.averaged_model = None  # what is measured and saved in the model's place, if a callback makes one
        self.stop_signal = StopSignal()
        self._agree = Agreement()
        self.stop_reason = None  # why training ends before its last epoch
        self.is_whole = False  # whether memory holds what batches_done have made, so that an error may save it
        self._callbacks = CallbackList(config.init_callbacks(), [BestModel(), SavePeriod()])
        if config.resume is not None:
            self._resume_checkpoint(config.resume)

        self._must_be_finite = finite_state(unwrapped(model))
        self._callbacks.call("check", self)
        self.checkpoint_dir = config.save_dir  # makes the run's folders, so only now that nothing can be refused
        self.saver = CheckpointSaver(self.checkpoint_dir, config.resume, settings.keep_last, settings.async_save)
        self.writer = TensorboardWriter(config.log_dir, self.logger, settings.tensorboard, config.init_trackers())
        self.table = CsvLog(config.log_dir / "metrics.csv")

    @abstractmethod
    def _train_epoch(self, epoch):
        """Train one epoch, counted from 1; returns what it logged, {name: number}."""

    def train(self):
        """Run the epochs that are left. Each starts from random generators seeded by (seed, epoch)."""
        self._unsavable = find_unsavable(self, self.logger)
        warn_of_own_loop(self)
        with self.stop_signal, self.writer:  # also while the last checkpoint is written
            try:
                if self._begin():
                    with contextlib.suppress(_Stopped), self.stop_signal.expecting_steps():
                        self._run_epochs()
                    self.is_whole = False  # what callbacks do now is no training
                    self._agree.close()
                    self.saver.wait()
                    self._callbacks.call("on_train_end", self)
                    self.saver.wait()  # for what a callback has saved
                    self.logger.info(run_report(self))
                self.config.record_end()
            except (KeyboardInterrupt, SystemExit) as error:
                if not self.stop_signal.received:  # it is sys.exit(), as a callback may call it
                    self._save_before(error)
                tell_how_to_resume(self)
                raise
            except Exception as error:
                for failure in self._callbacks.call_all("on_error", self, error):
                    self.logger.error("on_error: %s: %s", type(failure).__name__, failure)
                if self.is_whole or isinstance(error, DataError):
                    self._save_before(error)
                    tell_how_to_resume(self)
                if isinstance(error, DataError) and self.stop_signal.received:  # which has ended the workers before
                    self.stop_signal.end()
                raise
            finally:
                self.saver.end(self.logger)

    def _begin(self):
        """Put back what a checkpoint held; returns whether there is anything left to do.

        That may be the run's end alone, if it was killed while callbacks were at work there.
        """
        self.epoch = self.start_epoch
        shown = {"writer": self._to_restore.pop("writer")} if "writer" in self._to_restore else {}
        self._restore_attributes()
        complete_last_save(self)
        all_done = self.start_epoch > self.epochs
        if all_done:
            done = f"epoch {self.start_epoch - 1} is done and trainer.epochs is {self.epochs}"
            self.stop(f"{done}; go on with --set trainer.epochs=...")
        self._callbacks.call("on_train_start", self)
        self.stop_reason = any_of(self.stop_reason)
        if self.stop_reason:
            self.logger.warning("nothing left to train: %s", self.stop_reason)
            if self.config.has_ended:
                return False
        if self.stop_reason and self._rng is not None:
            set_rng_state(self._rng)  # the end draws what follows upon the last epoch
            self._rng = None
        self.stop_reason = None if all_done else self.stop_reason
        restore_attributes(self, shown, self.logger)  # which takes back what later epochs have shown
        leave_later_epochs(self)
        self.writer.start()
        return True

    def _run_epochs(self):
        begins = self.epoch <= self.epochs and self.stop_reason is None
        if begins:
            self.config.record_training()
        if begins and self.settings.on_nonfinite == "rollback":  # needs a checkpoint of this config to go back to
            self._save([checkpoint_name(self.start_epoch - 1, self.batches_done)], self.start_epoch - 1)
        while self.epoch <= self.epochs and self.stop_reason is None:
            if self.batches_done:
                set_rng_state(self._rng)
            else:
                seed_everything(seed_of_process(derive_seed(self._seed, self.epoch)))
            self._rng = None
            started = time.perf_counter()
            try:
                log = {"epoch": self.epoch} | self._train_epoch(self.epoch) | {"epoch": self.epoch}
                self.is_whole, self.batches_done, self._rng = False, 0, None
                self._finish_epoch(log, seconds=time.perf_counter() - started)
                self.epoch += 1
            except NonFiniteError as error:
                self.is_whole = False
                self._roll_back(error)

    def _finish_epoch(self, log, seconds):
        """Report the epoch, save what the callbacks have asked for, and record it.

        What fails beside the save, as a callback or a full disk of logs, ends the run after it.
        """
        log, failure = call_at_epoch_end(self._callbacks, self, log)
        if any_of(None if failure is None else True):
            self.save_as(checkpoint_name(self.epoch))
        try:
            self._record_epoch(log, seconds)
        except Exception as error:
            raise error from failure
        if failure is not None:
            self.saver.wait()
            tell_how_to_resume(self)
            raise failure
        require_monitored(self, log)
        require_log_files(f"epoch {self.epoch} is saved")

    def _record_epoch(self, log, seconds):
        self.saver.agree()
        best = BEST_MODEL in self.saver.names
        self.logger.info(epoch_report(log, self.epochs, seconds, best))
        self._log = {key: value for key, value in log.items() if isinstance(value, (int, float, str))}
        if checkpoint_name(self.epoch) in self.saver.names:
            self._save_checkpoint(self.epoch, save_best=best)
            self.saver.forget_asked()  # whatever a subclass has made of it
        self.save_asked(self.epoch)
        self.saver.check()
        self.table.append(log)

    def _count_batch(self, batch_idx):
        """Say that the epoch's batch of this index, from 0, is done."""
        self.batches_done = batch_idx + 1
        self.step += 1

    def _save_if_due(self):
        """Between two batches: save if it is time to, and stop if a signal asks for it."""
        self.saver.check()
        if save_is_due(self):
            self._save_within_epoch()
        self._stop_if_asked()

    def _stop_if_asked(self):
        """Save, or save and end the run, if that is asked for; to be called where the run could begin again."""
        if not self.resumes_within_epochs:
            return
        asked = self.stop_signal.asks(), self.stop_reason is not None, minutes_are_over(self)
        signal, stop, save = self._agree(*asked, place=(self.epoch, self.batches_done))
        if stop:
            self.stop_reason = any_of(self.stop_reason)
        if signal or stop or save:
            self._save_within_epoch()
        if signal:
            self.stop_signal.end(signal)
        if stop:
            raise _Stopped

    def stop(self, reason):
        """End training after this batch, or after this epoch if the trainer cannot go on within one. It is saved."""
        self.stop_reason = self.stop_reason or str(reason or "") or "a callback has asked for it"

    def save_as(self, name, instead_of=()):
        """Save what is saved next under this file name too, and then delete files of other names."""
        self.saver.save_as(name, instead_of)

    def save_asked(self, epoch):
        """Save now what save_as has asked for, if anything, under no other name. epoch: the last whole one."""
        self.saver.agree()
        if self.saver.names:
            self._save([], epoch)

    def _save_within_epoch(self):
        """Save all that is needed to go on after the batches done, if this trainer can."""
        self.saver.wait()
        path = self.checkpoint_dir / checkpoint_name(self.epoch - 1, self.batches_done)
        if self.resumes_within_epochs and path.name != checkpoint_name(0) and path != self.saver.newest:
            self._save([path.name], self.epoch - 1)

    def _save_before(self, error):
        """Save what was trained before an error, if that is whole.

        A save that failed is not tried again; of several processes the others wait for this one, and cannot take part.
        """
        whole = self.is_whole or isinstance(error, DataError)
        if whole and world_size() == 1 and not isinstance(error, CheckpointError):
            try:
                self._save_within_epoch()
            except Exception as unsaved:  # which must not hide the error
                self.logger.error("what was trained since the last checkpoint cannot be saved: %s", unsaved)

    def _save_checkpoint(self, epoch, save_best=False):
        """Save checkpoint-epoch<N>.pth, and model_best.pth too if this epoch is the best so far."""
        self._save([BEST_MODEL] * save_best + [checkpoint_name(epoch)], epoch)  # the best first: who resumes has it

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
        roll_back(self, error)

    def _resume_checkpoint(self, path):
        """Go on from a checkpoint; the attributes that have a state get theirs when train() starts."""
        restore_trainer(self, path)

    def _restore_attributes(self):
        """Give each attribute that a resumed checkpoint holds its state back, and metrics.csv a row it lacks."""
        restore_attributes(self, self._to_restore, self.logger)
        self._to_restore = {}
        if damaged := self.table.set_aside_if_damaged():
            self.logger.warning("metrics.csv was not what this program wrote: it is %s now", damaged)
        if "epoch" in self._log and self._log["epoch"] not in self.table.epochs():
            self.table.append(self._log)  # the run was killed between the checkpoint and the row


class _Stopped(Exception):
    """Raised within an epoch to end it, after it has been saved."""
