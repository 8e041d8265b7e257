"""BaseTrainer: runs the epochs, saves checkpoints and the best model, and resumes."""

import contextlib
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from base.base_callback import BaseCallback, CallbackList, call_at_epoch_end
from base.training.checkpoints import (
    complete_last_save,
    gather_state,
    prepare_rollback,
    restore,
    restore_attributes,
    set_later_epochs_aside,
)
from base.training.nonfinite import NonFiniteError, finite_state, require_finite
from base.training.preflight import SETTINGS_OF_TRAINER, has_logged_nothing, warn_of_ignored_settings
from base.training.saving import SavePoints, Stopped, in_background
from base.training.unsaved import Unsaved
from logger import CsvLog, EpochClock, TensorboardWriter, require_log_files
from logger.console import epoch_report, tell_end, tell_how_to_resume
from utils.batches import DataError
from utils.distributed.world import any_of, gather, seed_of_process
from utils.runs.checkpoint import BEST_MODEL, checkpoint_name
from utils.runs.run_folder import removed_if_empty
from utils.runs.saver import CheckpointSaver
from utils.runs.weights import unwrapped
from utils.seed import derive_seed, seed_everything, set_rng_state
from utils.stop_signal import StopSignal

if TYPE_CHECKING:
    from parse_config import ConfigParser


