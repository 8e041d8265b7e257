"""Looking for bugs: overfitting a few batches, a picture of the first ones, anomaly detection."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from base import BaseDataLoader
from base.data.sampler import EpochSampler
from base.training.batch_stream import BatchStream
from logger.pictures import draw_batches, with_targets_below
from utils import UserError
from utils.batches import batches_of
from utils.errors import quantity
from utils.misfits import outside_on_device
from utils.seed import derive_seed, seed_everything

if TYPE_CHECKING:
    from parse_config import ConfigParser
    from trainer.trainer import Trainer


class FixedBatches:
    """The same batches in every epoch, held in memory. indices: dataset indices of the samples of each batch."""

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
        """Start the next pass at batch `start_batch`."""
        self.start = start_batch

    def batch_indices(self, epoch: int, batch_idx: int) -> list[int]:
        """Indices of a batch's samples."""
        return self.indices[batch_idx]


def overfitted(config: "ConfigParser", data_loader: Any, valid_data_loader: Any) -> tuple[Any, Any]:
    """(training loader, validation loader): both over trainer.overfit_batches fixed batches, or as given without it."""
    number = config["trainer"].get("overfit_batches")
    if number is None:
        return data_loader, valid_data_loader
    key = f"trainer.overfit_batches: got {number}"
    if not isinstance(data_loader, BaseDataLoader) or not data_loader.seekable:
        raise UserError(f"{key}; it needs a BaseDataLoader with its own sampler, which this data_loader is not")
    if number > len(data_loader):
        raise UserError(f"{key}; data_loader has {quantity(len(data_loader), 'batch')}")
    indices = [data_loader.batch_indices(1, batch_idx) for batch_idx in range(number)]
    sampler = EpochSampler(list(itertools.chain.from_iterable(indices)), shuffle=False)
    batches = list(batches_of(data_loader.validation_loader(sampler)))
    return FixedBatches(batches, indices), FixedBatches(batches, indices)


@contextlib.contextmanager
def named_anomalies(trainer: "Trainer") -> Iterator[None]:
    """Enable autograd's anomaly detection if trainer.detect_anomaly is set; its error names the batch.

    So does the error of an index outside of its range, which a GPU tells some operations later.
    """
    with torch.autograd.set_detect_anomaly(trainer.settings.detect_anomaly or torch.is_anomaly_enabled()):
        try:
            yield
        except RuntimeError as error:
            if outside := outside_on_device(error):
                place = f"epoch {trainer.epoch}, batch {trainer.batches_done} of {trainer.len_epoch} or one before"
                raise UserError(f"{place}: {outside}") from error
            if not trainer.settings.detect_anomaly or "returned nan values" not in str(error):
                raise
            place = trainer.nonfinite.describe(trainer.epoch, [trainer.batches_done], str(error).rstrip("."))
            raise UserError(f"{place}; the warning above shows the forward call") from error


def show_batches(trainer: "Trainer", path: Path) -> None:
    """Draw the first training and validation batch into a picture file. Raises UserError if it cannot be written."""
    seed_everything(derive_seed(trainer.torch_seed, 1))
    by_part = {"training": next(BatchStream(trainer.data_loader).batches(1), None)}
    if trainer.valid_data_loader is not None:
        by_part["validation"] = next(batches_of(trainer.valid_data_loader), None)
    ignored = getattr(trainer.criterion, "ignore_index", -100)
    draw_batches(path, {part: with_targets_below(batch, ignored) for part, batch in by_part.items()})
    print(f"{path}: the first {' and '.join(by_part)} batch")
