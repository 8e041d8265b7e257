"""Built-in callbacks: early stopping, the best checkpoints, a time limit, freezing parameters, further validation."""

import math
import re
import time
from typing import TYPE_CHECKING, Any

from base import BaseCallback, BaseDataLoader
from base.training.batch_stream import limited, num_batches, require_shared
from base.training.checkpoints import evaluated_model
from base.training.evaluate import evaluate
from utils import MetricTracker, UserError
from utils.config.components import PARTS, dict_at, specs_in, watched
from utils.config.types import build
from utils.distributed.parallel import needs_all_gradients
from utils.distributed.world import is_main
from utils.duration import RunLength
from utils.errors import quantity
from utils.patterns import choose_names
from utils.runs.checkpoint import copy_checkpoint, find_logged
from utils.runs.weights import unwrapped
from utils.untrusted import as_count, as_list, as_number

if TYPE_CHECKING:
    from base.base_trainer import BaseTrainer
    from trainer.trainer import Trainer


class EarlyStopping(BaseCallback):
    """Stops training when a value no longer improves.

    monitor: "min val_loss", "max val_accuracy" or another logged value.
    patience: epochs without improvement after which training stops.
    min_delta: smallest change that counts as an improvement.
    baseline: a value to improve on from the start; None for the first epoch's value.
    target: training stops as soon as the value reaches this, in a validation within an epoch too; None for no target.
    """

    def __init__(
        self,
        monitor: str,
        patience: int = 10,
        min_delta: float = 0.0,
        baseline: float | None = None,
        target: float | None = None,
    ) -> None:
        self.mode, self.name = parse_monitor(monitor)
        require(isinstance(patience, int) and patience >= 1, "patience", patience, "an integer of at least 1")
        require(min_delta >= 0, "min_delta", min_delta, "0 or more")
        self.patience, self.min_delta, self.target = patience, min_delta, target
        self.best = baseline
        self.count = 0

    def on_train_start(self, trainer: "BaseTrainer") -> None:
        if self.count >= self.patience:
            trainer.stop(f"no better {self.name} for {quantity(self.count, 'epoch')}")

    def on_valid_end(self, trainer: "BaseTrainer", log: dict[str, Any]) -> None:
        value = log.get(self.name, math.nan)
        if self.target is not None and (value == self.target or better(self.mode, value, self.target)):
            trainer.stop(f"{self.name} is {value:.6g}, and {self.target:g} was the target")

    def on_epoch_end(self, trainer: "BaseTrainer", log: dict[str, Any]) -> None:
        self.on_valid_end(trainer, log)  # the target may be a value of the training part
        value = logged(log, self.name)
        first = self.best is None and math.isfinite(value)
        improved = first or (self.best is not None and better(self.mode, value, self.best, self.min_delta))
        self.best = value if improved else self.best
        self.count = 0 if improved else self.count + 1
        if self.count >= self.patience:
            trainer.stop(f"no better {self.name} for {quantity(self.count, 'epoch')}")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        best = state["best"]
        self.best = None if best is None else as_number(best)
        self.count = as_count(state["count"])