class BaseTrainer(ABC):
    """Trains a model epoch by epoch. A subclass writes _train_epoch; train() does the rest.

    model: nn.Module on its device.
    criterion: callable (output, target) -> 0-dim tensor; None if validation has no loss.
    metric_ftns: callables (output, target) -> number, each with a __name__.
    optimizer: of the model's parameters.
    config: ConfigParser; its section "trainer" is read here.

    Attributes that have state_dict and load_state_dict, such as a scheduler or a second model, are saved in each
    checkpoint under their names and restored by train(). Plain values, and lists or dicts of such objects, are not.

    A run resumes at the start of an epoch. To resume after any batch, a subclass sets resumes_within_epochs = True; its
    _train_epoch skips the first self.batches_done batches and calls _count_batch and _save_if_due after each batch.
    """

    resumes_within_epochs = False
    output_shape: tuple[int, ...] | None = None  # of an example's output, for the checkpoint, if it is known

    def __init__(
        self,
        model: torch.nn.Module,
        criterion: Callable[[Any, Any], torch.Tensor] | None,
        metric_ftns: Sequence[Any],
        optimizer: torch.optim.Optimizer,
        config: "ConfigParser",
    ) -> None:
        self.config = config
        self.settings = settings = config.trainer_settings
        self.logger = config.get_logger("trainer", settings.verbosity)

        self.model, self.optimizer, self.metric_ftns = model, optimizer, metric_ftns
        self.criterion: Any = criterion
        self.averaged_model: torch.nn.Module | None = None  # if set, validated and saved instead of model

        self.epochs, self.save_period = settings.epochs, settings.save_period
        self.epoch = self._start_epoch = 1
        self._is_restored = False
        self.batches_done = 0  # in this epoch
        self.step = 0  # batches trained on, not optimizer steps
        self.epoch_clock = EpochClock()
        self.validated_step = 0  # last step of a validation within an epoch
        self.skipped_batches: set[tuple[int, int]] = set()  # (epoch, batch_idx), after a rollback

        self.monitor = settings.monitor
        self.mnt_mode, _, self.mnt_metric = settings.monitor.partition(" ")
        self.mnt_best = {"min": math.inf, "max": -math.inf}.get(self.mnt_mode, 0)
        self.early_stop = settings.early_stop or math.inf
        self.not_improved_count, self.best_epoch = 0, 0

        self.torch_seed = torch.initial_seed()
        self.resume_rng: dict[str, Any] | None = None  # if set, the random state to save, not the current one
        self.saved_log: dict[str, Any] = {}  # log of the last saved epoch
        self.stop_signal = StopSignal()
        self.stop_reason: str | None = None  # why training ends early
        self.is_whole = False  # between two batches, so that an error may be followed by a save
        self._to_restore = {}  # {attribute: state} of the checkpoint, not loaded yet
        self._unsaved = Unsaved()
        self._must_be_finite = finite_state(unwrapped(model), criterion)
        self._ignored_settings = SETTINGS_OF_TRAINER  # a bare BaseTrainer ignores them
        self.save_points = SavePoints(self)
        self._callbacks, self._trackers = CallbackList(config.init_callbacks()), config.init_trackers()

    # Made on first use, with the run's folders: in train(), or earlier if a subclass's constructor reads them.

    @functools.cached_property
    def checkpoint_dir(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.config.save_dir

    @functools.cached_property
    def writer(self) -> TensorboardWriter:
        """The TensorboardWriter; it also feeds the experiment trackers of the config."""
        return TensorboardWriter(self.config.log_dir, self.logger, self.settings.tensorboard, self._trackers)

    @functools.cached_property
    def table(self) -> CsvLog:
        """The CsvLog that writes metrics.csv."""
        return CsvLog(self.config.log_dir / "metrics.csv")

    @functools.cached_property
    def saver(self) -> CheckpointSaver:
        """The CheckpointSaver of the run."""
        settings = self.settings
        return CheckpointSaver(self.checkpoint_dir, self.config.resume, settings.keep_last, in_background(self))

    @property
    def start_epoch(self) -> int:
        """The first epoch to train. Reading it loads the checkpoint; a train() of the old template relies on that."""
        self._restore_once()
        return self._start_epoch

    @start_epoch.setter
    def start_epoch(self, epoch: int) -> None:
        self._start_epoch = epoch

    def _restore_once(self):
        if self.config.resume is not None and not self._is_restored:
            self._is_restored = True
            self._resume_checkpoint(self.config.resume)
            self._must_be_finite = finite_state(unwrapped(self.model), self.criterion)

    @abstractmethod
    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        """Train one epoch, counted from 1; returns its log, {name: number}."""

    def train(self) -> None:
        """Resume if the config says so, check the setup, train the remaining epochs, save, and report."""
        self._restore_once()
        self._check()
        with self.stop_signal, self._opened_run(), self._saving_on_error():
            if self._begin():
                with contextlib.suppress(Stopped):
                    self._run_epochs()
                self._end()

    # ---- how a run begins and ends

    def _check(self) -> None:
        """Raise UserError for what cannot work, before the run has a folder."""
        self.save_points.check()
        self._callbacks.call("check", self)

    @contextlib.contextmanager
    def _opened_run(self):
        """A context in which the run's writers are open; an error before the first log point removes its folders."""
        with removed_if_empty(self.checkpoint_dir, self.config.log_dir, lambda: has_logged_nothing(self)), self.writer:
            self._unsaved.begin(self)
            yield

    @contextlib.contextmanager
    def _saving_on_error(self):
        """A context that saves on an error, logs how to resume, and closes the saver at its end."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as error:
            if not self.stop_signal.received:  # Ctrl-C or sys.exit() in a callback: nothing is saved yet
                self.save_points.save_before(error)
            tell_how_to_resume(self)
            raise
        except Exception as error:
            for failure in self._callbacks.call_all("on_error", self, error):
                self.logger.error("on_error: %s: %s", type(failure).__name__, failure)
            if self.save_points.save_before(error):
                tell_how_to_resume(self)
            if isinstance(error, DataError) and self.stop_signal.received:
                self.stop_signal.end()  # which has also ended the loader's workers, and so caused the error
            raise
        finally:
            self.saver.close(self.logger)

    def _begin(self) -> bool:
        """Restore the attributes and call on_train_start; returns whether epochs or on_train_end are left to run."""
        self.epoch = self.start_epoch
        # restored last, since that deletes the points written after the checkpoint
        writer_state = {"writer": self._to_restore.pop("writer")} if "writer" in self._to_restore else {}
        self._restore_attributes()
        complete_last_save(self)
        self.save_points.stop_if_over()
        self._callbacks.call("on_train_start", self)
        self.stop_reason = any_of(self.stop_reason)
        if self.stop_reason and not self._begin_without_epochs():
            return False
        restore_attributes(self, writer_state)
        set_later_epochs_aside(self)
        self.writer.start(self.config.saved, self.step)
        return True

    def _begin_without_epochs(self) -> bool:
        """Prepare a run that has no epoch left; returns whether on_train_end has not run yet."""
        self.logger.warning("nothing left to train: %s", self.stop_reason)
        if self.config.has_ended:
            return False
        if self.resume_rng is not None:
            set_rng_state(self.resume_rng)  # on_train_end draws as right after the last epoch
            self.resume_rng = None
        if self.start_epoch > self.epochs:
            self.stop_reason = None  # all epochs are trained: the report says "done", not "stops"
        return True

    def _end(self) -> None:
        self.is_whole = False  # callbacks may change the model now
        self.save_points.end()
        self.saver.wait()
        self._callbacks.call("on_train_end", self)
        self.saver.wait()  # for a save by a callback
        self.config.record_end()
        tell_end(self)

    # ---- the epochs

    def _run_epochs(self) -> None:
        self.save_points.begin()
        if self.epoch <= self.epochs and self.stop_reason is None:
            self.config.record_training(getattr(self, "data_loader", None))
            if self.settings.on_nonfinite == "rollback":  # it needs a checkpoint of this config to return to
                self.save_now([checkpoint_name(self.start_epoch - 1, self.batches_done)], self.start_epoch - 1)
        while self.epoch <= self.epochs and self.stop_reason is None:
            if self.batches_done:
                set_rng_state(self.resume_rng)
            else:
                seed_everything(seed_of_process(derive_seed(self.torch_seed, self.epoch)))  # the same on each resume
            self.resume_rng = None
            self.epoch_clock.start(self.config.log_dir, self.epoch, self.batches_done, self.step)
            try:
                log = {"epoch": self.epoch} | self._train_epoch(self.epoch) | {"epoch": self.epoch}  # not another one
                self.is_whole, self.batches_done, self.resume_rng = False, 0, None
                self._finish_epoch(log, self.epoch_clock.seconds)
                self.epoch += 1
            except NonFiniteError as error:
                self.is_whole = False
                self._roll_back(error)

    def _finish_epoch(self, log, seconds):
        """Call the callbacks, then report, save and record the epoch. A callback's error is raised after the save."""
        warn_of_ignored_settings(self, self._ignored_settings)
        self._ignored_settings = ()
        log, failure = call_at_epoch_end(self._callbacks, self, log)
        self.save_points.ask_at_epoch_end(log)
        if any(gather(failure is not None)):
            self.save_as(checkpoint_name(self.epoch))
        try:
            self._record_epoch(log, seconds)
        except Exception as error:
            raise error from failure
        if failure is not None:
            tell_how_to_resume(self)
            raise failure
        self.save_points.require_monitored(log)
        require_log_files(f"epoch {self.epoch} is saved")

    def _record_epoch(self, log, seconds):
        self.saver.agree()
        best = BEST_MODEL in self.saver.names
        self.logger.info(epoch_report(log, self.epochs, seconds, best))
        self.saved_log = {key: value for key, value in log.items() if isinstance(value, (int, float, str))}
        if checkpoint_name(self.epoch) in self.saver.names:
            self._save_checkpoint(self.epoch, save_best=best)  # the old template's hook, which a subclass may override
            self.saver.forget_asked()  # in case an override did not call save_now
        self.save_asked(self.epoch)
        self.saver.check()
        self.table.append(log)
        self.epoch_clock.record(seconds, self.step)

    # ---- what a loop calls between two batches, and what callbacks call

    def _count_batch(self, batch_idx: int) -> None:
        """Advance the position past this batch. batch_idx: its index in the epoch, from 0."""
        self.batches_done = batch_idx + 1
        self.step += 1

    def _save_if_due(self) -> None:
        """Save or end the run between two batches, if save_every_..., a signal or stop() asks for it."""
        self.save_points.between_batches()

    def add_callback(self, callback: BaseCallback) -> None:
        """Add a callback after those of the config."""
        self._callbacks.add(callback)

    def stop(self, reason: str) -> None:
        """Save and end training after this batch, or after this epoch if the trainer cannot resume within one."""
        self.stop_reason = self.stop_reason or str(reason or "") or "a callback asked for it"

    def save_as(self, name: str, instead_of: Iterable[str] = ()) -> None:
        """Save the next checkpoint under this file name too, and then delete the files named in instead_of."""
        self.saver.save_as(name, instead_of)

    def save_asked(self, epoch: int) -> None:
        """Save now under the names that save_as was given, if any. epoch: the last complete one."""
        self.saver.agree()
        if self.saver.names:
            self.save_now([], epoch)

    def _save_checkpoint(self, epoch: int, save_best: bool = False) -> None:
        """Save checkpoint-epoch<N>.pth, and model_best.pth too if this epoch is the best so far."""
        # the best first, so that a run killed between the two keeps it
        self.save_now([BEST_MODEL, checkpoint_name(epoch)] if save_best else [checkpoint_name(epoch)], epoch)

    def save_now(self, names: Sequence[str], epoch: int) -> None:
        """Write a checkpoint under these names, perhaps in the background. epoch: the last complete one."""
        self.saver.wait()  # so that memory never holds more than one copy
        if self.settings.on_nonfinite != "ignore":
            self._require_finite()
        if type(self)._resume_checkpoint is BaseTrainer._resume_checkpoint:  # one of a project's own may restore more
            self._unsaved.warn(self)
        self.saver.save(gather_state(self, epoch, self._unsaved.names), names)

    def _require_finite(self):
        """Raise NonFiniteError rather than save a model that holds nan or infinity."""
        require_finite(self._must_be_finite, f"epoch {self.epoch}")

    def _roll_back(self, error):
        """Return to the newest checkpoint and skip the batches at fault; raise UserError where that is not possible."""
        skipped = prepare_rollback(self, error)
        newest = self.saver.newest
        assert newest is not None  # on_nonfinite "rollback" saves one at the start
        self._resume_checkpoint(newest)
        self._restore_attributes()
        self.skipped_batches |= skipped
        self.epoch = self.start_epoch

    def _resume_checkpoint(self, path: Path) -> None:
        """Load the checkpoint; the states of attributes wait until train(), when all attributes exist."""
        self._to_restore = restore(self, path)

    def _restore_attributes(self):
        """Load the states of the attributes, and add the row that metrics.csv may lack."""
        restore_attributes(self, self._to_restore)
        self._to_restore = {}
        self.table.resume(self.saved_log, self.logger)
