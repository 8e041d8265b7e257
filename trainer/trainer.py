"""YOURS to subclass: what happens in an epoch and with a batch."""

import math
import sys

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from base import BaseTrainer
from base.training.batch_stream import BatchStream, limited, num_batches
from base.training.debugging import looked_into, overfitted, refuse_limits
from base.training.evaluate import evaluate, record, reduction_of, trackers
from base.training.gradient_watch import GradientWatch
from base.training.nonfinite import NonFiniteError, StepLog, merged_faults, nonfinite_samples
from base.training.optim_step import OptimStep
from base.training.own_loop import LEFT_TO_EPOCH, has_own_loop
from base.training.precision import apply_switches, autocast, grad_scaler, to_device
from base.training.schedules import interval_of
from base.training.sharing import refuse_small_parts, require_shared
from base.training.trainer_state import measured_model
from logger.tables import show_tables
from utils import MetricTracker, UserError
from utils.config.schema import TrainerSettings
from utils.distributed.messages import broadcast, gather, sums
from utils.distributed.shards import shows, whole
from utils.distributed.world import is_main
from utils.nested import describe, describe_step, halves, num_samples
from utils.runs.schedule_state import over_before
from utils.runs.weights import unwrapped
from utils.seed import rng_state

_SAMPLES_NAMED = 20  # of a batch at fault
_BATCHES_READ_AGAIN = 4  # of those at fault


