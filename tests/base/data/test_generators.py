"""Generators that a dataset or its transforms keep give a sample the same numbers in any process and after a resume."""

import functools
import pickle
import random
import types

import numpy as np
import pytest
import torch

from base import BaseDataLoader, InMemoryDataset
from base.data.generators import kept_generators
from base.data.seeded import SampleSeeder, SeededDataset
from utils import UserError
from utils.batches import batches_of

# {kind: (makes a generator, draws a number from it)}
KINDS = {
    "random.Random": (lambda: random.Random(0), lambda g: g.random()),
    "default_rng": (lambda: np.random.default_rng(0), lambda g: g.normal()),
    "Philox": (lambda: np.random.Generator(np.random.Philox(0)), lambda g: g.normal()),
    "MT19937": (lambda: np.random.Generator(np.random.MT19937(0)), lambda g: g.random(dtype=np.float32)),
    "RandomState": (lambda: np.random.RandomState(0), lambda g: g.randn()),
    "torch.Generator": (lambda: torch.Generator().manual_seed(0), lambda g: torch.rand((), generator=g).item()),
}

rng = np.random.default_rng(0)


class Jitter:
    def __init__(self, generator, draw):
        self.generator, self.draw = generator, draw

    def __call__(self, sample):
        return sample + self.draw(self.generator)


class Noisy(torch.utils.data.Dataset):
    """Sample i is a number drawn from a generator that it keeps itself."""

    def __init__(self, generator=None, draw=None, transform=None):
        self.generator, self.draw, self.transform = generator, draw, transform

    def __len__(self):
        return 64

    def __getitem__(self, index):
        noise = 0.0 if self.generator is None else self.draw(self.generator)
        return self.transform(torch.tensor(noise)) if self.transform else torch.tensor(noise), index


class Lazy(Noisy):
    """Makes its generator when it reads its first sample."""

    def __getitem__(self, index):
        if self.generator is None:
            self.generator, self.draw = np.random.default_rng(0), np.random.Generator.normal
        return super().__getitem__(index)


class OfItsClass(Noisy):
    shared = random.Random(0)

    def __getitem__(self, index):
        return torch.tensor(self.shared.random()), index


class OfItsModule(Noisy):
    def __getitem__(self, index):
        return torch.tensor(draw_of_module()), index


def draw_of_module():
    return rng.normal()


def noises(dataset, epoch=1, num_workers=0, start_batch=0, **keywords):
    """{index: noise} of an epoch."""
    loader = BaseDataLoader(dataset, 8, True, 0, num_workers, **keywords)
    loader.set_epoch(epoch, start_batch)
    drawn = {int(i): float(x) for data, index in batches_of(loader) for x, i in zip(data, index, strict=True)}
    if loader._iterator is not None:
        loader._iterator._shutdown_workers()
    return drawn


@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_has_a_noise_of_its_own_which_depends_on_seed_epoch_and_index_alone(kind):
    make, draw = KINDS[kind]
    torch.manual_seed(5)
    first = noises(Noisy(make(), draw))
    assert len(set(first.values())) == 64
    rest = noises(Noisy(make(), draw), start_batch=5)  # as after a resume
    assert len(rest) == 24 and all(first[index] == noise for index, noise in rest.items())
    assert not set(noises(Noisy(make(), draw), epoch=2).values()) & set(first.values())
    torch.manual_seed(6)
    assert not set(noises(Noisy(make(), draw)).values()) & set(first.values())


def test_a_copy_in_another_process_seeds_generators_of_its_own():
    dataset = SeededDataset(Noisy(KINDS["default_rng"][0](), np.random.Generator.normal))
    dataset.seeder.set_epoch(1)
    first = dataset[3]
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy[3] == first and copy[4] != first
    assert copy.dataset.generator is not dataset.dataset.generator


@pytest.mark.parametrize(
    "keywords", [{}, pytest.param({"multiprocessing_context": "spawn"}, marks=pytest.mark.slow, id="spawn")]
)
def test_workers_draw_the_same_noises(keywords):
    torch.manual_seed(5)
    make, _ = KINDS["default_rng"]
    expected = noises(Noisy(make(), np.random.Generator.normal))
    assert noises(Noisy(make(), np.random.Generator.normal), num_workers=2, **keywords) == expected
    assert len(set(expected.values())) == 64


@pytest.mark.parametrize("dataset", [Lazy, OfItsClass, OfItsModule])
def test_generators_are_found_wherever_a_dataset_may_have_them(dataset):
    torch.manual_seed(5)
    expected = noises(dataset())
    assert len(set(expected.values())) == 64
    assert noises(dataset(), start_batch=3).items() <= expected.items()
    assert noises(dataset(), num_workers=2) == expected


