"""test_split: samples that training never sees and test.py alone measures, for each of the built-in loaders."""

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from base import BaseDataLoader, InMemoryDataset
from base.data.arrays import ArrayDataLoader
from base.data.image_folders import ImageFolderDataLoader
from base.data.splits import samples_to_serve, split_samples
from base.data.tables import TableDataLoader
from base.data.texts import TextDataLoader
from base.training.evaluate import split_loader
from utils import UserError

CPU = torch.device("cpu")
NUMBER = 40


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Data of 40 samples, each of which can be told by its values."""
    folder = tmp_path_factory.mktemp("data")
    table = {"x": range(NUMBER), "kind": ["a", "b"] * (NUMBER // 2), "person": [i // 4 for i in range(NUMBER)]}
    pandas.DataFrame(table).to_csv(folder / "table.csv", index=False)
    np.savez(folder / "arrays.npz", x=np.arange(NUMBER)[:, None] / 2, y=np.arange(NUMBER) % 2, person=table["person"])
    for i in range(NUMBER):
        (folder / "images" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 5 * i).save(folder / "images" / "ab"[i % 2] / f"{i:02}.png")
    (folder / "text.txt").write_bytes(bytes(range(NUMBER * 3 + 1)))
    return folder


LOADERS = {
    "table": (
        TableDataLoader,
        {"path": "{}/table.csv", "target": "kind", "task": "classification", "stratify": "kind"},
    ),
    "arrays": (
        ArrayDataLoader,
        {"data": "{}/arrays.npz:x", "target": "{}/arrays.npz:y", "classes": [0, 1], "stratify": True},
    ),
    "images": (ImageFolderDataLoader, {"folder": "{}/images", "image_size": 4, "stratify": True}),
    "files": (ImageFolderDataLoader, {"folder": "{}/images", "image_size": 4, "stratify": True, "in_memory": False}),
    "text": (TextDataLoader, {"path": "{}/text.txt", "block_size": 3}),
}


def config_of(kind, places, **changes):
    """The class of a loader, and a config that names it."""
    cls, args = LOADERS[kind]
    args = {key: value.format(places) if isinstance(value, str) else value for key, value in args.items()}
    args |= {"batch_size": 8, "validation_split": 0.25, "test_split": 0.2} | changes
    return cls, {"data_loader": {"type": cls.__name__, "args": args}}


def samples(loader):
    """What tells the samples that a loader serves."""
    return sorted(row.tolist() for data, _ in loader for row in data.reshape(len(data), -1)[:, 0])


@pytest.mark.parametrize("kind", LOADERS)
def test_no_sample_is_in_two_parts_and_none_is_lost(kind, places):
    _, config = config_of(kind, places)
    train, valid, test = (split_loader(config, split, None, CPU)[0] for split in ("train", "valid", "test"))
    counts = [len(part.sampler) for part in (train, valid, test)]
    assert counts == [24, 8, 8]
    seen = samples(train) + samples(valid) + samples(test)
    assert len(seen) == len(set(seen)) == NUMBER


@pytest.mark.parametrize("kind", ["table", "arrays", "images"])
def test_each_part_has_the_same_share_of_each_class(kind, places):
    _, config = config_of(kind, places)
    for split in ("train", "valid", "test"):
        targets = torch.cat([target for _, target in split_loader(config, split, None, CPU)[0]])
        assert 2 * targets.sum() == len(targets)


@pytest.mark.parametrize("kind", ["table", "arrays"])
def test_the_samples_of_a_group_are_in_one_part(kind, places):
    groups = "person" if kind == "table" else f"{places / 'arrays.npz'}:person"
    _, config = config_of(kind, places, groups=groups, stratify=None if kind == "table" else False)
    persons = []
    for split in ("train", "valid", "test"):
        loader = split_loader(config, split, None, CPU)[0]
        persons.append({index // 4 for index in loader.sampler.indices.tolist()})
    assert sum(map(len, persons)) == len(set.union(*persons)) == NUMBER // 4


def test_scales_are_those_of_the_training_part_alone(places):
    cls, config = config_of("table", places, numeric=["x"])
    args = config["data_loader"]["args"]
    loader = cls(**args)
    trained = loader.sampler.indices.numpy()
    assert len(trained) == 24 and loader.input.arguments["mean"] == [pytest.approx(trained.mean())]
    tested = cls(**args, training=False)  # without a checkpoint's state
    assert tested.input.spec() == loader.input.spec()


def test_folds_divide_what_is_left(places):
    cls, config = config_of("arrays", places, validation_split=0)
    args = config["data_loader"]["args"]
    tested = set(cls(**args, training=False).sampler.indices.tolist())
    folds = [cls(**args, fold=f"{i}/4").split_validation().sampler.indices.tolist() for i in range(1, 5)]
    valid = sorted(index for fold in folds for index in fold)
    assert valid == sorted(set(range(NUMBER)) - tested) and len(tested) == 8


def test_both_parts_of_a_named_and_a_set_aside_test_set_are_refused(places):
    for kind, name in (
        ("table", "test_path"),
        ("arrays", "test_data"),
        ("images", "test_folder"),
        ("text", "test_path"),
    ):
        cls, config = config_of(kind, places, **{name: "x"})
        with pytest.raises(UserError, match=f"^test_split: {name} names the data to test on already"):
            cls(**config["data_loader"]["args"])


def test_a_test_split_that_leaves_nothing_is_refused():
    with pytest.raises(UserError, match=r"^test_split: got 1e-05, which is 0 of 40"):
        samples_to_serve(NUMBER, 1e-5, True, ("test_path", None))


def test_without_it_the_validation_samples_are_as_they_were():
    expected = split_samples(NUMBER, 0.25)
    loader = BaseDataLoader(InMemoryDataset(torch.arange(NUMBER)), 8, True, 0.25, 0)
    assert samples_to_serve(NUMBER, 0.0, True, ("test_path", None)) is None
    assert loader.sampler.indices.tolist() == expected[0].tolist()
    assert loader.valid_sampler.indices.tolist() == expected[1].tolist()


def test_data_that_have_changed_since_training_are_refused(places, tmp_path):
    cls, config = config_of("arrays", places)
    state = cls(**config["data_loader"]["args"]).state_dict()
    assert len(split_loader(config, "test", None, CPU, state)[0].sampler) == 8
    np.savez(tmp_path / "more.npz", x=np.arange(50)[:, None] / 2, y=np.arange(50) % 2)
    config["data_loader"]["args"] |= {"data": f"{tmp_path}/more.npz:x", "target": f"{tmp_path}/more.npz:y"}
    with pytest.raises(UserError, match=r"^--split test: data_loader has 50 samples, not 40, so the model may"):
        split_loader(config, "test", None, CPU, state)


def test_test_samples_that_training_did_not_set_aside_are_refused(places):
    cls, config = config_of("table", places)
    args = config["data_loader"]["args"]
    persons = {"groups": "person", "stratify": None}
    for trained, tested in (({"test_split": 0.0}, {}), ({}, {"test_split": 0.25}), ({}, persons), (persons, {})):
        state = cls(**args | trained).state_dict()
        changed = {"data_loader": {"type": cls.__name__, "args": args | tested}}
        with pytest.raises(
            UserError, match=r"^--split test: data_loader sets other samples aside: test_split, stratify"
        ):
            split_loader(changed, "test", None, CPU, state)
    del state["part"]  # as earlier versions saved it
    assert len(split_loader(config, "test", None, CPU, state)[0].sampler) == 8
    assert len(split_loader(config, "valid", None, CPU, state)[0]) == 1


def test_a_changed_test_split_is_a_change_for_training_too(places):
    cls, config = config_of("arrays", places)
    args = config["data_loader"]["args"]
    loader = cls(**args)
    assert loader.changes_since(loader.state_dict()) is None
    assert "sets other samples aside" in cls(**args | {"test_split": 0.0}).changes_since(loader.state_dict())
