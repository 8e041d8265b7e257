"""YOURS: Trainer, one epoch and one batch. Edit it, or subclass it."""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from base.base_trainer import BaseTrainer
from base.training.batch_stream import BatchStream, limited, num_batches, require_shared
from base.training.checkpoints import evaluated_model
from base.training.debugging import named_anomalies, overfitted
from base.training.evaluate import evaluate, metric_trackers, num_counted, record, reduction_of
from base.training.first_batch import compute_first_loss
from base.training.loss_inputs import LossWatch
from base.training.monitors import ParameterHistograms, show_images
from base.training.nonfinite import NonFiniteWatch
from base.training.optim_step import OptimStep
from base.training.precision import apply_switches, autocast, compile_as_set, grad_scaler, to_device
from base.training.preflight import SETTINGS_OF_EPOCH, left_alone, refuse_what_cannot_work, try_validation
from base.training.schedules import interval_of, step_after_epoch, warn_if_not_stepped
from base.training.summary import describe_run, example_input, model_summary
from logger.console import progress_bar
from logger.tables import show_tables
from utils import MetricTracker
from utils.distributed.shards import is_sharded
from utils.distributed.world import broadcast
from utils.errors import UserError, quantity
from utils.misfits import explain
from utils.nested import describe, halves
from utils.runs.weights import unwrapped
from utils.seed import rng_state

if TYPE_CHECKING:
    from parse_config import ConfigParser

LINE_SECONDS = 5.0
"""Between two progress lines in a file or in CI, unless trainer.log_step or a subclass says when to log them."""


