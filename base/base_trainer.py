"""BaseTrainer: runs the epochs, keeps the best model, saves after each and resumes."""

import math
import time
from abc import ABC, abstractmethod

from logger import CsvLog, TensorboardWriter
from utils.checkpoint import load_checkpoint, prune_checkpoints, save_checkpoint
from utils.config.files import differences
from utils.config.schema import TrainerSettings
from utils.epoch_report import epoch_report
from utils.errors import UserError
from utils.seed import derive_seed, rng_state, seed_everything, set_rng_state
from utils.weights import load_optimizer, load_weights, unwrapped


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

        self.checkpoint_dir = config.save_dir
        self.writer = TensorboardWriter(config.log_dir, self.logger, settings.tensorboard)
        self.table = CsvLog(config.log_dir / "metrics.csv")

        self._saved = None  # the newest checkpoint of this run, once there is one
        self._to_restore = {}
        if config.resume is not None:
            self._resume_checkpoint(config.resume)

    @abstractmethod
    def _train_epoch(self, epoch):
        """Train one epoch, counted from 1; returns what it logged, {name: number}."""

    def train(self):
        """Run the epochs that are left. Each starts from random generators seeded by (seed, epoch)."""
        self._restore_attributes()
        if self.start_epoch > self.epochs:
            self.logger.warning(
                "nothing left to train: epoch %d is done and trainer.epochs is %d; raise it to go on, as in "
                "--set trainer.epochs=%d", self.start_epoch - 1, self.epochs, self.epochs + 5,
            )  # fmt: skip
        try:
            for epoch in range(self.start_epoch, self.epochs + 1):
                seed_everything(derive_seed(self.config.settings.seed, epoch))
                started = time.perf_counter()
                log = {"epoch": epoch, **self._train_epoch(epoch)}
                if self._finish_epoch(log, seconds=time.perf_counter() - started):
                    break
        except KeyboardInterrupt:
            resume = f"resume with: python train.py -r {self._saved}" if self._saved else "no checkpoint was saved yet"
            self.logger.warning("stopped by Ctrl-C in epoch %d; %s", epoch, resume)
            raise
        finally:
            self.writer.close()

    def _finish_epoch(self, log, seconds):
        """Report the epoch, record it and save; returns whether training stops early."""
        epoch = log["epoch"]
        improved = self._track_best(log)
        stop = self.not_improved_count >= self.early_stop
        self.logger.info(epoch_report(log, self.epochs, seconds, improved))
        self.table.append(log)
        if epoch % self.save_period == 0 or epoch == self.epochs or stop:
            self._save_checkpoint(epoch, save_best=improved)
        elif improved:
            self._save("model_best.pth", epoch)
        if self.monitor != "off" and self.mnt_metric not in log:
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
        self._saved = self._save(f"checkpoint-epoch{epoch}.pth", epoch)
        if save_best:
            self._save("model_best.pth", epoch)
        prune_checkpoints(self.checkpoint_dir, epoch, self.settings.keep_last)

    def _save(self, name, epoch):
        model = unwrapped(self.model)
        state = {
            "arch": type(model).__name__,
            "epoch": epoch,
            "state_dict": model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "monitor_best": self.mnt_best,
            "not_improved_count": self.not_improved_count,
            "attributes": {key: value.state_dict() for key, value in self._stateful().items()},
            "rng": rng_state(),
            "config": self.config.config,
        }
        save_checkpoint(state, self.checkpoint_dir / name)
        return self.checkpoint_dir / name

    def _resume_checkpoint(self, path):
        """Restore model, optimizer, progress and random generators; attributes follow when train() starts.

        What the config has changed since wins over the checkpoint: an optimizer of another type starts anew, and a
        changed optimizer or scheduler starts the learning rate and the schedule anew.
        """
        checkpoint = load_checkpoint(path)
        load_weights(self.model, checkpoint["state_dict"])
        before = checkpoint.get("config") or {}
        changed = differences(before, self.config.config)
        rescheduled = any(line.startswith(("optimizer", "lr_scheduler")) for line in changed)
        if any(line.startswith("optimizer.type:") for line in changed):
            self.logger.warning("the optimizer is of another type than the checkpoint's: it starts anew")
        else:
            settings = [line.split(":")[0].rpartition(".")[2] for line in changed if line.startswith("optimizer.args.")]
            as_built = [*settings, "lr", "initial_lr"] if rescheduled else ()
            load_optimizer(self.optimizer, checkpoint["optimizer"], as_built)
        self.start_epoch = checkpoint["epoch"] + 1
        if not any(line.startswith("trainer.monitor:") for line in changed):
            self.mnt_best = checkpoint["monitor_best"]
            self.not_improved_count = checkpoint.get("not_improved_count", 0)
        self._to_restore = dict(checkpoint.get("attributes", {}))
        if rescheduled:
            self._to_restore.pop("lr_scheduler", None)
        if "rng" in checkpoint:
            set_rng_state(checkpoint["rng"])
        self._saved = path
        self.logger.info("resumed from %s, epoch %d", path, checkpoint["epoch"])
        for line in changed:
            self.logger.info("changed since: %s", line)

    def _restore_attributes(self):
        """Give each attribute that a resumed checkpoint holds its state back."""
        stateful = self._stateful()
        for name, state in self._to_restore.items():
            if name in stateful:
                stateful[name].load_state_dict(state)
            else:
                self.logger.warning("the checkpoint holds a state of %r, which this trainer does not have", name)
        self._to_restore = {}

    def _stateful(self):
        """{name: attribute} of all that must survive a restart, besides the model and the optimizer."""
        return {
            name: value
            for name, value in vars(self).items()
            if name not in ("model", "optimizer") and hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
        }
