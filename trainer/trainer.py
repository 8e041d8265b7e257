"""YOURS to subclass: what happens in an epoch and with a batch."""

import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from base import BaseTrainer
from base.training.batch_stream import (
    BatchStream,
    describe_batches,
    limited,
    num_batches,
    refuse_small_parts,
    require_shared,
)
from base.training.checkpoints import measured_model
from base.training.debugging import left_alone, named_anomalies, overfitted, refuse_limits, try_validation
from base.training.evaluate import evaluate, record, reduction_of, trackers
from base.training.model_summary import example_input, model_summary
from base.training.nonfinite import NonFiniteWatch
from base.training.optim_step import OptimStep
from base.training.own_loop import SETTINGS_OF_EPOCH
from base.training.precision import apply_switches, autocast, compile_as_set, grad_scaler, to_device
from base.training.schedules import interval_of
from logger.tables import show_tables
from utils import MetricTracker, UserError
from utils.distributed.shards import is_sharded, whole
from utils.distributed.world import broadcast, is_main, shows
from utils.nested import describe, describe_step, halves, num_samples
from utils.runs.schedule_state import over_before
from utils.runs.weights import unwrapped
from utils.seed import rng_state

if TYPE_CHECKING:
    from parse_config import ConfigParser


class Trainer(BaseTrainer):
    """Trains on batches (data, target) and validates after each epoch.

    Each of data and target is a tensor, or a dict, list or tuple that holds tensors.

    model, criterion, metric_ftns, optimizer, config: as for BaseTrainer.
    device: the torch.device that batches are moved to.
    data_loader: gives the batches of the training part.
    valid_data_loader: gives the batches of the validation part; None for no validation.
    lr_scheduler: steps after each epoch, or after each optimizer step if its config section says so; None for none.
    len_epoch: batches in an epoch, by default trainer.len_epoch of the config, else one pass over data_loader. If
        given, the epochs divide one endless stream of passes.

    A subclass overrides compute_loss to change what a batch's loss is, or _train_batch for a step of another form.

    A run resumes after any batch if data_loader says where it is: through set_epoch(epoch, start_batch), as
    BaseDataLoader does, or through state_dict and load_state_dict of its own or of the dataset that it iterates.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        criterion: Callable[[Any, Any], torch.Tensor],
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
            raise UserError("data_loader: has no length; say with trainer.len_epoch how many batches make an epoch")
        self.len_epoch = self.stream.len_epoch
        self.valid_batches = limited(num_batches(self.valid_data_loader), settings.limit_valid_batches)
        self._own_loop = type(self)._train_epoch is not Trainer._train_epoch and not self.resumes_within_epochs
        self._left_settings = SETTINGS_OF_EPOCH if self._own_loop else ()
        self.resumes_within_epochs = self.stream.keeps_position and not self._own_loop
        self.lr_scheduler = lr_scheduler
        schedule = config.get("lr_scheduler") or {}
        self.schedule_interval = interval_of(schedule) if lr_scheduler is not None else None
        self.plateau_metric = self._plateau_metric(schedule.get("monitor"))
        self._refuse_what_cannot_work()
        apply_switches(model, settings, device)

        self.reduction = reduction_of(criterion)
        self.train_metrics, self.valid_metrics = trackers(metric_ftns, device, config)
        self.update_metrics = MetricTracker("grad_norm", finite_only=settings.on_nonfinite == "skip")
        self.nonfinite = NonFiniteWatch(settings.on_nonfinite, self.stream, self.logger)
        self.optim_step = OptimStep(
            optimizer,
            accumulate=settings.accumulate,
            reduction=self.reduction,
            clip_norm=settings.clip_norm,
            clip_value=settings.clip_value,
            scaler=grad_scaler(settings.precision, device),
            watch=self.nonfinite if self.nonfinite.checks_gradients else None,
            skip_nonfinite=self.nonfinite.skips,
            buffers=model.buffers(),
            model=model,
        )
        self.log_step = settings.log_step or max(1, self.len_epoch // 20)

    @property
    def has_own_step(self) -> bool:
        """Whether a subclass has a _train_batch of its own, which find_lr cannot try."""
        return type(self)._train_batch is not Trainer._train_batch

    def train(self) -> None:
        """Run the epochs that are left."""
        with named_anomalies(self):
            super().train()

    def _check(self) -> None:
        with left_alone(self.model, self.data_loader):
            self._example = example_input(self.data_loader, self.device)
            self._summary = model_summary(unwrapped(self.model), self._example)  # before the model is compiled
        compile_as_set(self.model, self.settings)
        super()._check()
        if self.settings.sanity_check_batches:
            try_validation(self)

    @contextlib.contextmanager
    def _opened_run(self):
        with super()._opened_run():
            self._describe_run()
            yield

    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        """Train and validate one epoch; returns {name: average over the epoch's samples}."""
        self._left_settings = ()  # an override has called this one
        self.is_whole = True
        self.model.train()
        if self.batches_done == 0:
            self.train_metrics.reset()
            self.update_metrics.reset()
            self.nonfinite.begin_epoch()
            self.optim_step.reset()
        self._stop_if_asked()
        self._validate_if_due(epoch)  # which a signal may have put off
        with self._progress_bar(epoch) as bar:
            for batch_idx, batch in self._batches(epoch):
                data, target = halves(batch)
                data, target = to_device(data, self.device), to_device(target, self.device)
                if batch_idx == 0:
                    self._show_images(data, epoch)

                part = self.stream.part(epoch, batch_idx)
                self.is_whole = False  # until the batch is counted: an error in between leaves half of its update
                self.optim_step.begin(part, last=batch_idx + 1 == self.len_epoch)
                try:
                    loss, output = self._train_batch(batch_idx, data, target)  # forward, backward, update
                except Exception as error:
                    error.add_note(describe_step(data, target, self.model))
                    raise
                record(self.train_metrics, self.metric_ftns, loss, output, target, self.reduction, part)
                self.nonfinite.count_loss(batch_idx)
                self._count_batch(batch_idx)
                self.is_whole = True
                self._callbacks.call("on_step_end", self)
                bar.update()
                if (batch_idx + 1) % self.log_step == 0 and batch_idx + 1 < self.len_epoch:
                    self._log_batch(batch_idx, epoch, bar)
                self._validate_if_due(epoch)
                self._save_if_due()
            self._warn_if_short(epoch)
            self.is_whole = False
            if self.optim_step.finish():  # the loader ended before its length said so
                self._after_update(self.batches_done - 1)
            self.is_whole = True
            if self.nonfinite.batches:
                self._log_batch(self.batches_done - 1, epoch, bar)

        averages = {**self.train_metrics.result(), "lr": self._lr}
        log = dict(averages)
        self.resume_rng = rng_state()  # to resume from, until the epoch is saved
        if self.do_validation:
            result = self._valid_epoch(epoch)
            log.update({f"val_{name}": value for name, value in result.items()})
        self._show_epoch(averages, epoch, mode="train")  # now that no signal can have it done twice
        self._show_histograms(epoch)
        self.is_whole = False
        if self.schedule_interval == "epoch":
            self._step_scheduler(broadcast(log))
        self.train_metrics.forget()
        return log

    def compute_loss(self, data: Any, target: Any) -> tuple[torch.Tensor | dict[str, torch.Tensor], Any]:
        """(loss, output) of one training batch: the place for Mixup, further losses, distillation.

        It runs within the autocast of trainer.precision; backward and the update are the loop's. loss: 0-dim; or a dict
        of such, whose "loss" is minimized and whose other entries, means over the batch's samples, are logged under
        their names. output: what the metrics get beside the target.
        """
        output = self.model(data)
        return self.criterion(output, target), output

    def _train_batch(self, batch_idx: int, data: Any, target: Any) -> tuple[torch.Tensor, Any]:
        """Learn from one batch; returns (loss, output). The place for a step of another form, as a GAN's."""
        loss, output, others = self.losses(data, target)
        part = self.stream.part(self.epoch, batch_idx) if others else None
        for name, value in others.items():
            self.train_metrics.update_extra(name, value, 0 if part and part.own == 0 else num_samples(target))
        if self.optim_step.step(loss, num_samples(target), batch_idx + 1 == self.len_epoch):
            self._after_update(batch_idx)
        return loss, output

    def losses(self, data: Any, target: Any) -> tuple[torch.Tensor, Any, dict[str, torch.Tensor]]:
        """(loss to minimize, output, {name: other loss}) of compute_loss."""
        with autocast(self.settings.precision, self.device):
            loss, output = self.compute_loss(data, target)
        others = {name: value for name, value in loss.items() if name != "loss"} if isinstance(loss, dict) else {}
        minimized: Any = loss.get("loss") if isinstance(loss, dict) else loss
        if getattr(minimized, "ndim", None) != 0:
            raise UserError(f"loss: gave a {describe(minimized)}; one number a batch, as a 0-dim tensor, is needed")
        return minimized, output, others

    def _valid_epoch(self, epoch: int) -> dict[str, float]:
        """Validate; returns {name: average over the validation samples}."""
        result = self._measure()
        self._show_epoch(result, epoch, mode="valid")
        return result

    def _validate_if_due(self, epoch):
        """Validate within the epoch, every validate_every_steps; the best model so far is kept."""
        every = self.settings.validate_every_steps
        if every is None or self.step % every or self.step == self.validated_step or not self.do_validation:
            return
        if not 0 < self.batches_done < self.len_epoch:
            return
        result = self._measure()
        self.validated_step = self.step
        self.model.train()
        self.logger.info("    step %d: %s", self.step, "  ".join(f"val_{k} {v:.4f}" for k, v in result.items()))
        self.writer.set_step(self._step_of(epoch, self.batches_done), "valid", timed=False)
        for name, value in result.items():
            self.writer.add_scalar(name, value)
        self.save_asked(epoch - 1)

    def _measure(self):
        """The averages over the validation samples. A signal that asks to stop is obeyed after any batch."""
        before = self.resume_rng
        self.resume_rng = before or rng_state()  # the run would resume from before the validation
        result = evaluate(
            measured_model(self),
            self.criterion,
            self.metric_ftns,
            self.valid_data_loader,
            self.device,
            self.valid_metrics,
            self.settings.precision,
            after_batch=self._stop_if_asked,
            limit=self.valid_batches,
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
        """Tell of a loader that ended before its length said so."""
        left_out = max((batch_idx + 1 for at, batch_idx in self.left_out if at == epoch), default=0)
        if max(self.batches_done, left_out) < self.len_epoch:
            gave = f"{self.batches_done} batches, and its length says {self.len_epoch}"
            self.logger.warning("epoch %d: data_loader gave %s", epoch, gave)

    def _batches(self, epoch):
        """(batch_idx, batch) of what is left of the epoch, in an order that depends on (seed, epoch) only."""
        for batch_idx, batch in enumerate(self.stream.batches(epoch, self.batches_done), self.batches_done):
            if (epoch, batch_idx) not in self.left_out:
                yield batch_idx, batch

    def _log_batch(self, batch_idx, epoch, bar):
        """Report the batches since the last report; here alone the loop waits for the device."""
        self.nonfinite.report(epoch, self.train_metrics.window("loss"))
        latest = self.train_metrics.collect()
        if self.update_metrics.window("grad_norm"):
            latest |= self.update_metrics.collect()
        self.nonfinite.begin_window()
        self.writer.set_step(self._step_of(epoch, batch_idx + 1))
        for name, value in latest.items():
            self.writer.add_scalar(name, value)
        self.writer.add_scalar("lr", self._lr)
        bar.set_postfix(loss=f"{latest['loss']:.4f}")
        if bar.disable:
            self.logger.debug(
                "epoch %d/%d %s  loss %.4f", epoch, self.epochs, self._progress(batch_idx), latest["loss"]
            )

    @property
    def _lr(self):
        """The learning rate of the last update, whatever the schedule has set since."""
        return self.optimizer.param_groups[0]["lr"] if self.optim_step.lr is None else self.optim_step.lr

    def _step_of(self, epoch, batches_done):
        """The place on TensorBoard's axis: batches since the beginning."""
        return (epoch - 1) * self.len_epoch + batches_done

    def _progress(self, batch_idx: int) -> str:
        """How far the epoch is, as "[120/422 (28%)]"."""
        done = batch_idx + 1
        return f"[{done}/{self.len_epoch} ({100 * done / self.len_epoch:.0f}%)]"

    def _progress_bar(self, epoch):
        """A bar on a terminal; silent where the output goes into a file, which gets lines instead."""
        on_terminal = all(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr))
        description = f"epoch {epoch}/{self.epochs}"
        silent = not on_terminal or self.settings.verbosity < 2 or not is_main()
        return tqdm(total=self.len_epoch, desc=description, leave=False, disable=silent, dynamic_ncols=True)

    def _show_epoch(self, values, epoch, mode):
        """Write an epoch's averages to TensorBoard."""
        self.writer.set_step(self._step_of(epoch, self.len_epoch), mode, timed=False)
        for name, value in values.items():
            self.writer.add_scalar(f"epoch_{name}", value)
        metrics = self.train_metrics if mode == "train" else self.valid_metrics
        show_tables(metrics.tables, self.writer, self.config.log_dir, getattr(self.data_loader, "classes", None))

    def _show_images(self, data, epoch):
        """Write up to 32 input images (N, 1 or 3, H, W) to TensorBoard, their values stretched to [0, 1]."""
        every = self.settings.images_every_epochs
        if not self.writer.enabled or not every or (epoch - 1) % every:
            return
        if getattr(data, "ndim", 0) == 4 and data.shape[1] in (1, 3):
            images = data[:32].float()
            low, high = images.min(), images.max()
            self.writer.set_step(self._step_of(epoch, 1), timed=False)
            self.writer.add_images("input", (images - low) / (high - low).clamp(min=1e-12))

    def _show_histograms(self, epoch):
        """Write the distribution of each parameter to TensorBoard."""
        every = self.settings.histograms_every_epochs
        if not every or epoch % every or not shows(self.writer, self.model):
            return
        self.writer.set_step(self._step_of(epoch, self.len_epoch), timed=False)
        for name, parameter in unwrapped(self.model).named_parameters():
            values = whole(parameter.detach())
            if not values.isfinite().all():
                self.logger.warning("epoch %d: %s holds values that are not finite", epoch, name)
                continue
            self.writer.add_histogram(f"parameters/{name}", values)

    def _plateau_metric(self, name):
        """The value that ReduceLROnPlateau watches, None for another scheduler."""
        if not isinstance(self.lr_scheduler, ReduceLROnPlateau):
            return None
        return name or self.mnt_metric or ("val_loss" if self.do_validation else "loss")

    def _require_finite(self):
        if self.batches_done and not self.nonfinite.skips:  # else the epoch's end has looked at all of them
            self.nonfinite.report(self.epoch, self.train_metrics.window("loss"))
        super()._require_finite()

    def _roll_back(self, error):
        super()._roll_back(error)
        self.stream.restart()

    def _step_scheduler(self, log):
        if self.plateau_metric is None:
            self.lr_scheduler.step()
        elif self.plateau_metric in log:
            self.lr_scheduler.step(log[self.plateau_metric])
        else:
            raise UserError(
                f"lr_scheduler.monitor: nothing called {self.plateau_metric!r} is logged; there are {', '.join(log)}"
            )

    # ---- what is said and refused before training

    def _refuse_what_cannot_work(self):
        """Raise UserError where the settings, the data and the model do not go together."""
        own_validation = type(self)._valid_epoch is not Trainer._valid_epoch
        refuse_limits(self.config, self.valid_data_loader, self._own_loop, own_validation)
        if num_batches(self.data_loader) == 0:
            raise UserError("data_loader: has no batches; a batch may be larger than the data, with drop_last")
        total = getattr(self.lr_scheduler, "total_steps", None)
        steps, unit = self._schedule_steps()
        if total is not None and steps > total:
            raise UserError(
                f"lr_scheduler.args.total_steps: it is {total}, but the run has {steps} {unit} to step after"
            )
        classes = getattr(self.data_loader, "classes", None) or ()
        given = self.config.get("arch", {}).get("args", {}).get("num_classes")
        if isinstance(given, int) and given < len(classes):
            raise UserError(f"arch.args.num_classes: got {given}, and the data have {len(classes)} classes")
        refuse_small_parts(self.model, self.data_loader)

    def _schedule_steps(self):
        """(how often the run's schedule steps, after what)."""
        if self.schedule_interval == "step":
            return self.epochs * math.ceil(self.len_epoch / self.settings.accumulate), "updates"
        return self.epochs, "epochs"

    def _describe_run(self):
        """Log what is trained, where and how, and what in the settings is unusual; draw the graph of the model."""
        self.logger.info("%s\n", self._summary)
        self.logger.info("run %s on %s, seed %d", self.checkpoint_dir, self.device, self.config.settings.seed)
        for line in describe_batches(self.data_loader, self.settings.accumulate):
            self.logger.info("%s", line)
        if not self.resumes_within_epochs and not self._own_loop:
            self.logger.warning("data_loader cannot tell where it is: if stopped within an epoch, the run repeats it")
        if self.settings.compile == "dynamic":
            what = "a resume may differ in the last bits, since kernels are made for the first shape that comes"
            self.logger.warning('trainer.compile: "dynamic": %s', what)
        steps, _ = self._schedule_steps()
        for name, scheduler in getattr(self.lr_scheduler, "by_name", {"": self.lr_scheduler}).items():
            if over := over_before(scheduler, steps - 1):  # the last step is for after the run
                self.logger.warning("%s: %s", f"lr_scheduler.{name}".rstrip("."), over)
        if self.config.resume is None and self._example is not None and not is_sharded(self.model):
            self.writer.add_graph(unwrapped(self.model), self._example)
