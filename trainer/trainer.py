"""YOURS to subclass: what happens in an epoch and with a batch."""

import itertools
import math
import sys

from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from base import BaseTrainer
from trainer.evaluate import evaluate, record, reduction_of
from trainer.optim_step import OptimStep
from trainer.speed import apply_switches, autocast, grad_scaler, to_device
from utils import MetricTracker, UserError, inf_loop
from utils.config.schema import TrainerSettings


class Trainer(BaseTrainer):
    """Trains on batches (data, target) and validates after each epoch.

    device: where batches are sent. data_loader: of the training part. valid_data_loader: None for no validation.
    lr_scheduler: steps after each epoch, or after each update if its config section says so. len_epoch: batches in
    an epoch, by default trainer.len_epoch of the config, else one pass over data_loader; with it the epochs
    continue one endless stream of passes.
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
        _refuse_lengths(config, data_loader, lr_scheduler, len_epoch)
        self.reduction = reduction_of(criterion)
        apply_switches(model, TrainerSettings.model_validate(config["trainer"]), device)
        super().__init__(model, criterion, metric_ftns, optimizer, config)
        settings = self.settings
        self.device = device
        self.data_loader = data_loader
        self.valid_data_loader = valid_data_loader
        self.do_validation = valid_data_loader is not None
        self.lr_scheduler = lr_scheduler

        self.optim_step = OptimStep(
            optimizer,
            accumulate=settings.accumulate,
            reduction=self.reduction,
            clip_norm=settings.clip_norm,
            clip_value=settings.clip_value,
            scaler=grad_scaler(settings.precision, device),
        )

        len_epoch = len_epoch or settings.len_epoch
        self.by_iterations = len_epoch is not None
        self.len_epoch = len_epoch or len(data_loader)
        self._endless = inf_loop(data_loader)  # for a loader without set_epoch, trained by iterations
        self.log_step = settings.log_step or max(1, self.len_epoch // 20)

        names = ["loss", *(metric.__name__ for metric in metric_ftns)]
        self.train_metrics = MetricTracker(*names)
        self.valid_metrics = MetricTracker(*names)

        schedule = config.get("lr_scheduler") or {}
        self.schedule_interval = schedule.get("interval", "epoch") if lr_scheduler is not None else None
        self.plateau_metric = self._plateau_metric(schedule.get("monitor"))

    def _train_epoch(self, epoch):
        """Train and validate one epoch; returns {name: average over the epoch's samples}."""
        self.model.train()
        self.train_metrics.reset()
        with self._progress_bar(epoch) as bar:
            for batch_idx, (data, target) in enumerate(self._batches(epoch)):
                data, target = to_device(data, self.device), to_device(target, self.device)
                if batch_idx == 0:
                    self._show_images(data, epoch)

                with autocast(self.settings.precision, self.device):
                    output = self.model(data)
                    loss = self.criterion(output, target)
                if self.optim_step.step(loss, len(target)):  # backward, and at a window's end the update
                    self._after_update()

                record(self.train_metrics, self.metric_ftns, loss, output, target, self.reduction)
                bar.update()
                self.saver.check()
                if (batch_idx + 1) % self.log_step == 0 or batch_idx + 1 == self.len_epoch:
                    self._log_batch(batch_idx, epoch, bar)
            if self.optim_step.finish():  # the epoch's last window was a short one
                self._after_update()

        log = {**self.train_metrics.result(), "lr": self.optimizer.param_groups[0]["lr"]}
        self._show_epoch(log, epoch, mode="train")
        self._show_histograms(epoch)
        if self.do_validation:
            result = self._valid_epoch(epoch)
            log.update({f"val_{name}": value for name, value in result.items()})
        if self.schedule_interval == "epoch":
            self._step_scheduler(log)
        return log

    def _valid_epoch(self, epoch):
        """Validate; returns {name: average over the validation samples}."""
        result = evaluate(
            self.model,
            self.criterion,
            self.metric_ftns,
            self.valid_data_loader,
            self.device,
            self.valid_metrics,
            self.settings.precision,
        )
        self._show_epoch(result, epoch, mode="valid")
        return result

    def _after_update(self):
        if self.schedule_interval == "step":
            self.lr_scheduler.step()

    def _batches(self, epoch):
        """The epoch's batches, in an order that depends on (seed, epoch) only."""
        loader = self.data_loader
        if not hasattr(loader, "set_epoch"):
            yield from itertools.islice(self._endless, self.len_epoch) if self.by_iterations else loader
            return
        if not self.by_iterations:
            loader.set_epoch(epoch)
            yield from loader
            return
        position = (epoch - 1) * self.len_epoch  # in the endless stream of passes
        end = position + self.len_epoch
        while position < end:
            passes, start_batch = divmod(position, len(loader))
            loader.set_epoch(passes + 1, start_batch)
            for batch in loader:
                yield batch
                position += 1
                if position == end:
                    return

    def _log_batch(self, batch_idx, epoch, bar):
        """Report the batches since the last report; here alone the loop waits for the device."""
        latest = self.train_metrics.collect()
        self.writer.set_step((epoch - 1) * self.len_epoch + batch_idx)
        for name, value in latest.items():
            self.writer.add_scalar(name, value)
        self.writer.add_scalar("lr", self.optimizer.param_groups[0]["lr"])
        bar.set_postfix(loss=f"{latest['loss']:.4f}")
        if bar.disable:
            self.logger.debug(
                "epoch %d/%d %s  loss %.4f", epoch, self.epochs, self._progress(batch_idx), latest["loss"]
            )

    def _progress(self, batch_idx):
        """How far the epoch is, as "[120/422 (28%)]"."""
        done = batch_idx + 1
        return f"[{done}/{self.len_epoch} ({100 * done / self.len_epoch:.0f}%)]"

    def _progress_bar(self, epoch):
        """A bar on a terminal; silent where the output goes into a file, which gets lines instead."""
        on_terminal = all(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr))
        description = f"epoch {epoch}/{self.epochs}"
        silent = not on_terminal or self.settings.verbosity < 2
        return tqdm(total=self.len_epoch, desc=description, leave=False, disable=silent, dynamic_ncols=True)

    def _show_epoch(self, values, epoch, mode):
        """Write an epoch's averages to TensorBoard."""
        self.writer.set_step(epoch * self.len_epoch, mode, timed=False)
        for name, value in values.items():
            self.writer.add_scalar(f"epoch_{name}", value)

    def _show_images(self, data, epoch):
        """Write up to 32 input images (N, 1 or 3, H, W) to TensorBoard, their values stretched to [0, 1]."""
        every = self.settings.images_every_epochs
        if self.writer.writer is None or not every or (epoch - 1) % every:
            return
        if data.dim() == 4 and data.shape[1] in (1, 3):
            images = data[:32].float()
            low, high = images.min(), images.max()
            self.writer.set_step((epoch - 1) * self.len_epoch, timed=False)
            self.writer.add_images("input", (images - low) / (high - low).clamp(min=1e-12))

    def _show_histograms(self, epoch):
        """Write the distribution of each parameter to TensorBoard."""
        every = self.settings.histograms_every_epochs
        if self.writer.writer is None or not every or epoch % every:
            return
        self.writer.set_step(epoch * self.len_epoch, timed=False)
        for name, parameter in self.model.named_parameters():
            if not parameter.isfinite().all():
                self.logger.warning("epoch %d: %s holds values that are not finite", epoch, name)
                continue
            self.writer.add_histogram(f"parameters/{name}", parameter.detach())

    def _plateau_metric(self, name):
        """The value that ReduceLROnPlateau watches, None for another scheduler."""
        if not isinstance(self.lr_scheduler, ReduceLROnPlateau):
            return None
        return name or self.mnt_metric or ("val_loss" if self.do_validation else "loss")

    def _step_scheduler(self, log):
        if self.plateau_metric is None:
            self.lr_scheduler.step()
        elif self.plateau_metric in log:
            self.lr_scheduler.step(log[self.plateau_metric])
        else:
            raise UserError(
                f"lr_scheduler.monitor: nothing called {self.plateau_metric!r} is logged; there are {', '.join(log)}"
            )


def _refuse_lengths(config, data_loader, lr_scheduler, len_epoch):
    """Raise UserError, before the run has a folder, if there is nothing to train on or the schedule is too short."""
    if len(data_loader) == 0:
        raise UserError("data_loader: has no batches; a batch may be larger than the data, with drop_last")
    total = getattr(lr_scheduler, "total_steps", None)
    by_step = (config.get("lr_scheduler") or {}).get("interval") == "step"
    trainer = config["trainer"]
    batches = len_epoch or trainer.get("len_epoch") or len(data_loader)
    steps = trainer["epochs"] * (math.ceil(batches / trainer.get("accumulate", 1)) if by_step else 1)
    if total is not None and steps > total:
        unit = "updates" if by_step else "epochs"
        raise UserError(f"lr_scheduler.args.total_steps: it is {total}, but the run has {steps} {unit} to step after")
