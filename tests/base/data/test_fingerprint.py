"""What fingerprint tells apart, and what it does not look at."""

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

from base import InMemoryDataset
from base.data.fingerprint import fingerprint

ROWS, LABELS = np.arange(5000, dtype=np.float32).reshape(2500, 2), np.arange(2500) % 3


class Files:
    def __init__(self, *files):
        self.samples = [(file, 0) for file in files]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        raise AssertionError("a fingerprint reads no sample")


def test_samples_in_bfloat16_which_numpy_lacks_have_a_fingerprint():
    rows = torch.as_tensor(ROWS).bfloat16()
    first = fingerprint(InMemoryDataset(rows, LABELS))
    assert first == fingerprint(InMemoryDataset(rows.clone(), LABELS)) != fingerprint(InMemoryDataset(-rows, LABELS))


def test_the_same_samples_have_the_same_fingerprint_in_whatever_form():
    first = fingerprint(InMemoryDataset(ROWS, LABELS))
    assert first == fingerprint(InMemoryDataset(ROWS.copy(), torch.as_tensor(LABELS)))
    assert fingerprint(Files("/here/cats/1.png", "/here/dogs/1.png")) == fingerprint(
        Files("/there/x/cats/1.png", "/there/x/dogs/1.png")
    )


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        (ROWS[:-1], LABELS[:-1]),
        (ROWS[::-1], LABELS),
        (ROWS, np.where(np.arange(2500) == 1701, 2, LABELS)),
        (ROWS.astype(np.float64), LABELS),
    ],
    ids=["a row less", "another order", "another label", "another type"],
)
def test_other_samples_have_another_fingerprint(rows, labels):
    assert fingerprint(InMemoryDataset(ROWS, LABELS)) != fingerprint(InMemoryDataset(rows, labels))


def test_other_files_and_other_parts_have_another_fingerprint():
    one = Files("a/1.png", "b/1.png")
    assert fingerprint(one) != fingerprint(Files("b/1.png", "a/1.png"))
    assert fingerprint(one) != fingerprint(Files("a/1.png", "c/1.png"))
    assert fingerprint(Subset(one, [0])) != fingerprint(Subset(one, [1]))
