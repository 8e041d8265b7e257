"""BaseTrainer: runs the epochs, keeps the best model, saves after each and resumes."""

import functools
import math
import time
from abc import ABC, abstractmethod

import torch

from logger import CsvLog, TensorboardWriter
from utils.background import BackgroundWriter
from utils.checkpoint import (
    CheckpointError,
    copy_checkpoint,
    load_checkpoint,
    plain,
    prune_checkpoints,
    save_checkpoint,
    set_aside_overtaken,
)
from utils.config.files import differences
from utils.config.schema import TrainerSettings
from utils.epoch_report import epoch_report
from utils.errors import UserError
from utils.seed import derive_seed, rng_state, seed_everything, set_rng_state
from utils.weights import load_optimizer, load_state, load_weights, unwrapped


class BaseTrainer(ABC):
    """Trains a model epoch by epoch. A subclass writes _train_epoch; train() does the rest.

    model: an nn.Module on its device. criterion: callable (output, target) -> 0-dim tensor. metric_ftns: callables
    (output, target) -> number, each with a __name__. optimizer: of the model's parameters. config: a ConfigParser.

    Every attribute that has state_dict and load_state_dict (a scheduler, a second model, a scaler) is saved with
    each checkpoint under its name, and restored when train() starts.
    """

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

        self.monitor = settings.monitor
        self.mnt_mode, _, self.mnt_metric = settings.monitor.partition(" ")
        self.mnt_best = {"min": math.inf, "max": -math.inf}.get(self.mnt_mode, 0)
        self.early_stop = settings.early_stop or math.inf
        self.not_improved_count = 0

        self._seed = torch.initial_seed()  # what the script has seeded torch with
        self._saved = None  # the newest checkpoint of this run, once there is one
        self._to_restore = {}
        self._log = {}  # what the newest checkpoint's epoch logged
        self._unsavable = set()
        if config.resume is not None:
            self._resume_checkpoint(config.resume)
            if not config.continues and self.start_epoch > self.epochs:
                raise UserError(
                    f"trainer.epochs: it is {self.epochs}, and the checkpoint is of epoch {self.start_epoch - 1} "
                    "already; raise it, since the count goes on"
                )

        self.saver = BackgroundWriter(enabled=settings.async_save)
        self.checkpoint_dir = config.save_dir  # makes the run's folders, so only now that nothing can be refused
        self.writer = TensorboardWriter(config.log_dir, self.logger, settings.tensorboard)
        self.table = CsvLog(config.log_dir / "metrics.csv")

    @abstractmethod
    def _train_epoch(self, epoch):
        """Train one epoch, counted from 1; returns what it logged, {name: number}."""

    def train(self):
        """Run the epochs that are left. Each starts from random generators seeded by (seed, epoch)."""
        self._find_unsavable()
        self._restore_attributes()
        if self.start_epoch > self.epochs:
            done = f"epoch {self.start_epoch - 1} is done and trainer.epochs is {self.epochs}"
            self.logger.warning("nothing left to train: %s; go on with --set trainer.epochs=...", done)
        epoch = self.start_epoch
        try:
            for epoch in range(self.start_epoch, self.epochs + 1):
                seed_everything(derive_seed(self._seed, epoch))
                started = time.perf_counter()
                log = {"epoch": epoch} | self._train_epoch(epoch) | {"epoch": epoch}
                if self._finish_epoch(log, seconds=time.perf_counter() - started):
                    break
            self.saver.wait()
        except KeyboardInterrupt:
            self.saver.wait()
            resume = f"resume with: python train.py -r {self._saved}" if self._saved else "no checkpoint was saved yet"
            self.logger.warning("stopped by Ctrl-C in epoch %d; %s", epoch, resume)
            raise
        finally:
            error = self.saver.close()
            if error is not None:  # only beside another one, which is on its way already
                self.logger.error("%s", error)
            self.writer.close()

    def _finish_epoch(self, log, seconds):
        """Report the epoch, record it and save; returns whether training stops early."""
        self.saver.check()
        epoch = log["epoch"]
        improved = self._track_best(log)
        stop = self.not_improved_count >= self.early_stop
        self.logger.info(epoch_report(log, self.epochs, seconds, improved))
        self._log = {key: value for key, value in log.items() if isinstance(value, (int, float, str))}
        misnamed = self.monitor != "off" and self.mnt_metric not in log
        if epoch % self.save_period == 0 or epoch == self.epochs or stop or misnamed:
            self._save_checkpoint(epoch, save_best=improved)
        elif improved:
            self._save(["model_best.pth"], epoch)
        self.table.append(log)
        if misnamed:
            self.saver.wait()
            raise UserError(
                f"trainer.monitor: nothing called {self.mnt_metric!r} is logged; logged are "
                f"{', '.join(key for key in log if key != 'epoch')} (epoch {epoch} is saved)"
            )
        if stop:
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

    def _save_checkpoint(self, epoch, save_best=False):
        """Save checkpoint-epoch<N>.pth, and model_best.pth too if this epoch is the best so far."""
        names = [f"checkpoint-epoch{epoch}.pth", "model_best.pth"]
        self._save(names if save_best else names[:1], epoch)

    def _save(self, names, epoch):
        """Write one checkpoint under all names; in the background, from a copy in memory, with trainer.async_save."""
        self.saver.wait()  # so that there is never more than one copy
        state = plain(self._state(epoch), copy=self.settings.async_save)
        self.saver.submit(functools.partial(self._write, state, [self.checkpoint_dir / name for name in names]))

    def _write(self, state, paths):
        set_aside_overtaken(self.checkpoint_dir, state["epoch"])
        save_checkpoint(state, paths[0])
        self._saved = paths[0]
        for path in paths[1:]:
            copy_checkpoint(paths[0], path)
        prune_checkpoints(self.checkpoint_dir, self.settings.keep_last)

    def _state(self, epoch):
        """All that must survive a restart."""
        model = unwrapped(self.model)
        return {
            "arch": type(model).__name__,
            "epoch": epoch,
            "state_dict": model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "monitor_best": self.mnt_best,
            "not_improved_count": self.not_improved_count,
            "attributes": {key: value.state_dict() for key, value in self._stateful().items()},
            "rng": rng_state(),
            "log": self._log,
            "config": self.config.config,
        }

    def _resume_checkpoint(self, path):
        """Restore model, optimizer, progress and random generators; attributes follow when train() starts.

        What the config has changed since wins over the checkpoint: an optimizer of another type starts anew, a
        changed optimizer or lr_scheduler section starts the learning rate and the schedule anew, a changed loss
        its own state. A run of its own starts with no best value yet.
        """
        checkpoint = self.config.load_checkpoint() if path == self.config.resume else load_checkpoint(path)
        before, now = checkpoint.get("config", {}), self.config.config
        changed = {key for key in {**before, **now} if before.get(key) != now.get(key)}
        load_weights(self.model, checkpoint["state_dict"])
        if "optimizer" not in checkpoint or _type_of(before) != _type_of(now):
            self.logger.warning("the checkpoint holds no state of an optimizer of this type: it starts anew")
        else:
            load_optimizer(self.optimizer, checkpoint["optimizer"], bool(changed & {"optimizer", "lr_scheduler"}))
        self.start_epoch = checkpoint.get("epoch", 0) + 1
        if self.config.continues and before.get("trainer", {}).get("monitor", "off") == self.monitor:
            self.mnt_best = checkpoint.get("monitor_best", self.mnt_best)
            self.not_improved_count = checkpoint.get("not_improved_count", 0)
        self._log = checkpoint.get("log", {}) if self.config.continues else {}
        self._to_restore = dict(checkpoint.get("attributes", {}))
        for name, sections in _STARTS_ANEW.items():
            if changed & sections:
                self._to_restore.pop(name, None)
        if "rng" in checkpoint:
            set_rng_state(checkpoint["rng"])
        self._saved = path
        self.logger.info("resumed from %s, epoch %d", path, self.start_epoch - 1)
        for line in differences(before, now):
            self.logger.info("changed since: %s", line)

    def _restore_attributes(self):
        """Give each attribute that a resumed checkpoint holds its state back, and metrics.csv a row it lacks."""
        stateful = self._stateful()
        for name, state in self._to_restore.items():
            if name in stateful:
                load_state(name, stateful[name], state)
            else:
                self.logger.warning("the checkpoint holds a state of %r, which this trainer does not have", name)
        self._to_restore = {}
        if "epoch" in self._log and self._log["epoch"] not in self.table.epochs():
            self.table.append(self._log)  # the run was killed between the checkpoint and the row

    def _stateful(self):
        """{name: attribute} of all that must survive a restart, besides the model and the optimizer."""
        return {
            name: unwrapped(value)
            for name, value in vars(self).items()
            if name not in ("model", "optimizer", *self._unsavable)
            and hasattr(value, "state_dict")
            and hasattr(value, "load_state_dict")
        }

    def _find_unsavable(self):
        """Say at the start which attributes have a state that no safe file can hold; they start anew on a resume."""
        for name, value in self._stateful().items():
            try:
                plain(value.state_dict(), name)
            except CheckpointError as error:
                self.logger.warning("self.%s will not survive a restart: %s", name, error)
                self._unsavable.add(name)


# Attributes that start anew when one of these sections of the config has changed since the checkpoint.
_STARTS_ANEW = {"lr_scheduler": {"optimizer", "lr_scheduler"}, "criterion": {"loss"}}


def _type_of(config):
    section = config.get("optimizer")
    return section.get("type") if isinstance(section, dict) else None
