"""Look at data, and choose what does not depend on their kind: parts to train, validate and test on, and how long."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from base.data.splits import samples_to_serve, split_samples
from utils.errors import UserError, quantity, shortened, shown

MIN_SAMPLES = 20  # fewer make no three parts of which anything could be said
_SHOWN_CLASSES = 10
_MAX_SET_ASIDE = 10_000  # samples; more do not make a measurement much better
_LEAST_EPOCHS = 5
_IMBALANCED = 3  # times as many samples in the largest class as in the smallest
_IDX = ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz")
_ENDINGS = {
    "table": (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zip", ".csv.bz2", ".csv.xz"),
    "arrays": (".npy", ".npz"),
    "text": (".txt", ".md"),
}


def fitting_task(path: str) -> str | None:
    """Return the task that a file or folder is probably for."""
    if os.path.isdir(path):
        below = [path, os.path.join(path, "mnist"), os.path.join(path, "MNIST", "raw")]
        return (
            "mnist" if any(os.path.exists(os.path.join(at, name)) for at in below for name in _IDX) else "image-folder"
        )
    return next((task for task, endings in _ENDINGS.items() if path.lower().endswith(endings)), None)


def require_kind(path: str, task: str) -> None:
    """Raise UserError unless there is a file, or for tasks of folders a folder."""
    wants_folder = task in ("image-folder", "mnist")
    if not os.path.exists(path):
        raise UserError(f"--data: {shown(path)}: there is no such {'folder' if wants_folder else 'file'}")
    if os.path.isdir(path) != wants_folder:
        given, needed = ("a file", "a folder") if wants_folder else ("a folder", "a file")
        other = fitting_task(path)
        hint = f"; try --task {other}" if other else ""
        raise UserError(f"--data: {shown(path)}: is {given}, and --task {task} needs {needed}{hint}")


@dataclasses.dataclass(frozen=True)
class Split:
    """The parts of the data: arguments of a loader, what to say about them, and the indices to train on."""

    args: dict[str, Any]
    text: str
    train: np.ndarray


def choose_split(
    num_samples: int,
    place: str,
    stratify: tuple[Any, Sequence | np.ndarray] | None = None,
    groups: tuple[Any, Sequence | np.ndarray] | None = None,
    tested: dict[str, str] | None = None,
    num_valid: int = 0,
) -> Split:
    """Return the parts to train, validate and test on.

    place: of the data, for messages.
    stratify, groups: (value of the loader's argument, class or group of each sample), if there are any.
    tested: the loader's argument that names test data of their own, and its value.
    num_valid: number of samples of validation data of their own, beside test data; 0 if there are none.

    Raises UserError for too few samples or groups.
    """
    require_samples(num_samples, place)
    if tested and num_valid:
        text = f"{num_samples:,} samples to train on, {num_valid:,} to validate on; these and the test data are given"
        return Split({**tested}, text, np.arange(num_samples))
    by: dict[str, Any] = {}
    why = "drawn at random"
    if groups is not None:
        require_groups(groups[1])
        by = {"groups": groups[1]}
        why = "all samples of a group are in one part, so that no group is both trained and tested on"
    elif stratify is not None and _can_stratify(num_samples, stratify[1]):
        by, why = {"stratify": stratify[1]}, "each part has the same share of each class"
    elif stratify is not None:
        why = "drawn at random, since some classes are too small to have a share in each part"
    test_split, split = (0.0 if tested else _set_aside(num_samples)), _set_aside(num_samples, tenth_from=2_000)
    rest = samples_to_serve(num_samples, test_split, True, ("", None), **by)
    train, valid = split_samples(num_samples, split, samples=np.arange(num_samples) if rest is None else rest, **by)
    args: dict[str, Any] = {"validation_split": split, **(tested or {"test_split": test_split})}
    if by and groups is not None:
        args["groups"] = groups[0]
    elif by and stratify is not None:
        args["stratify"] = stratify[0]
    num_test = num_samples - len(train) - len(valid)
    test = "the test data are given" if tested else f"{num_test:,} to test on"
    return Split(args, f"{len(train):,} samples to train on, {len(valid):,} to validate on, {test}; {why}", train)


def require_samples(num_samples: int, place: str) -> None:
    """Raise UserError unless there are samples enough for three parts. place: of the data."""
    if num_samples < MIN_SAMPLES:
        few = f"has {quantity(num_samples, 'sample')}; parts to train, validate and test on need {MIN_SAMPLES}"
        raise UserError(f"--data: {shown(place)}: {few}")


def _set_aside(num_samples: int, tenth_from: int = 10_000) -> float | int:
    """The share of samples to set aside, or their number."""
    if num_samples < tenth_from:
        return 0.2
    return 0.1 if num_samples <= 10 * _MAX_SET_ASIDE else _MAX_SET_ASIDE


def _can_stratify(num_samples: int, labels: Sequence | np.ndarray) -> bool:
    """Whether each class has enough samples for all three parts."""
    counts = np.unique(np.asarray(labels), return_counts=True)[1]
    return counts.min() >= 5 or (counts.min() >= 3 and num_samples < 100)


def require_groups(groups: Sequence | np.ndarray) -> None:
    """Raise UserError unless there are groups enough for three parts."""
    number = len(np.unique(np.asarray(groups)))
    if number < 5:
        raise UserError(f"--group: holds {quantity(number, 'group')}; parts to train, validate and test on need 5")


def shares(names: Sequence[str], counts: Sequence[int]) -> str:
    """Return "3 classes: a 50, b 40, c 10"; of many, the largest."""
    order = sorted(range(len(names)), key=lambda i: -counts[i])[:_SHOWN_CLASSES]
    listed = [f"{shortened(names[i])} {counts[i]:,}" for i in (order if len(names) > len(order) else range(len(names)))]
    more = f" and {len(names) - len(order)} smaller ones" if len(names) > len(order) else ""
    return f"{len(names)} classes: {', '.join(listed)}{more}"


def measures(num_classes: int, counts: Sequence[int], few: bool) -> tuple[list[Any], str, str]:
    """Return (metrics, monitor, why) of a classifier. few: whether validation has few samples."""
    if max(counts) > _IMBALANCED * min(counts):
        metrics = ["accuracy", {"type": "MacroF1", "args": {"num_classes": num_classes}}]
        why = "accuracy and MacroF1, which counts each class alike, since their sizes differ"
    else:
        metrics, why = ["accuracy"], "accuracy, since the classes are of similar sizes"
    if few:
        return metrics, "min val_loss", f"{why}; the best epoch is that of the least validation loss, which is finer"
    name = "accuracy" if len(metrics) == 1 else "MacroF1"
    return metrics, f"max val_{name}", f"{why}; the best epoch is that of the highest val_{name}"


def duration(num_train: int, batch_size: int, steps: int, most_epochs: int, least_steps: int = 0) -> dict[str, int]:
    """Return epochs, and len_epoch if one pass is long or short, of a training of about that many optimizer steps.

    most_epochs: make fewer steps rather than more epochs. least_steps: but make at least these.
    """
    in_epoch = -(-num_train // batch_size)
    epochs = min(most_epochs, round(steps / in_epoch))
    if epochs < _LEAST_EPOCHS:
        return {"epochs": _LEAST_EPOCHS, "len_epoch": -(-steps // _LEAST_EPOCHS)}
    if epochs * in_epoch < least_steps:
        return {"epochs": epochs, "len_epoch": -(-least_steps // epochs)}
    return {"epochs": epochs}


def duration_text(length: dict[str, int], why: str) -> str:
    """Return what to say about a duration."""
    if "len_epoch" in length:
        passes = "not of all data" if length["epochs"] == _LEAST_EPOCHS else "more than one pass over the data"
        return f"{length['epochs']} epochs of {length['len_epoch']:,} batches, {passes}, {why}"
    return f"{length['epochs']} epochs, {why}"


SCHEDULE = {"type": "CosineAnnealingLR", "args": {"T_max": "95%"}, "interval": "step", "warmup": "5%"}
"""A rise of the learning rate over the first twentieth of the run, then a cosine to 0."""


_FAR = 10  # times the distance between the quartiles


def numbers_text(numbers: np.ndarray, mean: float | None = None) -> str:
    """Return what a target of numbers is: its range and mean, and whether a few far values hold most of its variance.

    A squared error is mostly that of such values, whether they are errors or not. mean: another one to tell.
    """
    own = float(numbers.mean())
    text = f"numbers from {numbers.min():g} to {numbers.max():g}, on average {own if mean is None else mean:g}"
    low, middle, high = np.quantile(numbers, [0.25, 0.5, 0.75])
    far = np.abs(numbers - middle) > _FAR * (high - low)
    squares = (numbers.astype(np.float64) - own) ** 2
    share = float(squares[far].sum() / squares.sum()) if squares.any() else 0.0
    if not (high > low and share >= 0.5):
        return text
    values = f"{quantity(int(far.sum()), 'value')} far from the others" + (" holds" if far.sum() == 1 else " hold")
    return f'{text}; {values} {share:.0%} of the variance, so look at them, or take "loss": "torch.nn.L1Loss"'
