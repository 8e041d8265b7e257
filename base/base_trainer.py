"""BaseTrainer: runs the epochs, keeps the best model, saves after each epoch and resumes."""

import contextlib
import functools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from base.base_callback import BaseCallback, CallbackList, call_at_epoch_end
from base.training.checkpoints import (
    complete_last_save,
    find_unsavable,
    gather_state,
    require_rollback,
    restore,
    restore_attributes,
    set_later_epochs_aside,
)
from base.training.nonfinite import NonFiniteError, finite_state, require_finite
from base.training.own_loop import SETTINGS_OF_TRAINER, left_settings
from logger import CsvLog, TensorboardWriter, require_log_files
from logger.reports import epoch_report, run_report, tell_how_to_resume
from utils.batches import DataError
from utils.config.schema import TrainerSettings
from utils.distributed.world import agreement, any_of, seed_of_process, world_size
from utils.errors import UserError
from utils.runs.checkpoint import BEST_MODEL, CheckpointError, checkpoint_name
from utils.runs.saver import CheckpointSaver
from utils.runs.weights import unwrapped
from utils.seed import derive_seed, seed_everything, set_rng_state
from utils.stop_signal import StopSignal

if TYPE_CHECKING:
    from parse_config import ConfigParser


class BaseTrainer(ABC):
    """Trains a model epoch by epoch. A subclass writes _train_epoch; train() does the rest.

    model: an nn.Module on its device.
    criterion: callable (output, target) -> 0-dim tensor.
    metric_ftns: callables (output, target) -> number, each with a __name__.
    optimizer: of the model's parameters.
    config: a ConfigParser; its section "trainer" is read here.

    Every attribute that has state_dict and load_state_dict (a scheduler, a second model, a scaler) is saved with
    each checkpoint under its name, and restored when train() starts. A _train_epoch that can begin after any batch
    sets resumes_within_epochs, and after each batch calls _count_batch, which advances the position, and
    _save_if_due, which saves or stops there if it is time to. Others resume after an epoch.
    """

    resumes_within_epochs = False

    def __init__(
        self,
        model: torch.nn.Module,
        criterion: Callable[[Any, Any], torch.Tensor],
        metric_ftns: Sequence[Any],
        optimizer: torch.optim.Optimizer,
        config: "ConfigParser",
    ) -> None:
        self.config = config
        self.settings = settings = TrainerSettings.model_validate(config["trainer"])
        self.logger = config.get_logger("trainer", settings.verbosity)

        self.model, self.optimizer = model, optimizer
        self.criterion, self.metric_ftns = criterion, metric_ftns
        # What is measured and saved in the model's place, if a callback makes one.
        self.averaged_model: torch.nn.Module | None = None

        self.epochs = settings.epochs
        self.save_period = settings.save_period
        self.epoch = self._start_epoch = 1
        self._is_restored = False
        self.batches_done = 0  # of it
        self.step = 0  # batches since the beginning
        self.validated_step = 0  # the last one after which the model was validated within an epoch
        self.left_out: set[tuple[int, int]] = set()  # (epoch, batch_idx) of batches that are not trained on

        self.monitor = settings.monitor
        self.mnt_mode, _, self.mnt_metric = settings.monitor.partition(" ")
        self.mnt_best = {"min": math.inf, "max": -math.inf}.get(self.mnt_mode, 0)
        self.early_stop = settings.early_stop or math.inf
        self.not_improved_count, self.best_epoch = 0, 0  # there is none yet

        self.torch_seed = torch.initial_seed()  # what the script has seeded torch with
        self.resume_rng: dict[str, Any] | None = None  # to resume from within an epoch, or a validation
        self.saved_log: dict[str, Any] = {}  # what the newest checkpoint's epoch logged
        self.stop_signal = StopSignal()
        self.stop_reason: str | None = None  # why training ends before its last epoch
        self.is_whole = False  # whether memory holds what batches_done have made, so that an error may save it
        self._to_restore = {}  # states of attributes, from a checkpoint
        self._unsavable = set()
        self._must_be_finite = finite_state(unwrapped(model))
        self._left_settings = SETTINGS_OF_TRAINER  # which the _train_epoch of a subclass alone could follow
        self._agree = agreement()
        self._callbacks = CallbackList(config.init_callbacks())
        self._trackers = config.init_trackers()

    # Made when first asked for, by train() or by a trainer that reads them in its constructor: with them the folders.
    checkpoint_dir = functools.cached_property(lambda self: self.config.save_dir)

    @functools.cached_property
    def writer(self) -> TensorboardWriter:
        """The TensorboardWriter, which passes on to the config's experiment trackers too."""
        return TensorboardWriter(self.config.log_dir, self.logger, self.settings.tensorboard, self._trackers)

    @functools.cached_property
    def table(self) -> CsvLog:
        """The CsvLog of metrics.csv."""
        return CsvLog(self.config.log_dir / "metrics.csv")

    @functools.cached_property
    def saver(self) -> CheckpointSaver:
        """The CheckpointSaver, which writes the checkpoints."""
        settings = self.settings
        return CheckpointSaver(self.checkpoint_dir, self.config.resume, settings.keep_last, settings.async_save)

    @property
    def start_epoch(self) -> int:
        """The first epoch to train; a train() of a project's own that asks for it has the checkpoint restored."""
        self._restore_once()
        return self._start_epoch

    @start_epoch.setter
    def start_epoch(self, epoch: int) -> None:
        self._start_epoch = epoch

    def _restore_once(self):
        if self.config.resume is not None and not self._is_restored:
            self._is_restored = True
            self._resume_checkpoint(self.config.resume)
            self._must_be_finite = finite_state(unwrapped(self.model))

    @abstractmethod
    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        """Train one epoch, counted from 1; returns what it logged, {name: number}."""

    def train(self) -> None:
        """Check, restore, open the run, run the epochs that are left, and report.

        Each epoch starts from random generators seeded by (seed, epoch).
        """
        self._restore_once()
        self._check()
        with self.stop_signal, self._opened_run():  # also while the last checkpoint is written
            try:
                if self._begin():
                    with contextlib.suppress(_Stopped):
                        self._run_epochs()
                    self._end()
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
                self.saver.close(self.logger)

    # ---- how a run begins and ends

    def _check(self) -> None:
        """Raise UserError for what cannot work, before the run has a folder."""
        settings = self.settings
        if (settings.save_every_steps or settings.save_every_minutes) and not self.resumes_within_epochs:
            raise UserError(
                "trainer.save_every_steps, trainer.save_every_minutes: this trainer with this data_loader cannot "
                "resume within an epoch; leave them out, or give the loader set_epoch(epoch, start_batch) or state_dict"
            )
        self._callbacks.call("check", self)

    @contextlib.contextmanager
    def _opened_run(self):
        """Within it the run has its folders and what writes into them."""
        with self.writer:
            self._unsavable = find_unsavable(self)
            yield

    def _begin(self) -> bool:
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
        if self.not_improved_count >= self.early_stop:
            self.stop(f"{self._no_better()}; go on with --set trainer.early_stop=...")
        self._callbacks.call("on_train_start", self)
        self.stop_reason = any_of(self.stop_reason)
        if self.stop_reason:
            self.logger.warning("nothing left to train: %s", self.stop_reason)
            if self.config.has_ended:
                return False
        if self.stop_reason and self.resume_rng is not None:
            set_rng_state(self.resume_rng)  # the end draws what follows upon the last epoch
            self.resume_rng = None
        self.stop_reason = None if all_done else self.stop_reason
        restore_attributes(self, shown)  # which takes back what later epochs have shown
        set_later_epochs_aside(self)
        self.writer.start()
        return True

    def _end(self) -> None:
        self.is_whole = False  # what callbacks do now is no training
        self._agree.close()
        self.saver.wait()
        self._callbacks.call("on_train_end", self)
        self.saver.wait()  # for what a callback has saved
        self.logger.info(run_report(self))

    # ---- the epochs

    def _run_epochs(self) -> None:
        self._agree = agreement()  # whose rounds are timed from here on
        begins = self.epoch <= self.epochs and self.stop_reason is None
        if begins:
            self.config.record_training()
        if begins and self.settings.on_nonfinite == "rollback":  # needs a checkpoint of this config to go back to
            self._save([checkpoint_name(self.start_epoch - 1, self.batches_done)], self.start_epoch - 1)
        while self.epoch <= self.epochs and self.stop_reason is None:
            if self.batches_done:
                set_rng_state(self.resume_rng)
            else:
                seed_everything(seed_of_process(derive_seed(self.torch_seed, self.epoch)))
            self.resume_rng = None
            started = time.perf_counter()
            try:
                log = {"epoch": self.epoch} | self._train_epoch(self.epoch) | {"epoch": self.epoch}
                self.is_whole, self.batches_done, self.resume_rng = False, 0, None
                self._finish_epoch(log, seconds=time.perf_counter() - started)
                self.epoch += 1
            except NonFiniteError as error:
                self.is_whole = False
                self._roll_back(error)

    def _finish_epoch(self, log, seconds):
        """Report the epoch, save what was asked for, and record it.

        What fails beside the save, as a callback or a full disk of logs, ends the run after it.
        """
        if given := left_settings(self.settings, self._left_settings):
            own = "this trainer has a _train_epoch of its own, which alone decides what they do"
            self.logger.warning("%s: %s", given, own)
        self._left_settings = ()
        log, failure = call_at_epoch_end(self._callbacks, self, log)
        self._ask_for_saves(log)
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
        if self.monitor != "off" and self.mnt_metric not in log:
            self.saver.wait()
            raise UserError(
                f"trainer.monitor: nothing called {self.mnt_metric!r} is logged; logged are "
                f"{', '.join(key for key in log if key != 'epoch')} (epoch {self.epoch} is saved)"
            )
        require_log_files(f"epoch {self.epoch} is saved")

    def _record_epoch(self, log, seconds):
        self.saver.agree()
        best = BEST_MODEL in self.saver.names  # pyright: ignore[reportOperatorIssue]
        self.logger.info(epoch_report(log, self.epochs, seconds, best))
        self.saved_log = {key: value for key, value in log.items() if isinstance(value, (int, float, str))}
        if checkpoint_name(self.epoch) in self.saver.names:  # pyright: ignore[reportOperatorIssue]
            self._save_checkpoint(self.epoch, save_best=best)
            self.saver.forget_asked()  # whatever a subclass has made of it
        self.save_asked(self.epoch)
        self.saver.check()
        self.table.append(log)

    # ---- the best model, and what is saved when: trainer.monitor, early_stop, save_period, save_every_...

    def _ask_for_saves(self, log):
        """At an epoch's end: have the epoch, and the best model, saved if they are to be; stop if it gets no better."""
        self._keep_if_best(log)
        if self.mnt_metric in log:
            self.not_improved_count += 1
        if self.not_improved_count >= self.early_stop:
            self.stop(self._no_better())
        self.stop_reason = any_of(self.stop_reason)  # all save the last epoch, whoever has ended the run
        last = self.epoch >= self.epochs or self.stop_reason is not None
        lacks_monitored = self.monitor != "off" and self.mnt_metric not in log  # an error, once it is saved
        if self.epoch % self.save_period == 0 or last or lacks_monitored:
            self.save_as(checkpoint_name(self.epoch))

    def _keep_if_best(self, log):
        """Have the model saved as the best if the monitored value is better; a tie or a nan is not."""
        value = log.get(self.mnt_metric, math.nan)
        if value < self.mnt_best if self.mnt_mode == "min" else value > self.mnt_best:
            self.mnt_best, self.best_epoch = value, self.epoch
            self.not_improved_count = -1  # the end of the epoch makes it 0
            self.save_as(BEST_MODEL)

    def _no_better(self):
        return f"no better {self.mnt_metric} for {self.not_improved_count} epochs"

    def _count_batch(self, batch_idx: int) -> None:
        """Note that the epoch's batch of this index, from 0, is done."""
        self.batches_done = batch_idx + 1
        self.step += 1

    def _save_if_due(self) -> None:
        """Between two batches: save if it is time to, and stop if a signal asks for it."""
        self.saver.check()
        every = self.settings.save_every_steps
        if every is not None and self.step % every == 0:
            self._save_within_epoch()
        self._stop_if_asked()

    def _stop_if_asked(self):
        """Save, or save and end the run, if that is asked for; to be called where the run could resume."""
        if not self.resumes_within_epochs:
            return
        minutes = self.settings.save_every_minutes
        save = minutes is not None and time.monotonic() - self.saver.saved_at >= 60 * minutes
        asked = self.stop_signal.asks(), self.stop_reason is not None, save
        signal, stop, save = self._agree(*asked, place=(self.epoch, self.batches_done))
        if stop:
            self.stop_reason = any_of(self.stop_reason)
        if signal or stop or save:
            self._save_within_epoch()
        if signal:
            self.stop_signal.end(signal)
        if stop:
            raise _Stopped

    def add_callback(self, callback: BaseCallback) -> None:
        """Call this callback too, after those of the config."""
        self._callbacks.add(callback)

    def stop(self, reason: str) -> None:
        """End training, saved, after this batch, or after this epoch if the trainer cannot resume within one."""
        self.stop_reason = self.stop_reason or str(reason or "") or "a callback has asked for it"

    def save_as(self, name: str, instead_of: Iterable[str] = ()) -> None:
        """Save what is saved next under this file name too, and then delete files of other names."""
        self.saver.save_as(name, instead_of)

    def save_asked(self, epoch: int) -> None:
        """Save now what save_as has asked for, if anything, under no other name. epoch: the last whole one."""
        self.saver.agree()
        if self.saver.names:
            self._save([], epoch)

    def _save_within_epoch(self):
        """Save all that is needed to resume after the batches done, if this trainer can."""
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

    def _save_checkpoint(self, epoch: int, save_best: bool = False) -> None:
        """Save checkpoint-epoch<N>.pth, and model_best.pth too if this epoch is the best so far."""
        self._save([BEST_MODEL] * save_best + [checkpoint_name(epoch)], epoch)  # the best first: who resumes has it

    def _save(self, names, epoch):
        """Write one checkpoint under all names; in the background, from a copy in memory, with trainer.async_save."""
        self.saver.wait()  # so that there is never more than one copy
        if self.settings.on_nonfinite != "ignore":
            self._require_finite()
        self.saver.save(gather_state(self, epoch, self._unsavable), names)

    def _require_finite(self):
        """Raise NonFiniteError rather than let a poisoned model be saved."""
        require_finite(self._must_be_finite, f"epoch {self.epoch}")

    def _roll_back(self, error):
        """Go back to the newest checkpoint, to train on from there without the error's batches; or raise it."""
        left_out = require_rollback(self, error)
        newest = self.saver.newest
        assert newest is not None  # with on_nonfinite "rollback" there is one from the start
        self._resume_checkpoint(newest)
        self._restore_attributes()
        self.left_out |= left_out
        self.epoch = self.start_epoch

    def _resume_checkpoint(self, path: Path) -> None:
        """Restore from a checkpoint; the attributes that have a state get theirs when the run begins."""
        self._to_restore = restore(self, path)

    def _restore_attributes(self):
        """Give each attribute that a resumed checkpoint holds its state back, and metrics.csv a row it lacks."""
        restore_attributes(self, self._to_restore)
        self._to_restore = {}
        if damaged := self.table.set_aside_if_damaged():
            self.logger.warning("metrics.csv was not what this program wrote: it is %s now", damaged)
        if "epoch" in self.saved_log and self.saved_log["epoch"] not in self.table.epochs():
            self.table.append(self.saved_log)  # the run was killed between the checkpoint and the row


class _Stopped(Exception):
    """Raised within an epoch to end it, after it has been saved."""
