import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, MapDataPipe

from base import BaseDataLoader
from base.data.seeded import SampleSeeder
from utils.seed import seed_everything

DRAWS = {
    "torch": lambda _: torch.rand(()).item(),
    "numpy": lambda _: np.random.rand(),
    "python": lambda _: random.random(),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_what_a_sample_draws_depends_on_seed_epoch_and_index_alone(draw):
    seeder = SampleSeeder(7)
    seeder.set_epoch(1)
    first = seeder.map(draw, range(20), range(20))
    assert len(set(first)) == 20
    assert SampleSeeder(7).map(draw, [3], [3]) != first[3:4]  # before set_epoch nothing is seeded
    other = SampleSeeder(7)
    other.set_epoch(1)
    assert other.map(draw, [5, 3], [5, 3]) == [first[5], first[3]]
    other.set_epoch(2)
    assert not set(other.map(draw, range(20), range(20))) & set(first)
    another = SampleSeeder(8)
    another.set_epoch(1)
    assert not set(another.map(draw, range(20), range(20))) & set(first)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_generators_outside_are_left_as_they_were(draw):
    seed_everything(1)
    expected = draw(0)
    seed_everything(1)
    seeder = SampleSeeder(7)
    seeder.set_epoch(1)
    seeder.map(draw, range(4), range(4))
    seeder.map(draw, range(4), range(4))
    assert draw(0) == expected


def test_a_generator_that_only_some_samples_draw_from_is_found_when_they_come():
    def draw(index):
        return random.random() if index == 30 else index

    seeder, late = SampleSeeder(7), SampleSeeder(7)
    seeder.set_epoch(1)
    late.set_epoch(1)
    first = seeder.map(draw, [30, 1], [30, 1])
    late.map(draw, [1, 2], [1, 2])  # draws nothing
    assert late.map(draw, [1, 30], [1, 30]) == first[::-1]


def test_an_error_of_a_sample_leaves_the_generators_alone():
    def fail(_):
        torch.rand(1)
        raise KeyError("no such file")

    seeder = SampleSeeder(7)
    seeder.set_epoch(1)
    seeder.map(DRAWS["torch"], [1], [1])
    before = torch.get_rng_state()
    with pytest.raises(KeyError):
        seeder.map(fail, [1], [1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_drawing_is_noticed(draw):
    seed_everything(1)
    expected = draw(0)
    seed_everything(1)
    assert SampleSeeder(7).watch(draw, 0) == (expected, True)
    assert SampleSeeder(7).watch(len, "abc") == (3, False)


def test_draws_that_follow_from_other_draws_are_seeded_too():
    def draw(_):
        return torch.rand(()).item() if random.random() < 0.1 else 0

    def fresh():
        seeder = SampleSeeder(7)
        seeder.set_epoch(1)
        return seeder

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fresh().map(draw, range(60), range(60))
    assert torch.equal(torch.get_rng_state(), before) and any(first)
    torch.manual_seed(2)
    assert fresh().map(draw, range(60), range(60)) == first


def test_indices_may_be_numpys():
    seeder = SampleSeeder(7)
    seeder.set_epoch(1)
    for draw in DRAWS.values():
        assert seeder.map(draw, np.arange(3), range(3)) == seeder.map(draw, [0, 1, 2], range(3))


class Drawing(Dataset):
    """Each sample is a random number."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.rand(())


class Pipe(Drawing, MapDataPipe):
    pass


class OfTorch(BaseDataLoader):
    """Opens its iterators as torch's DataLoader does, and has attributes of its own."""

    def __init__(self, dataset):
        self._dataset = self._opens = "of the project"
        self.dataset = dataset
        assert self.dataset is dataset
        super().__init__(self.dataset, 3, shuffle=False, validation_split=0, num_workers=0)

    def __iter__(self):
        return DataLoader.__iter__(self)


class OpensAgain(BaseDataLoader):
    def __iter__(self):
        return self._get_iterator()


@pytest.mark.parametrize("dataset", [Drawing, Pipe])
def test_every_way_to_open_a_loader_reads_the_seeded_dataset(dataset):
    found = []
    plain = [
        cls(dataset(), 3, shuffle=False, validation_split=0, num_workers=0) for cls in (BaseDataLoader, OpensAgain)
    ]
    for loader in [*plain, OfTorch(dataset())]:
        torch.manual_seed(len(found))
        loader.seeded.seeder.seed = 3
        loader.set_epoch(2)
        found.append(torch.cat(list(loader)))
        assert type(loader.dataset) is dataset
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
