"""Evaluate a model: the loss and the metrics over a loader, for validation and for test.py."""

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from base.data.sampler import EpochSampler
from base.data.seeded import unseeded
from base.data.streams import LOADERS
from base.training.batch_stream import position_kept
from base.training.counted import counts_in_training, counts_of
from base.training.precision import autocast, to_device
from utils import MetricTracker
from utils.batches import batches_of
from utils.config.components import PARTS, as_spec, watched
from utils.config.types import build, find_type, signature_of
from utils.distributed.world import Part, gather, own_samples, part_of_batch, rank, same_buffers
from utils.epoch_metrics import of_training
from utils.errors import UserError
from utils.misfits import explain
from utils.nested import halves, num_samples, require_rows
from utils.runs.weights import load_state
from utils.seed import derive_seed, seeded

if TYPE_CHECKING:
    from trainer.trainer import Trainer


_HOW_CALLED = (
    "validation and test.py compute criterion(model(data), target), whatever compute_loss does in training; "
    "docs/trainers.md shows what to do"
)


def evaluate(
    model: torch.nn.Module,
    criterion: Callable[[Any, Any], torch.Tensor] | None,
    metric_ftns: Sequence[Any],
    data_loader: Iterable[Any],
    device: torch.device,
    tracker: MetricTracker,
    precision: str = "fp32",
    after_batch: Callable[[], None] | None = None,
    limit: int | None = None,
    first_loss: contextlib.AbstractContextManager[Any] | None = None,
    observe: Callable[[Any, Any, Any], None] | None = None,
) -> dict[str, float]:
    """Run the model over the loader; returns {name: average}, weighted by samples or by what counts of them.

    Random numbers that the model, the loss or a metric draws are the same each time, and none is drawn of training's.

    criterion: None measures the metrics alone.
    tracker: MetricTracker of the loss and the metrics; its values are replaced.
    precision: value of trainer.precision.
    after_batch: called after each batch; it may raise to end the evaluation.
    limit: number of batches to read; None for all.
    first_loss: context in which the loss of the first batch is computed, such as LossWatch.
    observe: called with (data, target, output) of each batch.
    """
    model.eval()
    same_buffers(model)
    tracker.reset()
    measured = criterion, data_loader
    if list(map(id, tracker.counted_for)) != list(map(id, measured)):
        # it looks at all labels, which waits for the device if they are there
        tracker.counts, tracker.counted_for = counts_of(criterion, metric_ftns, data_loader), measured
    reduction, watch = reduction_of(criterion), first_loss or contextlib.nullcontext()
    # a whole pass ends where it began; a part of one does not, unless the sampler has no position
    ends_within = limit is not None and not isinstance(getattr(data_loader, "sampler", None), EpochSampler)
    place = position_kept(data_loader) if ends_within else contextlib.nullcontext()
    with torch.no_grad(), evaluation_draws(), place:
        for batch_idx, batch in enumerate(itertools.islice(batches_of(data_loader), limit)):
            data, target = to_device(halves(batch), device)
            if batch_idx == 0:
                require_rows(target, len(own_samples(_samples(data_loader, 0))))
            try:
                with autocast(precision, device):
                    output = model(data)
                    with watch:
                        loss = None if criterion is None else criterion(output, target)
            except Exception as error:
                dataset = unseeded(getattr(data_loader, "dataset", None))
                explain(error, data, target, model, _samples(data_loader, batch_idx), dataset)
                error.add_note(_HOW_CALLED)
                raise
            watch = contextlib.nullcontext()
            part = part_of_batch(data_loader, batch_idx)
            record(tracker, metric_ftns, loss, output, target, reduction, part)
            if observe is not None:
                observe(data, target, output)
            if after_batch is not None:
                after_batch()
    result = tracker.result()
    if criterion is None:
        del result["loss"]
    tracker.forget()
    return result


def evaluation_draws(seed: int = 0) -> contextlib.AbstractContextManager[None]:
    """A context in which random numbers are the same in each evaluation. seed: another one draws others."""
    return seeded(derive_seed(seed, rank()))


def _samples(data_loader, batch_idx):
    """Indices of the samples in a batch of a loader with a fixed order; [] for others."""
    sampler, size = getattr(data_loader, "sampler", None), getattr(data_loader, "batch_size", None)
    if not isinstance(sampler, EpochSampler) or sampler.shuffle or size is None:
        return []
    return sampler.batch_indices(None, batch_idx, size)


