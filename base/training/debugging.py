"""Looking for bugs: a few batches in place of all, a look at validation before training, pictures, anomalies."""

import contextlib
import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from base import BaseDataLoader
from base.data.sampler import EpochSampler
from base.training.batch_stream import BatchStream, num_batches
from base.training.checkpoints import measured_model
from base.training.evaluate import evaluate
from logger.pictures import draw_batches
from utils import MetricTracker, UserError
from utils.batches import batches_of
from utils.rules import nothing_to_validate
from utils.seed import derive_seed, rng_state, seed_everything, set_rng_state

if TYPE_CHECKING:
    from parse_config import ConfigParser
    from trainer.trainer import Trainer


class FixedBatches:
    """The same batches, held in memory, in every epoch. indices: of the samples of each, into the dataset."""

    is_shared = True  # the batches are this process's parts

    def __init__(self, batches: list[Any], indices: list[list[int]]) -> None:
        self.batches, self.indices = batches, indices
        self.sampler = [*itertools.chain.from_iterable(indices)]
        self.batch_size = len(indices[0])
        self.start = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        start, self.start = self.start, 0
        return iter(self.batches[start:])

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Make the next pass one without its first `start_batch` batches."""
        self.start = start_batch

    def batch_indices(self, epoch: int, batch_idx: int) -> list[int]:
        """Indices of a batch's samples."""
        return self.indices[batch_idx]


def overfitted(config: "ConfigParser", data_loader: Any, valid_data_loader: Any) -> tuple[Any, Any]:
    """(training loader, validation loader): both of trainer.overfit_batches batches, or unchanged without it."""
    number = config["trainer"].get("overfit_batches")
    if number is None:
        return data_loader, valid_data_loader
    key = f"trainer.overfit_batches: got {number}"
    if not isinstance(data_loader, BaseDataLoader) or not data_loader.seekable:
        raise UserError(f"{key}; it is for a BaseDataLoader that shuffles itself, which this data_loader is not")
    if number > len(data_loader):
        raise UserError(f"{key}; data_loader has {len(data_loader)} batches")
    indices = [data_loader.batch_indices(1, batch_idx) for batch_idx in range(number)]
    sampler = EpochSampler(list(itertools.chain.from_iterable(indices)), shuffle=False)
    batches = list(batches_of(data_loader.as_validated(sampler)))
    return FixedBatches(batches, indices), FixedBatches(batches, indices)


def refuse_limits(config: "ConfigParser", valid_data_loader: Any, own_loop: bool, own_validation: bool) -> None:
    """Raise UserError for keys that a trainer with methods of its own, or without validation data, cannot follow."""
    trainer = config["trainer"]
    if own_loop and trainer.get("limit_train_batches") is not None:
        raise UserError("trainer.limit_train_batches: is not for a trainer with a _train_epoch of its own")
    for key in ("validate_every_steps", "limit_valid_batches", "sanity_check_batches"):
        if own_validation and trainer.get(key):
            raise UserError(f"trainer.{key}: is not for a trainer with a _valid_epoch of its own")
    share = isinstance(trainer.get("limit_valid_batches"), float)
    if share and valid_data_loader is not None and num_batches(valid_data_loader) is None:
        raise UserError(
            "trainer.limit_valid_batches: valid_data_loader has no length to take a share of; give a number"
        )
    if trainer.get("sanity_check_batches") and valid_data_loader is None:
        raise UserError(nothing_to_validate("sanity_check_batches"))


@contextlib.contextmanager
def named_anomalies(trainer: "Trainer") -> Iterator[None]:
    """Within it autograd looks for nan, if trainer.detect_anomaly says so, and its error names the batch."""
    with torch.autograd.set_detect_anomaly(trainer.settings.detect_anomaly or torch.is_anomaly_enabled()):
        try:
            yield
        except RuntimeError as error:
            if not trainer.settings.detect_anomaly or "returned nan values" not in str(error):
                raise
            place = trainer.nonfinite.describe(trainer.epoch, [trainer.batches_done], str(error).rstrip("."))
            raise UserError(f"{place}; where it was called stands above") from error


def show_batches(trainer: "Trainer", path: Path) -> None:
    """Draw the batches that the run would begin with, and that it would first validate on. Raises UserError."""
    seed_everything(derive_seed(trainer.torch_seed, 1))
    by_part = {"training": next(BatchStream(trainer.data_loader).batches(1), None)}
    if trainer.valid_data_loader is not None:
        by_part["validation"] = next(batches_of(trainer.valid_data_loader), None)
    draw_batches(path, by_part)
    print(f"{path}: the first {' and '.join(by_part)} batch")


def try_validation(trainer: "Trainer") -> None:
    """Validate on a few batches, without changing any state."""
    loader = copy.copy(trainer.valid_data_loader)  # its workers are its own, and end with it
    tracker = MetricTracker.of(trainer.metric_ftns, trainer.device)
    measured = measured_model(trainer), trainer.criterion, trainer.metric_ftns, loader, trainer.device, tracker
    with left_alone(trainer.model, loader):
        evaluate(*measured, trainer.settings.precision, limit=trainer.settings.sanity_check_batches)
    trainer.logger.info("sanity check: validation went through")


@contextlib.contextmanager
def left_alone(model: torch.nn.Module, loader: Any) -> Iterator[None]:
    """Within it, random numbers, modes and positions may change: at its end they are what they were."""
    modes = {module: module.training for module in model.modules()}
    generator = getattr(loader, "generator", None)
    parts = loader, getattr(loader, "dataset", None)
    placed: list[Any] = [part for part in parts if hasattr(part, "load_state_dict")]
    positions = [copy.deepcopy(part.state_dict()) for part in placed]
    drawn = None if generator is None else generator.get_state()
    rng = rng_state()
    yield
    set_rng_state(rng)
    if generator is not None:
        generator.set_state(drawn)
    for part, position in zip(placed, positions, strict=True):
        part.load_state_dict(position)
    for module, training in modes.items():
        module.training = training
