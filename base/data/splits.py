"""Which samples are trained on and which are validated on: pure functions of their number, classes and groups.

All begin with the permutation that NumPy draws with seed 0, as the old template did, so that results stay comparable;
the global generator is not touched.
"""

import heapq

import numpy as np

from utils.errors import UserError, refuse
from utils.rules import parse_fold, split_errors


def split_samples(num_samples, validation_split, *, fold=None, stratify=None, groups=None):
    """(indices to train on, indices to validate on), int64, in the order of the permutation.

    validation_split: share of the samples (float in [0, 1)) or their number (int). fold: "3/5" validates on the third
    of five parts instead. stratify: classes (N,), of each of which both parts get the same share, to within a sample.
    groups: ids (N,); the samples of one id stay together, so the share is met as nearly as the groups allow.

    Raises UserError for what leaves nothing to train or validate on.
    """
    how = {"validation_split": validation_split, "fold": fold, "stratify": stratify, "groups": groups}
    refuse(split_errors(how))
    order = np.random.RandomState(0).permutation(num_samples)
    classes = _codes("stratify", stratify, order)
    groups = _by_appearance(_codes("groups", groups, order))
    if fold is None and validation_split == 0:
        return np.arange(num_samples), order[:0]
    if fold is not None:
        number, folds = parse_fold(fold)
        is_valid = _folds_of(num_samples, folds, classes, groups, stratify) == number - 1
    else:
        is_valid = _set_aside(num_samples, _length(num_samples, validation_split), classes, groups)
    if classes is not None and is_valid.any():
        _require_all_classes(classes[~is_valid], stratify)
    return order[~is_valid], order[is_valid]


def _length(num_samples, split):
    """How many samples a validation_split sets aside."""
    length = split if isinstance(split, int) else int(num_samples * split)
    if not 0 < length < num_samples:
        raise UserError(
            f"validation_split: got {split!r}, which is {length} of {num_samples} samples; "
            "give a share above 0 and below 1, or a number of samples that leaves some to train on"
        )
    return length


def _set_aside(num_samples, length, classes, groups):
    """(N,) bool: the samples, in the permutation's order, of which `length` are set aside."""
    if groups is not None:
        return np.isin(groups, _groups_within(np.bincount(groups), length))
    if classes is None:
        return np.arange(num_samples) < length
    ranks = _ranks(classes)  # evenly spaced over the samples ordered by class, so each class gives its share
    return (ranks + 1) * length // num_samples > ranks * length // num_samples


def _folds_of(num_samples, folds, classes, groups, names):
    """(N,) number from 0 of each sample's fold, in the permutation's order."""
    if num_samples < folds:
        raise UserError(f"fold: {folds} folds of {num_samples} samples would leave some empty; give fewer folds")
    if groups is not None:
        sizes = np.bincount(groups)
        if len(sizes) < folds:
            raise UserError(f"fold: {folds} folds of {len(sizes)} groups would leave some empty; give fewer folds")
        return _deal_groups(sizes, folds)[groups]
    if classes is None:
        return np.arange(num_samples) * folds // num_samples
    sizes = np.bincount(classes)
    if sizes.min() < folds:
        raise UserError(
            f"fold: class {np.unique(names)[sizes.argmin()]!s} has {sizes.min()} samples for {folds} folds, so some "
            "would have none of it; give fewer folds, or leave stratify out"
        )
    return _ranks(classes) % folds  # dealt like cards, class after class


def _ranks(classes):
    """(N,) place of each sample among those ordered by class, and within a class as they come."""
    ranks = np.empty(len(classes), np.int64)
    ranks[np.argsort(classes, kind="stable")] = np.arange(len(classes))
    return ranks


def _groups_within(sizes, length):
    """Numbers of the groups that are set aside: as many as fit into `length` samples, at least the smallest one."""
    if len(sizes) < 2:
        raise UserError("groups: all samples are of one group, so none could be set aside; choose another column")
    chosen, total = [], 0
    for group, size in enumerate(sizes.tolist()):
        if total + size <= length:
            chosen.append(group)
            total += size
    return chosen or [int(sizes.argmin())]


def _deal_groups(sizes, folds):
    """(number of groups,) the fold of each: the largest first, each to the fold with the fewest samples so far."""
    fold_of = np.empty(len(sizes), np.int64)
    filled = [(0, fold) for fold in range(folds)]
    for group in np.argsort(-sizes, kind="stable"):
        total, fold = heapq.heappop(filled)
        fold_of[group] = fold
        heapq.heappush(filled, (total + int(sizes[group]), fold))
    return fold_of


def _codes(argument, labels, order):
    """(N,) number of each sample's class or group, in the permutation's order; None for None."""
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape != order.shape:
        raise UserError(
            f"{argument}: has the shape {labels.shape}; one value for each of {len(order)} samples is needed"
        )
    return np.unique(labels, return_inverse=True)[1][order]


def _by_appearance(codes):
    """The groups numbered anew, in the order in which the permutation comes to them; None for None."""
    if codes is None:
        return None
    _, first = np.unique(codes, return_index=True)
    return np.argsort(np.argsort(first))[codes]


def _require_all_classes(trained, names):
    sizes = np.bincount(trained, minlength=len(np.unique(names)))
    if sizes.min() == 0:
        name = np.unique(names)[sizes.argmin()]
        raise UserError(f"stratify: no sample of class {name!s} is left to train on; set fewer aside, or leave it out")
