from collections import OrderedDict, UserDict, defaultdict, namedtuple
from types import MappingProxyType

import pytest
import torch

from base.training.precision import to_device
from base.training.summary import example_input
from utils import UserError
from utils.nested import common_rows, halves, map_tensors, num_samples, require_rows, samples_of

Pair = namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    ("target", "samples"),
    [
        (torch.zeros(6, 2), 6),
        ({"labels": torch.zeros(6), "weights": torch.zeros(3)}, 6),
        ((torch.zeros(6), torch.zeros(6, 4)), 6),
        ([{"boxes": torch.zeros(2, 4)}, {"boxes": torch.zeros(5, 4)}, {"boxes": torch.zeros(0, 4)}], 3),
        (["a cat", "a dog"], 2),
        ((torch.zeros(6), ["a", "b", "c", "d", "e", "f"]), 6),
        (UserDict(labels=torch.zeros(6)), 6),
        ([], 0),
    ],
)
def test_samples_are_counted_by_the_first_tensor_or_one_entry_each(target, samples):
    assert num_samples(target) == samples


@pytest.mark.parametrize("target", [None, 1.5, torch.tensor(1.0), {"weight": torch.tensor(1.0)}])
def test_a_target_that_does_not_tell_its_samples_is_refused(target):
    with pytest.raises(UserError, match=r"data_loader: a target is a .*, which has no number of samples"):
        num_samples(target)


def test_a_list_of_tensors_of_different_lengths_is_refused():
    with pytest.raises(UserError, match="a target's tensors have 3 and 5 samples"):
        num_samples([torch.zeros(3), torch.zeros(5)])


@pytest.mark.parametrize(
    ("batch", "given"),
    [
        ({"ids": torch.zeros(2, dtype=torch.long), "mask": torch.ones(2)}, "a dict of ids: tensor (2,) int64, mask"),
        ((torch.zeros(2), torch.zeros(2), torch.zeros(2)), "3 parts"),
        (torch.zeros(2, 3), "a tensor (2, 3) float32"),
    ],
)
def test_a_batch_that_is_no_pair_is_refused(batch, given):
    with pytest.raises(UserError) as told:
        halves(batch)
    assert str(told.value).startswith(f"data_loader: a batch is {given}")
    assert "it should be (data, target)" in str(told.value)


def test_tensors_are_replaced_wherever_they_are():
    one = torch.ones(1)
    given = {"a": [one, "text", (one, 3)], "b": Pair(one, None), "c": OrderedDict(d=one), "e": defaultdict(list, f=one)}
    doubled = map_tensors(lambda tensor: 2 * tensor, given)
    assert doubled == {"a": [2, "text", (2, 3)], "b": Pair(2, None), "c": {"d": 2}, "e": {"f": 2}}
    assert given["c"]["d"] == 1 and type(doubled["c"]) is OrderedDict and type(doubled["b"]) is Pair
    assert doubled["e"].default_factory is list


def test_a_mapping_that_cannot_be_changed_is_made_anew():
    given = MappingProxyType({"a": torch.zeros(2), "b": MappingProxyType({"c": torch.zeros(1)})})
    made = map_tensors(lambda tensor: tensor + 1, given)
    assert type(made) is MappingProxyType and made["a"].tolist() == [1, 1] and made["b"]["c"].tolist() == [1]
    assert given["a"].tolist() == [0, 0]


def test_what_can_be_sent_to_a_device_counts_as_a_tensor():
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3, 1), torch.ones(2, 1)])
    assert map_tensors(lambda value: value.to(torch.float64), (packed, 1))[0].data.dtype == torch.float64


class OtherBatch:
    """Of a library whose `to` takes the device alone."""

    def to(self, device):
        self.device = device
        return self


def test_other_batches_are_sent_and_shown_as_a_whole():
    device = torch.device("cpu")
    other = OtherBatch()
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3, 1), torch.ones(2, 1)])
    assert to_device({"a": other}, device)["a"].device == device
    shown = example_input([((other, packed, torch.tensor(1.0), torch.zeros(5, 2)), torch.zeros(5))], device)
    assert shown[0] is other and shown[1].batch_sizes.tolist() == [2, 2, 1] and shown[3].shape == (5, 2)
    chosen = samples_of((other, torch.arange(3)), torch.tensor([2, 0]))
    assert chosen[0] is other and chosen[1].tolist() == [2, 0]


def test_a_dict_whose_first_value_is_not_by_samples_is_refused_if_another_value_is():
    characters, lengths = torch.zeros(30), torch.zeros(8)
    with pytest.raises(UserError, match=r"'labels', the first value .* 30 rows for the 8 .* put 'lengths' first"):
        require_rows({"labels": characters, "lengths": lengths}, 8)
    require_rows({"lengths": lengths, "labels": characters}, 8)
    require_rows({"labels": characters, "lengths": lengths}, 0)  # a loader that does not tell
    require_rows({"nodes": characters, "classes": torch.zeros(3)}, 8)  # a graph's nodes, over which means are meant
    require_rows(characters, 8)


def test_rows_are_common_if_all_tensors_have_as_many():
    rows, number = torch.zeros(5, 3), torch.tensor(1.0)
    assert common_rows(rows) == common_rows({"a": rows, "b": (torch.zeros(5), number, "text")}) == 5
    assert common_rows({"nodes": rows, "edges": torch.zeros(2, 9)}) is None  # a graph
    assert common_rows((rows, OtherBatch())) is None and common_rows("text") is None
