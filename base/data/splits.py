"""Which samples are trained, validated and tested on.

A split into two parts is a function of the number of samples, their classes and groups only. It begins with the
permutation that NumPy draws with seed 0, as in the old template, so that results stay comparable; the global generator
is not used.
"""

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.errors import UserError, brief, quantity, refuse
from utils.rules import parse_fold, split_errors


def split_samples(
    num_samples: int,
    validation_split: float,
    *,
    fold: str | None = None,
    stratify: Sequence | np.ndarray | None = None,
    groups: Sequence | np.ndarray | None = None,
    samples: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (indices to train on, indices to validate on), int64, in the order of the permutation.

    validation_split: share of the samples (float in [0, 1)) or their number (int).
    fold: "3/5" validates on the third of five parts instead.
    stratify: classes (N,); both parts get the same share of each class, to within a sample.
    groups: ids (N,); the samples of one id stay together, so the share is met as nearly as the groups allow.
    samples: indices (M,) of the samples to split, by default all.

    Raises UserError if a part would be empty, or lack a class of stratify.
    """
    refuse(split_errors({"validation_split": validation_split, "fold": fold, "stratify": stratify, "groups": groups}))
    stratify = stratify if stratify is None else as_array("stratify", stratify)
    groups = groups if groups is None else as_array("groups", groups)
    if samples is not None:
        stratify, groups = (labels if labels is None else labels[samples] for labels in (stratify, groups))
        parts = split_samples(len(samples), validation_split, fold=fold, stratify=stratify, groups=groups)
        return samples[parts[0]], samples[parts[1]]
    order = np.random.RandomState(0).permutation(num_samples)
    classes = _codes("stratify", stratify, order)
    groups = _codes("groups", groups, order)
    if fold is None and validation_split == 0:
        return np.arange(num_samples), order[:0]
    if fold is not None:
        number, folds = parse_fold(fold)
        is_valid = _folds_of(num_samples, folds, classes, groups, stratify) == number - 1
    else:
        is_valid = _set_aside(num_samples, validation_split, classes, groups)
    if classes is not None and stratify is not None and is_valid.any():
        trained = np.bincount(classes[~is_valid], minlength=classes.max() + 1)
        if trained.min() == 0:
            name = np.unique(stratify)[trained.argmin()]
            raise UserError(
                f"stratify: no sample of class {name!s} is left to train on; set fewer aside, or leave it out"
            )
    return order[~is_valid], order[is_valid]


def as_array(argument: str, values: Any, kinds: str | None = None) -> np.ndarray:
    """Return the values of an argument as an array.

    kinds: of NumPy's dtypes that it may have; by default any whose values can be sorted. Raises UserError for others.
    """
    try:
        array = np.asarray(values)
        if kinds is None and array.dtype == object:
            np.unique(array)
        if array.ndim and (kinds is None or array.dtype.kind in kinds or not array.size):
            return array
    except (TypeError, ValueError):  # lists of unequal lengths, or None beside others
        pass
    wanted = "integers" if kinds == "iu" else "numbers" if kinds else "numbers or texts, not both"
    raise UserError(f"{argument}: got {brief(values)}; it should be a list or an array of {wanted}")


def samples_to_serve(
    num_samples: int,
    test_split: float,
    training: bool,
    named: tuple[str, Any],
    stratify: Sequence | np.ndarray | None = None,
    groups: Sequence | np.ndarray | None = None,
) -> np.ndarray | None:
    """Return the indices (M,) of the samples to train and validate on, or of those to test on; None for all.

    test_split: share of the samples to test on, or their number; 0 sets none aside. stratify, groups: as above.
    named: the argument that may name test data of their own, and its value.

    Raises UserError for test data from both.
    """
    if not test_split:
        return None
    if named[1] is not None:
        raise UserError(f"test_split: {named[0]} names the data to test on already; leave one of them out")
    try:
        rest, test = split_samples(num_samples, test_split, stratify=stratify, groups=groups)
    except UserError as error:
        raise UserError(str(error).replace("validation_split:", "test_split:", 1)) from None
    return np.sort(rest if training else test)


def _set_aside(num_samples, split, classes, groups):
    """(N,) bool, in the permutation's order: True for the samples that a validation_split sets aside."""
    length = split if isinstance(split, int) else int(num_samples * split)
    if not 0 < length < num_samples:
        raise UserError(
            f"validation_split: got {split!r}, which is {length} of {quantity(num_samples, 'sample')}; "
            "give a share above 0 and below 1, or a number of samples that leaves some to train on"
        )
    if groups is not None:
        return np.isin(groups, _groups_within(groups, length))
    if classes is None:
        return np.arange(num_samples) < length
    ranks = _ranks(classes)  # evenly spaced over the samples sorted by class, so each class gives its share
    return (ranks + 1) * length // num_samples > ranks * length // num_samples


def _groups_within(groups, length):
    """The groups to set aside: in the order of their numbers, those that fit into `length`; at least the smallest."""
    sizes = np.bincount(groups)
    if len(sizes) < 2:
        raise UserError("groups: all samples are of one group, so none could be set aside; choose another column")
    chosen, total = [], 0
    for group, size in enumerate(sizes.tolist()):
        if total + size <= length:
            chosen.append(group)
            total += size
    return chosen or [int(sizes.argmin())]


def _folds_of(num_samples, folds, classes, groups, names):
    """(N,) each sample's fold, from 0, in the permutation's order."""
    if num_samples < folds:
        raise UserError(
            f"fold: {folds} folds of {quantity(num_samples, 'sample')} would leave some empty; give fewer folds"
        )
    if groups is not None:
        return _deal_groups(np.bincount(groups), folds)[groups]
    if classes is None:
        return np.arange(num_samples) * folds // num_samples
    sizes = np.bincount(classes)
    if sizes.min() < folds:
        raise UserError(
            f"fold: class {np.unique(names)[sizes.argmin()]!s} has {quantity(sizes.min(), 'sample')} for {folds} folds"
            ", so some would have none of it; give fewer folds, or leave stratify out"
        )
    return _ranks(classes) % folds  # dealt like cards, class after class


def _deal_groups(sizes, folds):
    """(number of groups,) each group's fold: the largest group first, each to the fold with the fewest samples."""
    if len(sizes) < folds:
        raise UserError(
            f"fold: {folds} folds of {quantity(len(sizes), 'group')} would leave some empty; give fewer folds"
        )
    fold_of = np.empty(len(sizes), np.int64)
    filled = [(0, fold) for fold in range(folds)]
    for group in np.argsort(-sizes, kind="stable"):
        total, fold = filled[0]
        fold_of[group] = fold
        heapq.heapreplace(filled, (total + int(sizes[group]), fold))
    return fold_of


def _ranks(classes):
    """(N,) each sample's position when the samples are sorted by class, stably."""
    return np.argsort(np.argsort(classes, kind="stable"))


def _codes(argument, labels, order):
    """(N,) the number of each sample's class or group, in the permutation's order; None for None.

    Classes are numbered in sorted order, groups in the order in which the permutation first meets them.
    """
    if labels is None:
        return None
    if labels.shape != order.shape:
        raise UserError(
            f"{argument}: has the shape {labels.shape}; one value for each of {len(order)} samples is needed"
        )
    _, first, codes = np.unique(labels[order], return_index=True, return_inverse=True)
    return _ranks(first)[codes] if argument == "groups" else codes
