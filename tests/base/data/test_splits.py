"""Which samples are validated on, whatever the data: checked on many made ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.data.splits import split_samples
from utils import UserError

many = settings(max_examples=60, deadline=None)
sizes = st.integers(2, 6).flatmap(lambda folds: st.tuples(st.just(folds), st.integers(folds, 80)))


def folds_of(num_samples, folds, **how):
    return [split_samples(num_samples, 0, fold=f"{k}/{folds}", **how) for k in range(1, folds + 1)]


def require_partition(parts, num_samples):
    """Every sample is in exactly one validation part, and in the training part of all other folds."""
    assert sorted(i for _, valid in parts for i in valid.tolist()) == list(range(num_samples))
    for train, valid in parts:
        assert sorted([*train.tolist(), *valid.tolist()]) == list(range(num_samples)) and len(valid) > 0


@many
@given(st.integers(2, 300), st.floats(0.01, 0.99))
def test_default_split_is_that_of_the_old_template(num_samples, share):
    length = int(num_samples * share)
    if length == 0:
        return
    order = np.random.RandomState(0).permutation(num_samples)
    for split in (share, length):
        train, valid = split_samples(num_samples, split)
        assert np.array_equal(valid, order[:length]) and np.array_equal(train, order[length:])


def test_no_split_is_all_samples_in_their_order():
    train, valid = split_samples(5, 0)
    assert train.tolist() == [0, 1, 2, 3, 4] and valid.tolist() == []


def test_first_fold_is_the_split_of_its_share():
    for mine, other in zip(split_samples(100, 0, fold="1/5"), split_samples(100, 0.2), strict=True):
        assert np.array_equal(mine, other)


@many
@given(sizes)
def test_folds_partition_the_data_into_equal_parts(size):
    folds, num_samples = size
    parts = folds_of(num_samples, folds)
    require_partition(parts, num_samples)
    lengths = [len(valid) for _, valid in parts]
    assert max(lengths) - min(lengths) <= 1


@many
@given(sizes, st.data())
def test_stratified_folds_share_each_class_to_within_one_sample(size, data):
    folds, _ = size
    counts = data.draw(st.lists(st.integers(folds, 30), min_size=1, max_size=5))
    labels = np.random.RandomState(1).permutation(np.repeat(np.arange(len(counts)), counts))
    parts = folds_of(len(labels), folds, stratify=labels)
    require_partition(parts, len(labels))
    lengths = [len(valid) for _, valid in parts]
    assert max(lengths) - min(lengths) <= 1
    for label, count in enumerate(counts):
        of_class = [int((labels[valid] == label).sum()) for _, valid in parts]
        assert max(of_class) - min(of_class) <= 1 and sum(of_class) == count


@many
@given(st.lists(st.integers(2, 40), min_size=1, max_size=6), st.floats(0.05, 0.5))
def test_stratified_split_shares_each_class_to_within_one_sample(counts, share):
    labels = np.random.RandomState(1).permutation(np.repeat(list("abcdef")[: len(counts)], counts))
    length = int(len(labels) * share)
    if length == 0:
        return
    train, valid = split_samples(len(labels), share, stratify=labels)
    assert sorted([*train, *valid]) == list(range(len(labels))) and len(valid) == length
    for label, count in zip("abcdef", counts, strict=False):
        assert abs((labels[valid] == label).sum() - length * count / len(labels)) < 1


@many
@given(st.lists(st.integers(1, 12), min_size=6, max_size=20), st.integers(2, 6))
def test_a_group_never_falls_on_both_sides_of_a_fold(counts, folds):
    groups = np.random.RandomState(2).permutation(np.repeat(np.arange(len(counts)), counts))
    parts = folds_of(len(groups), folds, groups=groups)
    require_partition(parts, len(groups))
    assert all(not set(groups[train]) & set(groups[valid]) for train, valid in parts)
    lengths = [len(valid) for _, valid in parts]
    assert max(lengths) - min(lengths) <= max(counts)


@many
@given(st.lists(st.integers(1, 12), min_size=2, max_size=20), st.floats(0.05, 0.95))
def test_a_group_never_falls_on_both_sides_of_a_split(counts, share):
    groups = np.random.RandomState(2).permutation(np.repeat([f"patient {i}" for i in range(len(counts))], counts))
    length = int(len(groups) * share)
    if length == 0:
        return
    train, valid = split_samples(len(groups), share, groups=groups)
    assert sorted([*train, *valid]) == list(range(len(groups))) and len(train) and len(valid)
    assert not set(groups[train]) & set(groups[valid])
    assert length - max(counts) < len(valid) <= max(length, min(counts))


@pytest.mark.parametrize("fold", ["6/5", "0/5", "a/b", "3", "1/1", "-1/5", "1/5\n", 3, "1/", True])
def test_what_is_no_fold_is_refused(fold):
    with pytest.raises(UserError, match=r"fold: got .*; give one of at least two, such as '3/5'"):
        split_samples(20, 0, fold=fold)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"fold": "1/5", "stratify": ["a"] * 17 + ["b"] * 3}, "fold: class b has 3 samples for 5 folds"),
        ({"fold": "1/5", "groups": [0] * 10 + [1] * 10}, "fold: 5 folds of 2 groups would leave some empty"),
        ({"fold": "1/21"}, "fold: 21 folds of 20 samples would leave some empty"),
        ({"validation_split": 0.5, "groups": [0] * 20}, "groups: all samples are of one group"),
        ({"validation_split": 19, "stratify": [0] * 19 + [1]}, "stratify: no sample of class 1 is left to train on"),
        ({"fold": "1/5", "stratify": [0] * 19}, r"stratify: has the shape \(19,\); one value for each of 20"),
        ({"fold": "1/5", "validation_split": 0.1}, "fold: validation_split sets samples aside too; leave one"),
        ({"fold": "1/5", "stratify": [0] * 20, "groups": [0] * 20}, "groups: a split goes by stratify or by groups"),
    ],
)
def test_splits_that_cannot_be_are_refused_with_the_reason(how, message):
    with pytest.raises(UserError, match=message):
        split_samples(20, how.pop("validation_split", 0), **how)


def test_a_split_leaves_the_global_generator_alone():
    np.random.seed(4)
    expected = np.random.RandomState(4).rand()
    split_samples(20, 0, fold="1/5", stratify=[0, 1] * 10)
    split_samples(20, 0, fold="1/5", groups=list(range(10)) * 2)
    assert np.random.rand() == expected


def test_groups_are_set_aside_in_the_order_of_the_permutation_and_not_of_their_names():
    groups = np.repeat(np.arange(20), 10)
    _, valid = split_samples(200, 0.3, groups=groups)
    order = np.random.RandomState(0).permutation(200)
    first = list(dict.fromkeys(groups[order].tolist()))[:6]
    assert set(groups[valid].tolist()) == set(first) != set(range(6))
