"""Built-in callbacks that average the weights during training; the average is validated and saved."""

import copy
import itertools
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn, update_bn

from base import BaseCallback
from base.training.evaluate import evaluate
from utils import UserError
from utils.batches import batches_of
from utils.distributed.parallel import has_unshared_batch_norm
from utils.distributed.shards import refuse_sharded
from utils.distributed.world import world_size
from utils.duration import RunLength, is_part
from utils.errors import quantity
from utils.runs.weights import load_weights, unwrapped
from utils.untrusted import as_count

if TYPE_CHECKING:
    from trainer.trainer import Trainer


class EMA(BaseCallback):
    """Keeps an exponential moving average of the weights, which is validated and saved in place of the model.

    decay: weight of the old average at each optimizer step; 0.999 averages about the last 1,000 steps. After n steps
        it is (1 + n) / (10 + n) if that is less, so that the initial weights are soon forgotten.

    A checkpoint also holds the weights as trained, in "trained_state_dict", to resume from. Buffers, such as the
    running statistics of batch norm, are not averaged: they are the model's. So are parameters without an optimizer,
    which may be frozen, or updated by the model itself, as a momentum encoder is.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise UserError(f"decay: got {decay!r}; it should be above 0 and below 1")
        self.decay = decay
        self.updates = 0  # optimizer steps, of all optimizers
        self._model: torch.nn.Module | None = None
        self._to_load = None

    def check(self, trainer: "Trainer") -> None:
        refuse_sharded(trainer.model, "EMA")

    def on_train_start(self, trainer: "Trainer") -> None:
        if trainer.averaged_model is not None:
            raise UserError("EMA: another callback averages the weights already; leave one of them out")
        model = unwrapped(trainer.model)
        self._model = trainer.averaged_model = copy.deepcopy(model).requires_grad_(False)
        if self._to_load is not None:
            load_weights(self._model, self._to_load)
        self._to_load = None
        averages = dict(zip(model.parameters(), self._model.parameters(), strict=True))
        modules = list(zip(model.modules(), self._model.modules(), strict=True))
        with_buffers = [(own, average) for own, average in modules if own._buffers]
        if self.updates:
            _share_buffers(with_buffers)
        with_optimizer = set()
        for optimizer in getattr(trainer.optimizer, "by_name", {"": trainer.optimizer}).values():
            trained = [p for group in optimizer.param_groups for p in group["params"] if p in averages]
            pairs = [averages[parameter] for parameter in trained], trained
            optimizer.register_step_post_hook(lambda *step, pairs=pairs: self._update(pairs, with_buffers))
            with_optimizer.update(trained)
        for own, average in modules:
            average._parameters.update({key: p for key, p in own._parameters.items() if p not in with_optimizer})

    def _update(self, pairs: tuple[list[Any], list[Any]], with_buffers: list[tuple[Any, Any]]) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        get_ema_multi_avg_fn(decay)(*pairs, None)
        _share_buffers(with_buffers)

    def state_dict(self) -> dict[str, Any]:
        return {} if self._model is None else {"average": self._model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._to_load, self.updates = state.get("average"), as_count(state.get("updates", 0))
        if self._model is not None and self._to_load is not None:
            load_weights(self._model, self._to_load)


def _share_buffers(modules):
    """Make the averaged module of each pair (own, averaged) use the model's buffers; evaluation only reads them."""
    for own, average in modules:
        average._buffers.update(own._buffers)  # named_buffers leaves out None, which a forward pass may fill


class SWA(BaseCallback):
    """Averages the weights at the ends of epochs; validates the average after training and saves it as swa.pth.

    start: duration; the epoch in which it ends is the first one averaged.

    The running statistics of batch norm are recomputed on the training data. The learning rate is lr_scheduler's.
    Source: Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018.
    """

    def __init__(self, start: str | int = "75%") -> None:
        self.start = start
        self._first_epoch = 0
        self._model: torch.nn.Module | None = None
        self._to_load = None
        self.count = 0  # epochs in the average
        self._averaged_from = None  # its first epoch

    def check(self, trainer: "Trainer") -> None:
        if not hasattr(trainer, "len_epoch"):
            raise UserError("SWA needs the loop of trainer/trainer.py")
        if world_size() > 1 and has_unshared_batch_norm(unwrapped(trainer.model)):
            raise UserError("SWA: with several processes, batch norm needs torch.nn.SyncBatchNorm or one process")
        refuse_sharded(trainer.model, "SWA")
        batch_size = getattr(trainer.data_loader, "batch_size", None)
        length = RunLength(trainer.epochs, trainer.len_epoch, batch_size, trainer.settings.accumulate)
        try:
            self._first_epoch = length.in_batches(self.start) // trainer.len_epoch + 1
        except UserError as error:
            raise UserError(f"start: {error}") from None
        if is_part(self.start):
            self._first_epoch = min(self._first_epoch, trainer.epochs)  # 75% of a single epoch
        if self._first_epoch > trainer.epochs:
            raise UserError(f"start: got {self.start!r}, which is not before the end of training; give less")

    def on_train_start(self, trainer: "Trainer") -> None:
        self._model = copy.deepcopy(unwrapped(trainer.model)).requires_grad_(False)
        if self.count and self._averaged_from not in (None, self._first_epoch):  # the run's length has changed
            first = max(self._first_epoch, trainer.start_epoch)
            what = "SWA: the average began in epoch %d; for a run of this length it begins again in epoch %d"
            trainer.logger.warning(what, self._averaged_from, first)
            self.count, self._to_load = 0, None
        if self._to_load is not None:
            load_weights(self._model, self._to_load)
        self._to_load = None

    def on_epoch_end(self, trainer: "Trainer", log: dict[str, Any]) -> None:
        if log["epoch"] >= self._first_epoch:
            assert self._model is not None  # made in on_train_start
            weights = list(unwrapped(trainer.model).parameters())
            average = get_ema_multi_avg_fn(decay=self.count / (self.count + 1))
            average(list(self._model.parameters()), [weight.detach() for weight in weights], None)
            self.count += 1
            self._averaged_from = self._first_epoch

    def on_train_end(self, trainer: "Trainer") -> None:
        average = self._model
        if average is None or not self.count:
            trainer.logger.warning("SWA: training ended before epoch %d, so nothing is averaged", self._first_epoch)
            return
        if hasattr(trainer.data_loader, "set_epoch"):
            trainer.data_loader.set_epoch(trainer.epoch)
        update_bn(itertools.islice(batches_of(trainer.data_loader), trainer.len_epoch), average, trainer.device)
        trainer.averaged_model = average
        trainer.save_as("swa.pth")
        trainer.save_asked(trainer.epoch - 1)
        values = {}
        if trainer.do_validation:
            values = evaluate(
                average,
                trainer.criterion,
                trainer.metric_ftns,
                trainer.valid_data_loader,
                trainer.device,
                trainer.valid_metrics,
                trainer.settings.precision,
                limit=trainer.valid_batches,
            )
        measured = "".join(f"  val_{name} {value:.4g}" for name, value in values.items())
        trainer.logger.info("swa.pth: the average over %s%s", quantity(self.count, "epoch"), measured)

    def state_dict(self) -> dict[str, Any]:
        average = {} if self._model is None else {"average": self._model.state_dict()}
        return {"count": self.count, "averaged_from": self._averaged_from, **average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self._to_load = as_count(state["count"]), state.get("average")
        first = state.get("averaged_from")
        self._averaged_from = None if first is None else as_count(first)
        if self._model is not None and self._to_load is not None:
            load_weights(self._model, self._to_load)