class Trainer(BaseTrainer):
    """Trains on batches (data, target) and validates after each epoch.

    data and target are each a tensor, or a dict, list or tuple of tensors.

    model, criterion, metric_ftns, optimizer, config: as for BaseTrainer.
    device: the torch.device that batches are moved to.
    data_loader: yields the training batches.
    valid_data_loader: yields the validation batches; None for no validation.
    lr_scheduler: steps after each epoch, or after each optimizer step if its config section says so; may be None.
    len_epoch: batches in an epoch, if that is not one pass over the data; each epoch continues where the last one
        ended. By default trainer.len_epoch of the config.

    A run resumes after any batch if data_loader has set_epoch(epoch, start_batch), as BaseDataLoader does, or if it or
    its iterable dataset has state_dict and load_state_dict.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        criterion: Callable[[Any, Any], torch.Tensor] | None,
        metric_ftns: Sequence[Any],
        optimizer: torch.optim.Optimizer,
        config: "ConfigParser",
        device: torch.device,
        data_loader: Any,
        valid_data_loader: Any = None,
        lr_scheduler: Any = None,
        len_epoch: int | None = None,
    ) -> None:
        super().__init__(model, criterion, metric_ftns, optimizer, config)
        settings = self.settings
        self.device = device
        self.data_loader, self.valid_data_loader = overfitted(config, data_loader, valid_data_loader)
        self.do_validation = self.valid_data_loader is not None
        require_shared("valid_data_loader", self.valid_data_loader)
        self.stream = BatchStream(self.data_loader, len_epoch or settings.len_epoch, settings.limit_train_batches)
        if self.stream.len_epoch is None:
            raise UserError("data_loader: has no length; give the number of batches in an epoch as trainer.len_epoch")
        self.len_epoch = self.stream.len_epoch
        self.valid_batches = limited(num_batches(self.valid_data_loader), settings.limit_valid_batches)
        # a class that declares resumes_within_epochs is trusted to follow the settings, too
        self.has_own_loop = self.overrides("_train_epoch") and not type(self).resumes_within_epochs
        self._ignored_settings = SETTINGS_OF_EPOCH if self.has_own_loop else ()
        self.resumes_within_epochs = self.stream.keeps_position and not self.has_own_loop
        self.lr_scheduler = lr_scheduler
        schedule = config.get("lr_scheduler") or {}
        self.schedule_interval = interval_of(schedule) if lr_scheduler is not None else None
        default = self.mnt_metric or ("val_loss" if self.do_validation and criterion is not None else "loss")
        self.plateau_metric = schedule.get("monitor") or default  # the value that ReduceLROnPlateau watches
        refuse_what_cannot_work(self)
        apply_switches(model, settings, device)

        self.reduction = reduction_of(criterion)
        self.train_metrics, self.valid_metrics = metric_trackers(self)
        self.update_metrics = MetricTracker("grad_norm", finite_only=settings.on_nonfinite == "skip")
        self.nonfinite = NonFiniteWatch(settings.on_nonfinite, self.stream, self.logger)
        self._is_first_train = self._is_first_valid = True  # whether the next batch is the first of this process
        self.optim_step = OptimStep(
            optimizer,
            accumulate=settings.accumulate,
            reduction=self.reduction,
            clip_norm=settings.clip_norm,
            clip_value=settings.clip_value,
            scaler=grad_scaler(settings.precision, device, optimizer),
            watch=self.nonfinite if self.nonfinite.checks_gradients else None,
            skip_nonfinite=self.nonfinite.skips,
            buffers=model.buffers(),
            model=model,
            count=self.train_metrics.counts.get("loss"),
        )
        self.log_step = settings.log_step or math.ceil(self.len_epoch / 20)
        self._line_time = 0.0  # when the epoch began, or its last progress line was logged
        if settings.histograms_every_epochs and not self.has_own_loop:
            self.add_callback(ParameterHistograms(settings.histograms_every_epochs))

    def overrides(self, method: str) -> bool:
        """Whether the subclass overrides this method."""
        return getattr(type(self), method) is not getattr(Trainer, method)

    def _check(self) -> None:
        with left_alone(self.model, self.data_loader):
            self._example = example_input(self.data_loader, self.device)
            self._summary = model_summary(unwrapped(self.model), self._example)  # before the model is compiled
        compile_as_set(self.model, self.settings)
        super()._check()
        if batches := self.settings.sanity_check_batches:
            try_validation(self, batches)
            self.logger.info("sanity check: validated on %s", quantity(batches, "batch"))

    @contextlib.contextmanager
    def _opened_run(self):
        with super()._opened_run(), named_anomalies(self):
            describe_run(self, self._summary)
            if self.config.resume is None and self._example is not None and not is_sharded(self.model):
                self.writer.add_graph(unwrapped(self.model), self._example)
            yield

    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        """Train and validate one epoch; returns {name: average over the epoch's samples}."""
        self._begin_epoch(epoch)
        with progress_bar(self.len_epoch, f"epoch {epoch}/{self.epochs}", self.settings.verbosity) as bar:
            for batch_idx, batch in self._batches(epoch):
                data, target = (to_device(half, self.device) for half in halves(batch))
                if batch_idx == 0:
                    self._show_images(data, epoch)
                part = self.stream.part(epoch, batch_idx)
                self.is_whole = False  # until the batch is counted: half an update is never saved
                try:
                    self.optim_step.begin(part, last=batch_idx + 1 == self.len_epoch)
                    loss, output = self._train_batch(batch_idx, data, target)  # forward, backward, optimizer step
                    record(self.train_metrics, self.metric_ftns, loss, output, target, self.reduction, part)
                except Exception as error:
                    samples = self.stream.samples(epoch, batch_idx)
                    explain(error, data, target, self.model, samples, self.stream.dataset)
                    raise
                self.nonfinite.count_loss(batch_idx)
                self._count_batch(batch_idx)
                self.is_whole = True
                self._callbacks.call("on_step_end", self)
                bar.update()
                if (batch_idx + 1) % self.log_step == 0 and batch_idx + 1 < self.len_epoch:
                    self._log_batch(epoch, batch_idx, bar)
                self._validate_if_due(epoch)
                self._save_if_due()
            self._end_batches(epoch, bar)

        averages = {**self.train_metrics.result(), "lr": self._lr}
        self.resume_rng = rng_state()  # a save within the validation resumes at its start
        validation = self._valid_epoch(epoch) if self.do_validation else {}
        log = averages | {f"val_{name}": value for name, value in validation.items()}
        # not before the validation: a run that is stopped within it would write these points again when resumed
        self._show_tables(epoch, mode="train")
        self.is_whole = False
        if self.schedule_interval == "epoch":
            step_after_epoch(self.lr_scheduler, self.plateau_metric, broadcast(log))
        self.train_metrics.forget()
        return log

    def _begin_epoch(self, epoch):
        self._ignored_settings = ()  # this loop follows all settings, so an override that calls it needs no warning
        self.is_whole = True
        self._line_time = time.monotonic()
        self.model.train()
        if self.batches_done == 0:
            self.train_metrics.reset()
            self.update_metrics.reset()
            self.nonfinite.begin_epoch()
            self.optim_step.reset()
        self.save_points.stop_if_asked()
        self._validate_if_due(epoch)  # a resumed run may have stopped before the validation of its last batch

    def _end_batches(self, epoch, bar):
        """Finish an open accumulation window, if the loader ended early, and log the remaining batches."""
        self._warn_if_short(epoch)
        self.is_whole = False
        if self.optim_step.finish():
            self._after_update(self.batches_done - 1)
        self.is_whole = True
        warn_if_not_stepped(self)
        if self.nonfinite.batches:  # those not logged yet
            self._log_batch(epoch, self.batches_done - 1, bar)

    def compute_loss(self, data: Any, target: Any) -> tuple[torch.Tensor | dict[str, torch.Tensor], Any]:
        """(loss, output) of one training batch. Override it for Mixup, several losses, distillation.

        It runs within the autocast of trainer.precision; the loop does backward and the optimizer step.
        loss: a 0-dim tensor; or a dict of them: "loss" is minimized, the others, means over the batch, are logged by
        name.
        output: passed to the metrics, with the target.
        Set trains_on_criterion = True in the class if the loss is the criterion's, plus terms: docs/trainers.md.
        """
        output = self.model(data)
        return self.criterion(output, target), output

    def _train_batch(self, batch_idx: int, data: Any, target: Any) -> tuple[torch.Tensor, Any]:
        """Train on one batch; returns (loss, output). Override it for another kind of training step, as for a GAN."""
        loss, output, others = self.losses(data, target, self.metric_ftns)  # forward
        part = self.stream.part(self.epoch, batch_idx) if others else None
        for name, value in others.items():
            self.train_metrics.update_extra(name, value, num_counted(target, part))
        last = batch_idx + 1 == self.len_epoch
        if self.optim_step.step(loss, self.optim_step.size_of(target), last):  # backward; True after an optimizer step
            self._after_update(batch_idx)
        return loss, output

    def losses(self, data: Any, target: Any, metrics: Sequence[Any] = ()) -> tuple[torch.Tensor, Any, dict[str, Any]]:
        """Call compute_loss; returns (loss to minimize, output, {name: other loss}). metrics: to try out first."""
        first, self._is_first_train = self._is_first_train, False
        with autocast(self.settings.precision, self.device):
            loss, output = compute_first_loss(self, data, target, metrics) if first else self.compute_loss(data, target)
        others = {}
        if isinstance(loss, dict):
            others = {name: term for name, term in loss.items() if name != "loss"}
            loss = loss.get("loss")
        if not isinstance(loss, torch.Tensor) or loss.ndim:
            raise UserError(f"loss: got a {describe(loss)}; it should be one number per batch, a 0-dim tensor")
        return loss, output, others

    def _valid_epoch(self, epoch: int) -> dict[str, float]:
        """Validate; returns {name: average over the validation samples}."""
        result = self._evaluate()
        self._show_tables(epoch, mode="valid")
        return result

    def _validate_if_due(self, epoch):
        """Validate within the epoch, every validate_every_steps batches."""
        every = self.settings.validate_every_steps
        is_due = every is not None and self.step % every == 0 and self.step != self.validated_step
        if not (is_due and self.do_validation and 0 < self.batches_done < self.len_epoch):
            return
        result = self._evaluate()
        self.validated_step = self.step
        self.model.train()
        self.logger.info("    step %d: %s", self.step, "  ".join(f"val_{k} {v:.4f}" for k, v in result.items()))
        values = {f"val_{name}": value for name, value in result.items()}
        self.writer.add_values(values, self._step_of(epoch, self.batches_done))
        self.save_asked(epoch - 1)

    def _evaluate(self):
        """Validate; returns {name: average}. A signal may end the run between two batches."""
        before = self.resume_rng
        self.resume_rng = before or rng_state()  # a save within resumes at the start of this validation
        watch = LossWatch("validation") if self._is_first_valid else None
        self._is_first_valid = False
        parts = evaluated_model(self), self.criterion, self.metric_ftns, self.valid_data_loader, self.device
        result = evaluate(
            *parts,
            self.valid_metrics,
            self.settings.precision,
            after_batch=self.save_points.stop_if_asked,
            limit=self.valid_batches,
            first_loss=watch,
        )
        self._callbacks.call("on_valid_end", self, {f"val_{name}": value for name, value in result.items()})
        self.resume_rng = before
        return result

    def _after_update(self, batch_idx):
        self.nonfinite.count_update(batch_idx)
        if self.optim_step.norm is not None:
            self.update_metrics.update("grad_norm", self.optim_step.norm)
        if self.schedule_interval == "step":
            self.lr_scheduler.step()

    def _warn_if_short(self, epoch):
        """Warn of a loader that ended before its stated length."""
        skipped = [batch_idx + 1 for skipped_epoch, batch_idx in self.skipped_batches if skipped_epoch == epoch]
        if max(self.batches_done, *skipped, 0) < self.len_epoch:
            gave = f"{quantity(self.batches_done, 'batch')}, although its length is {self.len_epoch}"
            self.logger.warning("epoch %d: data_loader gave %s", epoch, gave)

    def _batches(self, epoch):
        """Yield (batch_idx, batch) for the rest of the epoch, in an order that depends on (seed, epoch) only."""
        for batch_idx, batch in enumerate(self.stream.batches(epoch, self.batches_done), self.batches_done):
            if (epoch, batch_idx) not in self.skipped_batches:
                yield batch_idx, batch

    def _log_batch(self, epoch, batch_idx, bar):
        """Log the batches since the last report; only here does the loop wait for the device."""
        self.nonfinite.report(epoch, self.train_metrics, self.update_metrics)
        latest: dict[str, Any] = self.train_metrics.collect()
        if self.update_metrics.window("grad_norm"):
            latest |= self.update_metrics.collect()
        latest["lr"] = self._lr
        self.nonfinite.begin_window()
        self.writer.add_report(latest, self._step_of(epoch, batch_idx + 1))
        bar.set_postfix(loss=f"{latest['loss']:.4f}")
        is_set = self.settings.log_step or self.log_step != math.ceil(self.len_epoch / 20)  # the latter by a subclass
        if bar.disable and (is_set or time.monotonic() - self._line_time >= LINE_SECONDS):
            self._line_time = time.monotonic()
            progress = self._progress(batch_idx)
            self.logger.debug("epoch %d/%d %s  loss %.4f", epoch, self.epochs, progress, latest["loss"])

    @property
    def _lr(self):
        """The learning rate of the last optimizer step, not the one that the schedule has set since."""
        return self.optimizer.param_groups[0]["lr"] if self.optim_step.lr is None else self.optim_step.lr

    def _step_of(self, epoch, batches_done):
        """The x value in TensorBoard. Unlike self.step it counts skipped batches."""
        return (epoch - 1) * self.len_epoch + batches_done

    def _progress(self, batch_idx: int) -> str:
        """The progress of the epoch, as "[120/422 (28%)]"."""
        return f"[{batch_idx + 1}/{self.len_epoch} ({100 * (batch_idx + 1) / self.len_epoch:.0f}%)]"

    def _show_tables(self, epoch, mode):
        """Write an epoch's tables, such as a confusion matrix, to TensorBoard and as CSV files."""
        self.writer.set_step(self._step_of(epoch, self.len_epoch), mode, timed=False)
        metrics = self.train_metrics if mode == "train" else self.valid_metrics
        if metrics.tables:
            show_tables(metrics.tables, self.writer, self.config.log_dir, getattr(self.data_loader, "classes", None))

    def _show_images(self, data, epoch):
        """Write up to 32 input images (N, 1 or 3, H, W) to TensorBoard."""
        every = self.settings.images_every_epochs
        if every and self.writer.enabled and (epoch - 1) % every == 0:
            show_images(self.writer, "input", data, step=self._step_of(epoch, 1))

    def _require_finite(self):
        if self.batches_done and not self.nonfinite.skips:  # 0 at an epoch's end, where all are checked
            self.nonfinite.report(self.epoch, self.train_metrics, self.update_metrics)
        super()._require_finite()

    def _roll_back(self, error):
        super()._roll_back(error)
        self.stream.restart()
