"""BaseDataLoader: a DataLoader that can set aside part of its samples for validation."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch.utils.data import Sampler
from torch.utils.data.dataloader import default_collate

from base.data.fingerprint import fingerprint, fingerprint_of_part
from base.data.in_memory import InMemoryDataset, whole_batch
from base.data.sampler import BalancedSampler, EpochSampler, LengthSampler, WeightedSampler
from base.data.seeded import SeededDataset, SeededLoader, makes_whole_batches, no_stream
from base.data.splits import as_array, split_samples
from utils.batches import collate
from utils.device import copies_ahead
from utils.errors import UserError, brief, quantity, refuse
from utils.rules import size_errors, validated_twice
from utils.untrusted import as_count

if TYPE_CHECKING:
    from base.data.inputs import Input

_TIMEOUT_SECONDS = 1800


class BaseDataLoader(SeededLoader):
    """A DataLoader over the training part of a dataset; split_validation() returns one over the rest.

    dataset: map-style, of N samples. Each sample has its own random numbers, a function of (seed, epoch, index).
    batch_size: samples in a batch, over all processes.
    shuffle: draw a new order each epoch, a function of torch's seed and the epoch given to set_epoch.
    validation_split: share of the samples (float in [0, 1)) or their number (int) to set aside.
    num_workers: processes that read samples; 0 reads them in this process.
    collate_fn: makes a batch of a list of samples, by default torch's default_collate.
    valid_dataset: the same N samples with the transforms for validation, by default the dataset itself.
    device_resident: keep an InMemoryDataset on the device given to `to`.
    fold: "3/5" validates on the third of five parts of the samples; instead of validation_split.
    stratify: (N,) the class of each sample; both parts of the split then get the same share of each class.
    groups: (N,) an id of each sample; a split keeps the samples of one id together.
    balance_classes: (N,) the class of each sample; training then draws all classes equally often.
    lengths: (N,) the length of each sample; each batch of training then holds samples of similar length.
    sampling_weights: (N,) how often training draws each sample, in proportion; as many draws an epoch as samples.
    samples: (M,) indices of the samples to use, of which a split sets some aside; by default all.
    loader_kwargs: passed to DataLoader. Workers live as long as the loader unless persistent_workers=False is given;
        a worker that brings no batch for `timeout` seconds, by default 1800, ends the run.

    Every checkpoint holds the state of the loader: the number of samples, a fingerprint of their order, and the names
    of the classes in their order, if it has them as its attribute classes. A subclass that fits something to its data,
    such as means or codes, adds it in state_dict, and applies that of a checkpoint in load_state_dict.

    Raises UserError for a batch size or a split that leaves nothing to train or validate on.
    """

    input: "Input | None" = None
    """How raw examples become what the model is given; set it before the constructor is called."""

    sampler: Any  # an EpochSampler, unless another sampler is given
    batch_size: int

    fits_on_training_part = False
    """Whether test data are prepared with statistics of the training part, for which test.py passes the config's
    validation_split and fold. The loader must not split the test data by these."""

    def __init__(
        self,
        dataset: Any,
        batch_size,
        shuffle,
        validation_split,
        num_workers,
        collate_fn: Callable[[list[Any]], Any] = default_collate,
        *,
        valid_dataset: Any = None,
        device_resident=False,
        fold=None,
        stratify=None,
        groups=None,
        balance_classes=None,
        lengths=None,
        sampling_weights=None,
        samples=None,
        **loader_kwargs: Any,
    ) -> None:
        refuse(size_errors({"batch_size": batch_size, "num_workers": num_workers}))
        if not (collate_fn is None or callable(collate_fn)):
            raise UserError(f"collate_fn: got {brief(collate_fn)}, no function; give further arguments by name")
        if not hasattr(dataset, "__len__"):
            raise UserError(f"dataset: {no_stream(dataset)}")
        for name in ("sampler", "batch_sampler"):
            if loader_kwargs.pop(name, None) is not None:
                remedy = "give sampling_weights, balance_classes, lengths or samples, which resume within an epoch"
                raise UserError(f"{name}: BaseDataLoader has its own; {remedy}")
        if valid_dataset is not None and len(valid_dataset) != len(dataset):
            raise UserError(
                f"valid_dataset: has {quantity(len(valid_dataset), 'sample')}, but the dataset has {len(dataset)}"
            )
        self.validation_split = validation_split
        self.shuffle = shuffle
        samples = samples if samples is None else as_array("samples", samples, "iu")
        self._split_within = samples
        self.n_samples = len(dataset if samples is None else samples)
        self.valid_dataset = dataset if valid_dataset is None else valid_dataset
        self.device_resident = device_resident
        in_memory = all(isinstance(part, InMemoryDataset) for part in (dataset, self.valid_dataset))
        if device_resident and (num_workers or not in_memory):
            raise UserError("device_resident: needs an InMemoryDataset and num_workers 0")
        self._beside: list[BaseDataLoader] = []  # loaders that validate beside this one
        self._collate_fn = collate_fn
        self._split_by = {"fold": fold, "stratify": stratify, "groups": groups}
        self._drawn_by = _drawn_by(
            {"balance_classes": balance_classes, "lengths": lengths, "sampling_weights": sampling_weights},
            shuffle,
            dataset,
        )
        self._samples_in_batch = batch_size
        train_sampler, self.valid_sampler = self._split_sampler(validation_split)
        if train_sampler is None:
            train_sampler = self._train_sampler(np.arange(len(dataset)) if samples is None else samples)
        self.init_kwargs = {
            "dataset": SeededDataset(dataset),
            "batch_size": batch_size,
            "shuffle": False,  # the sampler shuffles
            "collate_fn": self._collate_fn_for(dataset),
            "num_workers": num_workers,
            "persistent_workers": num_workers > 0,
            # its own: starting workers draws from it, and a resumed run starts them at another time
            "generator": torch.Generator().manual_seed(torch.initial_seed()),
            "timeout": _TIMEOUT_SECONDS,
            **loader_kwargs,
        }
        if num_workers == 0:
            del self.init_kwargs["timeout"]  # torch accepts it with workers only
        super().__init__(sampler=train_sampler, **self.init_kwargs)

    def split_validation(self) -> SeededLoader | None:
        """Return a DataLoader over the samples set aside, in a fixed order; None if there are none."""
        return None if self.valid_sampler is None else self.validation_loader(self.valid_sampler)

    def as_validation(self, beside: "BaseDataLoader | None" = None) -> SeededLoader:
        """Return a DataLoader over the training samples as validation sees them: each once, in a fixed order.

        beside: the training loader, if this one validates beside it; its state is loaded. Raises UserError if the two
        do not go together.
        """
        if beside is not None and beside.valid_sampler is not None:
            raise UserError(validated_twice({"validation_split": beside.validation_split, **beside._split_by}))
        if beside is not None:
            beside._beside.append(self)
            self.load_state_dict(beside.state_dict())
        indices = getattr(self.sampler, "indices", None)
        return self.validation_loader(self.sampler if indices is None else EpochSampler(indices, shuffle=False))

    def to(self, device: torch.device) -> Self:
        """Prepare to feed the device: pin memory for its copies, or move the samples there if device_resident.

        Call it before split_validation and as_validation. Returns the loader.
        """
        if self.device_resident:
            for dataset in {self.dataset, self.valid_dataset}:
                dataset.to(device)
        elif copies_ahead(device):
            self.pin_memory = self.init_kwargs["pin_memory"] = True
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return the names of the classes, the input, and a fingerprint of the samples, as plain values."""
        samples, order = len(self.valid_dataset), fingerprint(self.valid_dataset)
        part = fingerprint_of_part(self._split_within, samples)
        state = {"samples": samples, "fingerprint": order, "part": part, "classes": self._class_names()}
        return state if self.input is None else state | {"input": self._input_spec(self.input)}

    def _input_spec(self, input):
        """The spec of the input, with the shape of the rows that it is given, if Input checks that."""
        rows = self.valid_dataset
        if input.is_checked_by_shape and isinstance(rows, InMemoryDataset) and rows.begins_with(input):
            return input.spec() | {"trained_shape": list(rows.arrays[0].shape[1:])}
        return input.spec()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Use the state of a checkpoint; called before the first batch. Raises UserError for other classes."""
        as_count(state.get("samples", 0))
        then, now = state.get("classes"), self._class_names()
        if then is not None and now is not None and list(then) != now:
            what = f"its classes are {brief(now)}, but the model is trained on {brief(list(then))}"
            remedy = "so class numbers would change their meaning; give it data of those classes, or train a new model"
            raise UserError(f"{type(self).__name__}: {what}, {remedy}")
        for loader in self._beside:
            loader.load_state_dict(state)

    def _class_names(self):
        names = getattr(self, "classes", getattr(self.valid_dataset, "classes", None))  # torchvision's have them
        return None if names is None else [name if isinstance(name, (int, float)) else str(name) for name in names]

    def changes_since(self, state: dict[str, Any], serves_test: bool = False) -> str | None:
        """Return a line on how the samples differ from those of a state that is loaded, or None if they do not.

        serves_test: whether this loader serves the test samples, which the loader of the state should have set aside.
        """
        now, then = self.state_dict(), state.get("samples")
        if then is None:
            return None
        if any(now[key] != state.get(key) for key in ("samples", "fingerprint")):
            number = f"{quantity(now['samples'], 'sample')}, not {then}"
            return f"data_loader has {'other samples, or another order' if now['samples'] == then else number}"
        if serves_test and self._split_within is None:  # a subclass that divides its samples itself
            return None
        part = fingerprint_of_part(self._split_within, then, others=serves_test)
        if state.get("part", part) != part:  # earlier versions did not save it
            return "data_loader sets other samples aside: test_split, stratify or groups differ from the checkpoint's"
        return None

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Set the epoch of the next pass, which begins with batch `start_batch`."""
        self.seeded.seeder.set_epoch(epoch)
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch, start_batch * self.batch_size)

    @property
    def seekable(self) -> bool:
        """Whether an epoch can begin at any batch; False with a sampler other than an EpochSampler."""
        return isinstance(self.sampler, EpochSampler)

    def batch_indices(self, epoch: int, batch_idx: int) -> list[int]:
        """Return the dataset indices of the samples in a batch of an epoch; [] unless the loader is seekable."""
        if not self.seekable:
            return []
        return self.sampler.batch_indices(epoch, batch_idx, self.batch_size)

    def validation_loader(self, sampler: Sampler) -> SeededLoader:
        """Return a validation DataLoader over the samples of a sampler."""
        dataset = SeededDataset(self.valid_dataset)
        dataset.seeder.set_epoch(0)  # the same random numbers in every epoch, so that epochs compare
        collate_fn = self._collate_fn_for(self.valid_dataset)
        kwargs = {**self.init_kwargs, "dataset": dataset, "collate_fn": collate_fn, "drop_last": False}
        return SeededLoader(sampler=sampler, **kwargs)

    def _collate_fn_for(self, dataset):
        if self._collate_fn is not default_collate:
            return self._collate_fn
        return whole_batch if makes_whole_batches(dataset) else collate

    def _split_sampler(self, split: float) -> tuple[Sampler | None, Sampler | None]:
        """Return (sampler of the training part, sampler of the validation part); both None if nothing is set aside.

        A subclass may call it before its constructor has finished, with n_samples and shuffle set.
        """
        how = {"samples": getattr(self, "_split_within", None), **getattr(self, "_split_by", {})}
        train, valid = split_samples(self.n_samples, split, **how)
        if len(valid) == 0:
            return None, None
        self.n_samples = len(train)
        return self._train_sampler(train), EpochSampler(valid, shuffle=False)

    def _train_sampler(self, indices):
        name, values = getattr(self, "_drawn_by", ("", np.empty(0)))
        if name == "balance_classes":
            return BalancedSampler(indices, values[indices])
        if name == "lengths":
            return LengthSampler(indices, values[indices], self._samples_in_batch)
        if name == "sampling_weights":
            return WeightedSampler(indices, values[indices])
        return EpochSampler(indices, getattr(self, "shuffle", True))


def _drawn_by(given, shuffle, dataset):
    """(name, (N,) values) of the argument that says how training draws samples; ("", an empty array) without one."""
    named = {name: values for name, values in given.items() if values is not None}
    if len(named) > 1:
        raise UserError(f"{', '.join(named)}: give one of them")
    for name in named:
        if name == "balance_classes":
            values = as_array(name, named[name])
        else:
            values = as_array(name, named[name], "biuf").astype(np.float64)
        named[name] = values
        if not shuffle or values.shape != (len(dataset),):
            what = f"shuffle is {shuffle}, and its shape {values.shape}"
            raise UserError(f"{name}: needs shuffle, and a value for each of the {len(dataset):,} samples; {what}")
        if name == "sampling_weights" and not (np.isfinite(values) & (values >= 0)).all():
            raise UserError("sampling_weights: should be finite numbers of 0 or more")
    return next(iter(named.items()), ("", np.empty(0)))