class SaveTopK(BaseCallback):
    """Keeps the checkpoints of the k best epochs, as top-<monitored name>-epoch<N>.pth.

    monitor: as for EarlyStopping.
    k: number of checkpoints to keep.
    """

    def __init__(self, monitor: str, k: int = 3) -> None:
        self.mode, self.name = parse_monitor(monitor)
        require(isinstance(k, int) and k >= 1, "k", k, "an integer of at least 1")
        self.k = k
        self.kept = []  # (value, epoch), the best first

    def on_train_start(self, trainer: "BaseTrainer") -> None:
        if is_main() and not trainer.stop_reason:  # the other processes do not write
            self._put_in_order(trainer.checkpoint_dir, trainer.start_epoch - 1, trainer.logger)

    def on_epoch_end(self, trainer: "BaseTrainer", log: dict[str, Any]) -> None:
        value = logged(log, self.name)
        if not math.isfinite(value):
            return
        ranked = sorted([*self.kept, (value, log["epoch"])], key=lambda kept: (self._rank(kept[0]), kept[1]))
        self.kept = ranked[: self.k]
        if (value, log["epoch"]) in self.kept:
            trainer.save_as(self._file(log["epoch"]), instead_of=[self._file(epoch) for _, epoch in ranked[self.k :]])

    def state_dict(self) -> dict[str, Any]:
        return {"kept": [list(kept) for kept in self.kept]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kept = [(as_number(value), as_count(epoch)) for value, epoch in as_list(state["kept"])]

    def _put_in_order(self, folder, last_epoch, logger):
        """Make the files in the folder match the epochs kept so far, after a resume or a kill.

        A missing file is copied again from its epoch's checkpoint; an epoch without a checkpoint is no longer counted.
        """
        dropped = {*range(1, last_epoch + 1)} - {epoch for _, epoch in self.kept}
        for epoch in dropped:
            (folder / self._file(epoch)).unlink(missing_ok=True)
        brought, gone = [], []
        for value, epoch in self.kept:
            if (folder / self._file(epoch)).exists():
                continue
            path = find_logged(folder, self.name, value, f"checkpoint-epoch{epoch}.pth")
            if path is not None:
                copy_checkpoint(path, folder / self._file(epoch))
            (gone if path is None else brought).append(epoch)
        self.kept = [kept for kept in self.kept if kept[1] not in gone]
        for epochs, what in ((brought, "restored"), (gone, "no longer counted, since its checkpoint is gone")):
            if epochs:
                logger.info("top-%s: epoch %s: %s", self.name, ", ".join(map(str, sorted(epochs))), what)

    def _rank(self, value):
        return value if self.mode == "min" else -value

    def _file(self, epoch):
        return f"top-{self.name}-epoch{epoch}.pth"


class TimeLimit(BaseCallback):
    """Saves and stops after a total training time, summed over all restarts of the run.

    max_time: "hours:minutes:seconds", as "00:30:00".
    """

    def __init__(self, max_time: str) -> None:
        fits = re.fullmatch(r"\d{1,6}:[0-5]\d:[0-5]\d", str(max_time)) is not None
        require(fits, "max_time", max_time, '"hours:minutes:seconds", as "00:30:00"')
        hours, minutes, seconds = map(int, str(max_time).split(":"))
        self.max_time = max_time
        self.max_seconds = 3600 * hours + 60 * minutes + seconds
        self.before = 0.0  # seconds that earlier processes took
        self.started = time.monotonic()

    def on_train_start(self, trainer: "BaseTrainer") -> None:
        self.started = time.monotonic()
        self.on_step_end(trainer)

    def on_step_end(self, trainer: "BaseTrainer") -> None:
        if self.seconds >= self.max_seconds:
            trainer.stop(f"the time limit of {self.max_time} is reached")

    def on_epoch_end(self, trainer: "BaseTrainer", log: dict[str, Any]) -> None:
        self.on_step_end(trainer)

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.before = as_number(state["seconds"])
        self.started = time.monotonic()


class ValidateOn(BaseCallback):
    """Validates on further data after each epoch, and logs the loss and the metrics as "<name>_loss" and so on.

    name: of the data, as "noisy".
    data_loader: {"type", "args"} of a loader all of whose samples are used, as in the section "valid_data_loader".
    every_epochs: epochs between two validations. The last epoch has one, too, unless early_stop ends the run.

    trainer.limit_valid_batches limits these validations, too.
    """

    def __init__(self, name: str, data_loader: dict, every_epochs: int = 1) -> None:
        require(name.isidentifier() and name != "val", "name", name, 'a word such as "noisy"')
        require(every_epochs >= 1, "every_epochs", every_epochs, "at least 1")
        self.name, self.spec, self.every_epochs = name, data_loader, every_epochs
        self._loader: Any = None

    def check(self, trainer: "Trainer") -> None:
        if not hasattr(trainer, "valid_metrics"):
            raise UserError("ValidateOn needs a Trainer, which says how a batch is evaluated")
        specs = specs_in(trainer.config.config, "callbacks").values()
        names = [dict_at(spec, "args").get("name") for spec in specs if spec["type"] == "ValidateOn"]
        require(names.count(self.name) < 2, "name", self.name, "another word in each ValidateOn")
        for place, name in watched(trainer.config.config).items():
            if self.every_epochs > 1 and name.startswith(f"{self.name}_"):
                raise UserError(f"every_epochs: got {self.every_epochs}; {place} needs a value in every epoch; give 1")
        loader = build("data_loader", self.spec, PARTS["valid_data_loader"]).to(trainer.device)
        if isinstance(trainer.data_loader, BaseDataLoader):
            loader.load_state_dict(trainer.data_loader.state_dict())  # the same classes, and the same scales
        self._loader = loader.as_validation()
        require_shared("data_loader", self._loader)
        self._limit = limited(num_batches(self._loader), trainer.settings.limit_valid_batches)
        self._tracker = MetricTracker.of(trainer.metric_ftns, trainer.device)

    def on_epoch_end(self, trainer: "Trainer", log: dict[str, Any]) -> None:
        if log["epoch"] % self.every_epochs and log["epoch"] < trainer.epochs and trainer.stop_reason is None:
            return
        parts = evaluated_model(trainer), trainer.criterion, trainer.metric_ftns, self._loader, trainer.device
        values = evaluate(*parts, self._tracker, trainer.settings.precision, limit=self._limit)
        log |= {f"{self.name}_{key}": value for key, value in values.items()}


class Freeze(BaseCallback):
    """Excludes parameters from training for some epochs.

    params: patterns of their names, as "encoder.*" or ["conv*", "*.bias"].
    start: duration after which they are frozen, counted in whole epochs.
    until: duration after which they are trained again, counted in whole epochs; None for never.

    Running statistics of batch norm are buffers, not parameters, and are still updated.
    """

    def __init__(self, params: str | list, start: str | int = 0, until: str | int | None = None) -> None:
        self.params, self.start, self.until = params, start, until
        self._frozen, self._first, self._last = [], 0, math.inf

    def check(self, trainer: "BaseTrainer") -> None:
        named = dict(unwrapped(trainer.model).named_parameters())
        chosen = choose_names(self.params, named, "params")
        # others were frozen by the model itself
        self._frozen = [named[name] for name in chosen if named[name].requires_grad]
        loader = getattr(trainer, "data_loader", None)
        batch_size, len_epoch = getattr(loader, "batch_size", None), getattr(trainer, "len_epoch", None)
        length = RunLength(trainer.epochs, len_epoch, batch_size, trainer.settings.accumulate)
        self._first = self._epochs(length, "start", self.start)
        self._last = math.inf if self.until is None else self._epochs(length, "until", self.until)
        require(self._first <= self._last, "until", self.until, f"later than start, which is {self.start!r}")
        for group in trainer.optimizer.param_groups:
            if group.get("fused") and group.get("momentum"):
                group["fused"] = False  # the fused kernel fails where some parameters have no momentum yet
        self._trainer = trainer
        acts = self._first < min(self._last, trainer.epochs)
        if acts and needs_all_gradients(trainer.model):
            raise UserError("Freeze: with several processes, set parallel.args.find_unused_parameters to true")
        if acts and all(id(p) in map(id, self._frozen) for p in named.values() if p.requires_grad):
            raise UserError(f"params: {self.params!r} freezes all parameters, so there is nothing to train")

    def on_train_start(self, trainer: "BaseTrainer") -> None:
        if not self._begin(trainer, trainer.start_epoch):
            raise UserError(f"params: {self.params!r} leaves nothing to train in epoch {trainer.start_epoch}")

    def on_epoch_end(self, trainer: "BaseTrainer", log: dict[str, Any]) -> None:
        if log["epoch"] < trainer.epochs and not self._begin(trainer, log["epoch"] + 1):
            trainer.stop(f"Freeze of {self.params!r} leaves nothing to train in epoch {log['epoch'] + 1}")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._begin(self._trainer, self._trainer.start_epoch)  # a rollback resumes in an earlier epoch

    def _begin(self, trainer, epoch):
        """Freeze or unfreeze for the epoch; returns whether any parameter is left to train."""
        frozen = self._first < epoch <= self._last
        for parameter in self._frozen:
            parameter.requires_grad_(not frozen)
        return any(parameter.requires_grad for parameter in trainer.model.parameters())

    def _epochs(self, length, argument, duration):
        try:
            return length.in_epochs(duration)
        except UserError as error:
            raise UserError(f"{argument}: {error}") from None


def parse_monitor(monitor: str) -> tuple[str, str]:
    """("min", "val_loss") of "min val_loss". Raises UserError for other text."""
    mode, _, name = str(monitor).partition(" ")
    require(mode in ("min", "max") and name, "monitor", monitor, '"min" or "max" and a name, as "min val_loss"')
    return mode, name


def better(mode: str, value: float, best: float, by: float = 0.0) -> bool:
    """Whether the value improves on the best by more than `by`; nan never does."""
    return (best - value if mode == "min" else value - best) > by


def logged(log: dict[str, Any], name: str) -> float:
    """The logged value of that name. Raises UserError if there is none."""
    if name not in log:
        raise UserError(f"monitor: nothing called {name!r} is logged; there are {', '.join(log)}")
    return log[name]


def require(fits: object, argument: str, value: object, wanted: str) -> None:
    """Raise UserError unless the value fits."""
    if not fits:
        raise UserError(f"{argument}: got {value!r}; it should be {wanted}")
