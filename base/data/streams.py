"""StreamDataLoader: batches of an IterableDataset, which can only be read from its beginning."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.dataloader import default_collate

from base.base_data_loader import BaseDataLoader
from utils.device import copies_ahead
from utils.errors import UserError, refuse
from utils.rules import size_errors
from utils.untrusted import as_list


class StreamDataLoader(DataLoader):
    """A DataLoader over an IterableDataset; a subclass in data_loader/ gives it the dataset, and a config names that.

    dataset: yields samples. With several workers, it should yield a part of them in each: torch's get_worker_info.
    batch_size: samples in a batch.
    num_workers: processes that read samples; 0 reads them in this process.
    collate_fn: makes a batch of a list of samples.
    loader_kwargs: passed to DataLoader.

    Nothing is shuffled or set aside: training needs trainer.len_epoch, unless the dataset has a length, and validation
    a valid_data_loader. A run resumes within an epoch if the dataset has state_dict and load_state_dict, and
    num_workers is 0. The attributes input and classes are those of a BaseDataLoader.

    Raises UserError for another dataset.
    """

    input = None
    classes: Any = None
    fits_on_training_part = False
    seekable = False

    def __init__(
        self,
        dataset: IterableDataset,
        batch_size: int,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] = default_collate,
        **loader_kwargs: Any,
    ) -> None:
        refuse(size_errors({"batch_size": batch_size, "num_workers": num_workers}))
        if not isinstance(dataset, IterableDataset):
            raise UserError(f"dataset: {type(dataset).__name__} is no IterableDataset; give it to a BaseDataLoader")
        super().__init__(
            dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=collate_fn, **loader_kwargs
        )

    def to(self, device: torch.device) -> Self:
        """Prepare to feed the device; returns the loader."""
        self.pin_memory = self.pin_memory or copies_ahead(device)
        return self

    def split_validation(self) -> None:
        """Return None: nothing is set aside."""

    def as_validation(self, beside: Any = None) -> Self:
        """Return the loader. beside: the training loader, whose classes should be the same."""
        if beside is not None:
            self.load_state_dict(beside.state_dict())
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return the names of the classes, and the input, as plain values."""
        classes = None if self.classes is None else [str(name) for name in self.classes]
        return {"classes": classes} if self.input is None else {"classes": classes, "input": self.input.spec()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raise UserError if the classes of a checkpoint are others."""
        now, then = self.state_dict()["classes"], state.get("classes")
        if now and then is not None and now != [str(name) for name in as_list(then)]:
            raise UserError(f"{type(self).__name__}: its classes are not those that the model is trained on")

    def changes_since(self, state: dict[str, Any], serves_test: bool = False) -> str | None:
        """Return None: what a stream will yield is not known."""


LOADERS = BaseDataLoader, StreamDataLoader
"""The classes of loaders that a config can name."""