class Trainer(BaseTrainer):
    """Trains on batches (data, target), each a tensor or what holds tensors, and validates after each epoch.

    device: where batches are sent. data_loader: of the training part. valid_data_loader: None for no validation.
    lr_scheduler: steps after each epoch, or after each update if its config section says so. len_epoch: batches in
    an epoch, by default trainer.len_epoch of the config, else one pass over data_loader; with it the epochs
    continue one endless stream of passes.

    A run goes on from any batch if data_loader says where it is: through set_epoch(epoch, start_batch), as
    BaseDataLoader does, or through state_dict and load_state_dict of its own or of the dataset that it iterates.
    """

    def __init__(
        self,
        model,
        criterion,
        metric_ftns,
        optimizer,
        config,
        device,
        data_loader,
        valid_data_loader=None,
        lr_scheduler=None,
        len_epoch=None,
    ):
        own_loop = type(self)._train_epoch is not Trainer._train_epoch and not type(self).resumes_within_epochs
        data_loader, valid_data_loader = overfitted(config, data_loader, valid_data_loader)
        refuse_limits(config, valid_data_loader, own_loop, type(self)._valid_epoch is not Trainer._valid_epoch)
        require_shared("valid_data_loader", valid_data_loader)
        settings = TrainerSettings.model_validate(config["trainer"])
        self.stream = BatchStream(data_loader, len_epoch or settings.len_epoch, settings.limit_train_batches)
        _refuse_lengths(config, self.stream, lr_scheduler)
        _refuse_classes(config, data_loader)
        refuse_small_parts(model, data_loader)
        self.reduction = reduction_of(criterion)
        self.train_metrics, self.valid_metrics = trackers(metric_ftns, device, config)
        apply_switches(model, settings, device)
        self.resumes_within_epochs = self.stream.keeps_position and not own_loop
        self.left_to_loop = LEFT_TO_EPOCH if has_own_loop(type(self), Trainer) else ()
        self.len_epoch = self.stream.len_epoch
        self.device = device
        self.data_loader = data_loader
        self.valid_data_loader = valid_data_loader
        self.do_validation = valid_data_loader is not None
        self.valid_batches = limited(num_batches(valid_data_loader), settings.limit_valid_batches)
        self.lr_scheduler = lr_scheduler
        super().__init__(model, criterion, metric_ftns, optimizer, config)
        if not self.resumes_within_epochs and not own_loop:
            self.logger.warning("data_loader cannot tell where it is: if stopped within an epoch, the run repeats it")
        skips = settings.on_nonfinite == "skip"
        self.gradient_watch = GradientWatch()
        self.optim_step = OptimStep(
            optimizer,
            accumulate=settings.accumulate,
            reduction=self.reduction,
            clip_norm=settings.clip_norm,
            clip_value=settings.clip_value,
            scaler=grad_scaler(settings.precision, device),
            watch=self.gradient_watch if settings.on_nonfinite != "ignore" else None,
            skip_nonfinite=skips,
            buffers=model.buffers(),
            model=model,
        )

        self.log_step = settings.log_step or max(1, self.len_epoch // 20)
        self.update_metrics = MetricTracker("grad_norm", finite_only=skips)
        self.step_log = StepLog()

        schedule = config.get("lr_scheduler") or {}
        self.schedule_interval = interval_of(schedule) if lr_scheduler is not None else None
        self.plateau_metric = self._plateau_metric(schedule.get("monitor"))

    def _warn_of_settings(self):
        if self.settings.compile == "dynamic":
            what = "a resume may differ in the last bits, since kernels are made for the first shape that comes"
            self.logger.warning('trainer.compile: "dynamic": %s', what)
        steps, _ = _schedule_steps(self.config, self.stream)
        for name, scheduler in getattr(self.lr_scheduler, "by_name", {"": self.lr_scheduler}).items():
            if over := over_before(scheduler, steps - 1):  # the last step is for after the run
                self.logger.warning("%s: %s", f"lr_scheduler.{name}".rstrip("."), over)

    def train(self):
        """Run the epochs that are left."""
        self._warn_of_settings()
        with looked_into(self):
            super().train()

    def _train_epoch(self, epoch):
        """Train and validate one epoch; returns {name: average over the epoch's samples}."""
        self.is_whole = True
        self.model.train()
        if self.batches_done == 0:
            self.train_metrics.reset()
            self.update_metrics.reset()
            self.step_log.reset()
            self.gradient_watch.clear()
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
                    loss, output = self._train_batch(batch_idx, data, target)
                except Exception as error:
                    error.add_note(describe_step(data, target, self.model))
                    raise
                record(self.train_metrics, self.metric_ftns, loss, output, target, self.reduction, part)
                self.step_log.batches.append(batch_idx)
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
            if self.step_log.batches:
                self._log_batch(self.batches_done - 1, epoch, bar)

        averages = {**self.train_metrics.result(), "lr": self._lr}
        log = dict(averages)
        self._rng = rng_state()  # to resume from, until the epoch is saved
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

    def _train_batch(self, batch_idx, data, target):
        """Learn from one batch; returns (loss, output). The place for what is unusual about a step."""
        with autocast(self.settings.precision, self.device):
            output = self.model(data)
            loss = self.criterion(output, target)
        if getattr(loss, "ndim", None) != 0:
            raise UserError(f"loss: gave a {describe(loss)}; one number a batch, as a 0-dim tensor, is needed")
        last = batch_idx + 1 == self.len_epoch
        if self.optim_step.step(loss, num_samples(target), last):  # backward, and at a window's end the update
            self._after_update(batch_idx)
        return loss, output

    def _valid_epoch(self, epoch):
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
        before = self._rng
        self._rng = before or rng_state()  # the run would resume from before the validation
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
        self._rng = before
        return result

    def _after_update(self, batch_idx):
        self.step_log.updates.append(batch_idx)
        lr = self.optimizer.param_groups[0]["lr"]
        self.step_log.lr = lr.clone() if isinstance(lr, torch.Tensor) else lr  # a schedule fills a tensor in place
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
        self._check_steps()
        if self.settings.on_nonfinite == "skip":
            self._report_skipped()
        latest = self.train_metrics.collect()
        if self.update_metrics.window("grad_norm"):
            latest |= self.update_metrics.collect()
        self.step_log.clear()
        self.gradient_watch.clear()
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
        return self.optimizer.param_groups[0]["lr"] if self.step_log.lr is None else self.step_log.lr

    def _step_of(self, epoch, batches_done):
        """The place on TensorBoard's axis: batches since the beginning."""
        return (epoch - 1) * self.len_epoch + batches_done

    def _progress(self, batch_idx):
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
        if self.batches_done:  # else the epoch's end has looked at all of them
            self._check_steps()
        super()._require_finite()

    def _check_steps(self):
        """Raise NonFiniteError for the first loss or gradient norm since the last report that is not finite."""
        if self.settings.on_nonfinite in ("stop", "rollback"):
            for batches, what in self._nonfinite_steps():
                raise NonFiniteError(self._describe_steps(batches, what), batches)

    def _report_skipped(self):
        for batches, what in self._nonfinite_steps():
            self.logger.warning("%s; the update is skipped", self._describe_steps(batches, what))

    def _nonfinite_steps(self):
        faults = self.step_log.faults(self.train_metrics.window("loss"), self.gradient_watch.read())
        (found,) = sums([len(faults)])
        return merged_faults(gather(faults)) if found else []

    def _describe_steps(self, batches, what):
        place = f"epoch {self.epoch}, batch {' and '.join(str(i + 1) for i in batches)} of {self.len_epoch}"
        samples = self._samples(batches)
        bad = self._nonfinite_samples(batches[:_BATCHES_READ_AGAIN])
        named = f"; samples {_listed(samples)}" if samples else ""
        return f"{place}: {what}{named}" + (
            f"; data_loader has nan or infinity in sample {_listed(bad)}" if bad else ""
        )

    def _samples(self, batches):
        return [index for batch_idx in batches for index in self.stream.samples(self.epoch, batch_idx)]

    def _nonfinite_samples(self, batches):
        """Which samples of these batches hold nan or infinity; [] where reading them again could harm the run."""
        if self.settings.on_nonfinite != "stop" and getattr(self.data_loader, "num_workers", 0):
            return []  # a file that the dataset opens here would be shared by workers to come
        return nonfinite_samples(self.data_loader, self._samples(batches))

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


def _listed(samples):
    more = f" and {len(samples) - _SAMPLES_NAMED} more" if len(samples) > _SAMPLES_NAMED else ""
    return ", ".join(map(str, samples[:_SAMPLES_NAMED])) + more


def _refuse_lengths(config, stream, lr_scheduler):
    """Raise UserError, before the run has a folder, if there is nothing to train on or the schedule is too short."""
    if stream.len_epoch is None:
        raise UserError("data_loader: has no length; say with trainer.len_epoch how many batches make an epoch")
    if num_batches(stream.loader) == 0:
        raise UserError("data_loader: has no batches; a batch may be larger than the data, with drop_last")
    total = getattr(lr_scheduler, "total_steps", None)
    steps, unit = _schedule_steps(config, stream)
    if total is not None and steps > total:
        raise UserError(f"lr_scheduler.args.total_steps: it is {total}, but the run has {steps} {unit} to step after")


def _schedule_steps(config, stream):
    """(how often the run's schedule steps, after what)."""
    trainer = config["trainer"]
    by_step = interval_of(config.get("lr_scheduler") or {}) == "step"
    updates = math.ceil(stream.len_epoch / trainer.get("accumulate", 1))
    return (trainer["epochs"] * updates, "updates") if by_step else (trainer["epochs"], "epochs")


def _refuse_classes(config, data_loader):
    """Raise UserError if the model is said to tell fewer classes apart than the loader has found."""
    classes = getattr(data_loader, "classes", None) or ()
    given = config.get("arch", {}).get("args", {}).get("num_classes")
    if isinstance(given, int) and given < len(classes):
        raise UserError(f"arch.args.num_classes: got {given}, and the data have {len(classes)} classes")
