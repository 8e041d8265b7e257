"""Old forms of BaseTrainer: how it was built, its attributes, and what its _train_epoch returned."""

import importlib
import inspect
import operator
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.device import prepare_device
from utils.errors import UserError
from utils.metric_tracker import NAN_OF_WRITER
from utils.nearest import nearest
from utils.old_forms.config import OldConfigForms
from utils.old_forms.flags import is_typed
from utils.runs.weights import load_weights, unwrapped
from utils.signatures import signature

if TYPE_CHECKING:
    import torch

_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class _Renamed:
    """An attribute under its old name; a trainer may set one of that name instead."""

    def __init__(self, path: str) -> None:
        self._read = operator.attrgetter(path)

    def __get__(self, trainer: Any, kind: Any = None) -> Any:
        return self if trainer is None else self._read(trainer)


class _Device:
    """The device of a trainer whose constructor takes none: found when first asked for, with the model put on it."""

    def __get__(self, trainer: Any, kind: Any = None) -> Any:
        if trainer is None:
            return self
        trainer.model, trainer.device = _placed(trainer.model, trainer.config)
        if getattr(trainer.optimizer, "state", None):
            trainer.optimizer.load_state_dict(trainer.optimizer.state_dict())  # puts it where the parameters are
        return trainer.device


class OldTrainerForms:
    """What a BaseTrainer of the project's own may use besides its methods of today.

    A trainer whose constructor takes no device, as until November 2020, gets the attribute device, and its model is put
    on that device. Until 2019 there were loss and metrics, lists as metrics and val_metrics in a log, and (resume,
    config, train_logger) as the last arguments, with a plain dict as the config. A class without _train_epoch, such as
    an Evaluator, can be built; its model has the weights of the checkpoint that -r names.
    """

    loss = _Renamed("criterion")
    metrics = _Renamed("metric_ftns")
    verbosity = _Renamed("settings.verbosity")
    device = _Device()

    metric_ftns: Sequence[Any]
    mnt_metric: str
    checkpoint_dir: Path
    saver: Any

    def __init__(
        self,
        model: "torch.nn.Module",
        criterion: "Callable[[Any, Any], torch.Tensor] | None",
        metric_ftns: Sequence[Any],
        optimizer: "torch.optim.Optimizer | None",
        config: Any,
        config_after_resume: Any = None,
        train_logger: Any = None,
    ) -> None:
        resume = None
        if config_after_resume is not None:
            resume, config = config, config_after_resume
        self.train_logger = train_logger
        self._parsed: Any = _parsed(config, resume)
        if not _takes_device(type(self)):
            model, self.device = _placed(model, self._parsed)
        super().__init__(model, criterion, metric_ftns, optimizer, self._parsed)  # pyright: ignore[reportCallIssue]
        if self._parsed.resume is not None and not _has_own(type(self), "_train_epoch"):
            load_weights(unwrapped(model), self._parsed.load_checkpoint()["state_dict"])

    @property
    def config(self) -> Any:
        """The ConfigParser, also if a constructor has set the dict that it was made of."""
        return self._parsed

    @config.setter
    def config(self, config: Any) -> None:
        if not isinstance(config, dict):
            self._parsed = config

    def _prepare_device(self, n_gpu_use: int) -> Any:
        return prepare_device(n_gpu_use)

    def train(self) -> None:
        """Train as BaseTrainer does. Raises UserError, before anything is written, without a _train_epoch."""
        if type(self)._train_epoch is OldTrainerForms._train_epoch and "_train_epoch" not in vars(self):
            self._train_epoch(1)
        _ = self.config.has_ended  # makes the run's folders, also those that a subclass of ConfigParser has set
        super().train()  # pyright: ignore[reportAttributeAccessIssue]

    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        own = {name for kind in _own_classes(type(self)) for name in vars(kind) if callable(vars(kind)[name])}
        meant = nearest("_train_epoch", own)
        hint = f"; is {meant!r} meant to be it?" if meant else ""
        raise UserError(f"{type(self).__name__}: has no _train_epoch, so it cannot train{hint}")

    def _finish_epoch(self, log: dict[Any, Any], seconds: float) -> None:
        # where nothing was measured the old template logged 0.0, which a monitor would take for the best value
        zeros = {key: 0.0 for key, value in log.items() if value is NAN_OF_WRITER and key != self.mnt_metric}
        log = dict(_one_by_one(log | zeros, self.metric_ftns))
        if hasattr(self.train_logger, "add_entry"):
            self.train_logger.add_entry(log)
        super()._finish_epoch(log, seconds)  # pyright: ignore[reportAttributeAccessIssue]

    def _record_epoch(self, log: dict[str, Any], seconds: float) -> None:
        super()._record_epoch(log, seconds)  # pyright: ignore[reportAttributeAccessIssue]
        if _has_own(type(self), "_save_checkpoint"):  # it may have written a file by itself
            saved = self.checkpoint_dir.glob("checkpoint-*.pth")
            self.saver.newest = max(saved, key=lambda path: path.stat().st_mtime_ns, default=self.saver.newest)


def _parsed(config, resume):
    """The config as a ConfigParser; until February 2019 it was the dict that json.load had read."""
    if isinstance(config, OldConfigForms) or not isinstance(config, dict):
        return config
    parser: Any = importlib.import_module("parse_config").ConfigParser  # by name: it stands above this room
    parsed = parser(config, resume, new_run=is_typed("-c", "--config"))
    parsed.given_as_dict = True
    parsed.adapt_to_script()
    return parsed


def _takes_device(kind):
    """Whether a constructor of a trainer's class, or of one between it and this, takes a device, or may take one."""
    for own in _own_classes(kind):
        parameters = signature(own.__init__).parameters.values() if "__init__" in vars(own) else ()
        if any(parameter.name == "device" or parameter.kind in _VARIABLE for parameter in parameters):
            return True
    return False


def _has_own(kind, method):
    return any(method in vars(own) for own in _own_classes(kind))


def _own_classes(kind):
    """A trainer's class and those between it and BaseTrainer."""
    return kind.__mro__[: kind.__mro__.index(OldTrainerForms)]


def _placed(model, config):
    """(model, device) with the model on the device, or on several, as the old BaseTrainer put it."""
    import torch

    device, ids = prepare_device(config.get("n_gpu", 1))
    if isinstance(model, torch.nn.Module):
        model = model.to(device)
        if len(ids) > 1 and not isinstance(model, torch.nn.DataParallel):
            model = torch.nn.DataParallel(model, device_ids=ids)
    return model, device


def _one_by_one(log: dict[Any, Any], metric_ftns: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of a log: each metric of a list under its name, numbers as Python's, names as text."""
    names = [getattr(metric, "__name__", type(metric).__name__) for metric in metric_ftns]
    for key, value in log.items():
        if isinstance(key, str) and key.endswith("metrics") and len(_listed(value)) == len(names) > 0:
            prefix = key.removesuffix("metrics")
            yield from ((f"{prefix}{name}", one) for name, one in zip(names, _listed(value), strict=True))
        else:
            is_number = hasattr(value, "item") and getattr(value, "ndim", 1) == 0  # of NumPy or torch
            yield str(key), value.item() if is_number else value


def _listed(value):
    """The entries of a list, tuple, array or tensor of one dimension; none of anything else."""
    value = value.tolist() if hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1 else value
    return [one.item() if hasattr(one, "item") else one for one in value] if isinstance(value, (list, tuple)) else []