def places():
    """{place: a transform that keeps a generator there}"""
    generator, draw = np.random.default_rng(0), np.random.Generator.normal
    jitter = Jitter(generator, draw)
    module = torch.nn.Module()
    module.part, module.forward = torch.nn.Module(), lambda sample: jitter(sample)
    return {
        "object": jitter,
        "lambda": lambda sample: sample + generator.normal(),
        "default": lambda sample, generator=generator: sample + generator.normal(),
        "partial": functools.partial(lambda sample, generator: sample + generator.normal(), generator=generator),
        "method": jitter.__call__,
        "list": types.SimpleNamespace(transforms=[abs, jitter]),
        "dict": types.SimpleNamespace(by_name={"a": [jitter]}),
        "module": module,
    }


@pytest.mark.parametrize("place", places())
def test_generators_of_transforms_are_found(place):
    transform = places()[place]
    assert len(kept_generators(Noisy(transform=transform))) == 1
    assert len(kept_generators(torch.utils.data.Subset(Noisy(transform=transform), range(3)))) == 1


def test_transforms_of_data_in_memory_draw_from_generators_of_their_own():
    def dataset():
        return InMemoryDataset(
            torch.zeros(64), torch.arange(64), transform=Jitter(random.Random(0), random.Random.random)
        )

    torch.manual_seed(5)
    expected = noises(dataset())
    assert len(set(expected.values())) == 64
    assert noises(dataset(), start_batch=3).items() <= expected.items()


def test_a_batch_transform_with_a_generator_of_its_own_is_refused_as_one_that_draws():
    jitter = Jitter(np.random.default_rng(0), np.random.Generator.normal)
    with pytest.raises(UserError, match="batch_transform: Jitter draws random numbers; give it as transform, or"):
        noises(InMemoryDataset(torch.zeros(64), torch.arange(64), batch_transform=jitter))


def test_two_generators_of_a_dataset_differ():
    class Two(Noisy):
        def __init__(self):
            self.one, self.two = np.random.default_rng(0), np.random.default_rng(0)

        def __getitem__(self, index):
            return torch.tensor(self.one.normal() - self.two.normal()), index

    assert 0 not in noises(Two()).values()


def test_a_generator_is_left_as_it_was():
    dataset = Noisy(*(KINDS["default_rng"][0](), KINDS["default_rng"][1]))
    before = dataset.generator.bit_generator.state
    noises(dataset)
    assert dataset.generator.bit_generator.state == before


def test_a_generator_replaced_between_two_epochs_is_found():
    dataset = Noisy(KINDS["default_rng"][0](), KINDS["default_rng"][1])
    loader = BaseDataLoader(dataset, 8, False, 0, 0)
    numbers = []
    for _ in range(2):
        dataset.generator = np.random.default_rng()
        loader.set_epoch(len(numbers) + 1)
        numbers.append(next(iter(loader))[0].tolist())
    other = BaseDataLoader(Noisy(KINDS["default_rng"][0](), KINDS["default_rng"][1]), 8, False, 0, 0)
    other.set_epoch(2)
    assert next(iter(other))[0].tolist() == numbers[1] != numbers[0]


def test_the_search_is_bounded_and_leaves_samples_alone():
    class Chain:
        def __init__(self, length):
            self.next = Chain(length - 1) if length else random.Random(0)

    assert kept_generators(Chain(5)) and not kept_generators(Chain(20))
    many = types.SimpleNamespace(samples=[random.Random(0)] * 1000, loop=None, system=random.SystemRandom())
    many.loop = many
    assert kept_generators(many) == {} and kept_generators(None) == {}


def test_an_object_that_cannot_be_looked_at_is_passed_over():
    class Proxy:
        @property
        def __dict__(self):
            raise RuntimeError("not bound")

    assert len(kept_generators(types.SimpleNamespace(proxy=Proxy(), generator=random.Random(0)))) == 1


def test_nothing_is_looked_for_after_the_first_batch_of_an_epoch(monkeypatch):
    looked = []
    monkeypatch.setattr("base.data.seeded.kept_generators", lambda owner: looked.append(owner) or {})
    seeder = SampleSeeder(7, owner="owner")
    seeder.set_epoch(1)
    for _ in range(5):
        seeder.map(abs, range(8), range(8))
    assert looked == ["owner"] * 2  # before the first sample, and after it
    seeder.set_epoch(2)
    for _ in range(5):
        seeder.map(abs, range(8), range(8))
    assert len(looked) == 3