def metric_trackers(trainer: "Trainer") -> tuple[MetricTracker, MetricTracker]:
    """(tracker for training, tracker for validation). Raises UserError if a monitored value is a table."""
    finite_only = trainer.settings.on_nonfinite == "skip"
    in_training = of_training(trainer.metric_ftns)
    train = MetricTracker.of(trainer.metric_ftns, trainer.device, finite_only, only=in_training)
    train.counts = counts_in_training(trainer)
    valid = MetricTracker.of(trainer.metric_ftns, trainer.device)
    left_out = {metric.__name__ for metric in trainer.metric_ftns} - {metric.__name__ for metric in in_training}
    for path, name in watched(trainer.config.config).items():
        if name in left_out:
            raise UserError(f"{path}: {name!r} is not measured in training; monitor val_{name}")
        if name.removeprefix("val_") in valid.tables:
            raise UserError(f"{path}: {name!r} is a table; give the name of a number")
    return train, valid


def record(
    tracker: MetricTracker,
    metric_ftns: Sequence[Any],
    loss: torch.Tensor | None,
    output: Any,
    target: Any,
    reduction: str = "mean",
    part: Part | None = None,
) -> None:
    """Add a batch's loss (0-dim) and metrics to the tracker, weighted by its samples or by what they count.

    loss: None adds the metrics alone.
    target: (N, ...), or a dict, list or tuple of such tensors.
    part: this process's Part of a batch that several processes share; None for a single process.
    """
    samples = num_counted(target, part)
    counts = tracker.counts if samples else {}
    sizes = {name: count(target) for name, count in counts.items()}
    size = sizes.get("loss", samples)
    if loss is not None:
        tracker.update("loss", loss / num_samples(target) if reduction == "sum" else loss, n=size)
    if not metric_ftns:
        return
    # with on_nonfinite "skip", a batch whose loss is not finite in one process counts in none
    skips = tracker.over_epoch is not None and tracker.finite_only
    left_out = skips and loss is not None and not all(gather(bool(loss.isfinite())))
    with torch.no_grad():
        if tracker.over_epoch is not None and samples and not left_out:
            tracker.over_epoch.update(output, target)
        for metric in metric_ftns:
            name = metric.__name__
            if name not in tracker.apart:
                tracker.update(name, metric(output, target) if samples else 0.0, n=sizes.get(name, samples))


def num_counted(target: Any, part: Part | None) -> int:
    """Number of the target's samples that count for this process. part: as for record."""
    return 0 if part is not None and part.own == 0 else num_samples(target)


def reduction_of(criterion: Callable[..., Any] | None) -> str:
    """How the criterion reduces over a batch, "sum" or "mean". Raises UserError for reduction "none"."""
    given = getattr(criterion, "keywords", {}).get("reduction")  # of a functools.partial
    reduction = given or getattr(criterion, "reduction", None)
    if reduction == "none":
        raise UserError("loss: reduction 'none' gives one value per sample; use 'mean' or 'sum'")
    return "sum" if reduction == "sum" else "mean"


def split_loader(
    config: dict[str, Any],
    split: str,
    batch_size: int | None,
    device: torch.device,
    state: dict[str, Any] | None = None,
) -> tuple[Any, list | None]:
    """Return (DataLoader over one split of a config's data, in a fixed order; names of the classes, or None).

    split: "train", "valid" or "test".
    batch_size: by default the config's.
    state: state of the data loader in the checkpoint, such as the order of the classes, to load.

    Raises UserError if there is no such split, or if its data do not fit the checkpoint.
    """
    separate = f"{split}_data_loader"
    name = separate if split != "train" and config.get(separate) else "data_loader"
    spec = as_spec(name, config.get(name))
    kind, args = find_type(name, spec["type"], PARTS[name]), dict(spec.get("args") or {})
    if batch_size is not None:
        args["batch_size"] = batch_size
    if split == "test":
        known = [parameter.name for parameter in signature_of(kind)]
        if "training" not in known and name == "data_loader":
            raise UserError(
                f"--split test: {spec['type']} has no 'training' argument, and there is no test_data_loader; "
                "use --split valid or train"
            )
        whole = {"training": name != "data_loader" and args.get("training", False)}
        if not kind.fits_on_training_part:
            whole |= {"validation_split": 0, "fold": None}
        args |= {key: value for key, value in whole.items() if key in known}
    loader = build(name, {**spec, "args": args}, PARTS[name]).to(device)
    if state and isinstance(loader, LOADERS):
        load_state(name, loader, state)
        set_aside = split == "test" and bool(args.get("test_split"))
        is_same_source = name == "data_loader" and (split != "test" or set_aside)
        changed = loader.changes_since(state, serves_test=set_aside) if is_same_source else None
        if changed and set_aside:
            what = "so the model may be trained on some of what test_split sets aside now"
            raise UserError(f"--split test: {changed}, {what}; name separate test data")
        if changed:
            logging.getLogger("data").warning("changed since the checkpoint: %s", changed)
    part = loader.split_validation() if split == "valid" and name == "data_loader" else loader.as_validation()
    if part is None:
        raise UserError("--split valid: the config sets no samples aside: data_loader.args.validation_split is 0")
    return part, getattr(loader, "classes", None)
