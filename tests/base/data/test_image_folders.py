"""Class numbers keep their meaning, whatever folders there are when a checkpoint is used."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from base.data.image_folders import ImageFolderDataLoader
from utils import UserError

SHADES = {"ant": 10, "bee": 60, "cat": 110, "dog": 160, "eel": 210}


def make(root, *names, number=4):
    """A folder of `number` images of one shade for each class."""
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(number):
            Image.new("L", (4, 4), SHADES.get(name.lower(), 250)).save(root / name / f"{i}.png")
    return str(root)


def pairs(loader):
    """{(shade, label)} of all samples."""
    loader = getattr(loader, "as_validation", lambda: loader)()
    batches = [(data[:, 0, 0, 0] * 0.229 + 0.485, labels) for data, labels in loader]
    shades = torch.cat([data for data, _ in batches]).mul(255).round().int().tolist()
    return set(zip(shades, torch.cat([labels for _, labels in batches]).tolist(), strict=True))


def state(*classes):
    return {"samples": 8, "fingerprint": "of the training", "classes": list(classes)}


@pytest.mark.parametrize("in_memory", [True, False])
def test_classes_are_numbered_as_in_the_checkpoint(tmp_path, in_memory, caplog):
    folder = make(tmp_path / "train", "bee", "dog")
    loader = ImageFolderDataLoader(folder, 4, 2, validation_split=2, stratify=True, in_memory=in_memory, augment=True)
    validation = loader.split_validation()
    assert pairs(loader) == pairs(validation) == {(60, 0), (160, 1)}
    with caplog.at_level(logging.WARNING, "data"):
        loader.load_state_dict(state("ant", "bee", "cat", "dog"))
        loader.load_state_dict(state("ant", "bee", "cat", "dog"))
    assert pairs(loader) == pairs(validation) == {(60, 1), (160, 3)} and loader.classes == ["ant", "bee", "cat", "dog"]
    assert {int(label) for _, labels in loader for label in labels} == {1, 3}
    assert caplog.messages == [f"folder: {folder}: no images of 2 of the classes: ant, cat"]
    assert loader.state_dict()["classes"] == ["ant", "bee", "cat", "dog"]
    loader.load_state_dict(state("dog", "bee"))
    assert pairs(loader) == {(60, 1), (160, 0)} and loader.classes == ["dog", "bee"]


def test_classes_of_images_on_the_device_are_numbered_as_in_the_checkpoint(tmp_path):
    loader = ImageFolderDataLoader(make(tmp_path, "bee", "dog"), 4, 2, augment=True, device_resident=True)
    loader.to(torch.device("cpu")).load_state_dict(state("dog", "eel", "bee"))
    assert pairs(loader) == {(60, 2), (160, 0)} and {int(label) for _, labels in loader for label in labels} == {0, 2}


def test_state_of_its_own_changes_nothing(tmp_path, caplog):
    loader = ImageFolderDataLoader(make(tmp_path, "ant", "bee"), 4, 2)
    before, arrays = loader.state_dict(), list(loader.valid_dataset.arrays)
    loader.load_state_dict(before)
    assert loader.state_dict() == before and all(
        a is b for a, b in zip(arrays, loader.valid_dataset.arrays, strict=True)
    )
    loader.load_state_dict({})
    assert loader.classes == ["ant", "bee"] and caplog.messages == []


def test_class_that_the_checkpoint_does_not_know_is_refused(tmp_path):
    folder = make(tmp_path, "ant", "bee", "west")
    loader = ImageFolderDataLoader(folder, 4, 2)
    with pytest.raises(UserError) as refused:
        loader.load_state_dict(state("ant", "bee", "left"))
    assert str(refused.value) == (
        f"folder: {folder} has images of west, but the model is trained on the classes ant, bee, left; "
        "rename or remove their folders, or train a new model"
    )
    with pytest.raises(UserError, match="has images of ant, bee, west, but the model is trained on the classes 0, 1"):
        ImageFolderDataLoader(folder, 4, 2).load_state_dict({"classes": [0, 1]})


def test_names_in_another_case_are_the_same_class(tmp_path):
    loader = ImageFolderDataLoader(make(tmp_path, "ANT", "bee", "dog"), 4, 2)
    loader.load_state_dict(state("Bee", "ant", "dog"))
    assert pairs(loader) == {(10, 1), (60, 0), (160, 2)} and loader.classes == ["Bee", "ant", "dog"]


def test_names_that_differ_in_case_alone_are_not_joined(tmp_path):
    loader = ImageFolderDataLoader(make(tmp_path, "ANT", "ant", "bee"), 4, 2)
    with pytest.raises(UserError, match="has images of ANT, but the model is trained on the classes ant, bee"):
        loader.load_state_dict(state("ant", "bee"))
    with pytest.raises(UserError, match="has images of ANT, ant, bee, but"):
        loader.load_state_dict(state("Ant", "bee"))


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_test_folder_may_lack_classes_but_not_have_others(tmp_path, in_memory, caplog):
    train, test = make(tmp_path / "train", "ant", "bee", "cat"), make(tmp_path / "test", "Cat", number=2)
    how = {"training": False, "test_folder": test, "in_memory": in_memory}
    loader = ImageFolderDataLoader(train, 4, 2, **how)
    assert pairs(loader) == {(110, 2)} and loader.classes == ["ant", "bee", "cat"]
    loader.load_state_dict(state("ant", "bee", "cat"))
    assert caplog.messages == [f"test_folder: {test}: no images of 2 of the classes: ant, bee"]
    loader.load_state_dict(state("cat", "dog"))
    assert pairs(loader) == {(110, 0)}
    make(tmp_path / "test", "eel")
    wrong = f"test_folder: {test} has images of eel, but {train} has the classes ant, bee, cat; rename or remove"
    with pytest.raises(UserError, match=wrong):
        ImageFolderDataLoader(train, 4, 2, **how)


def test_a_class_trained_on_no_longer_does_not_change_the_numbers_of_a_test(tmp_path):
    train, test = make(tmp_path / "train", "aardvark", "ant", "bee"), make(tmp_path / "test", "ant", "bee")
    loader = ImageFolderDataLoader(train, 4, 2, training=False, test_folder=test)
    assert pairs(loader) == {(10, 1), (60, 2)}
    loader.load_state_dict(state("ant", "bee"))
    assert pairs(loader) == {(10, 0), (60, 1)} and loader.classes == ["ant", "bee"]


def test_a_validation_folder_without_a_class_is_numbered_by_that_of_training(tmp_path):
    train = ImageFolderDataLoader(make(tmp_path / "train", "ant", "bee", "cat"), 4, 2)
    valid = ImageFolderDataLoader(make(tmp_path / "val", "ant", "cat"), 4, 2)
    validation = valid.as_validation(beside=train)
    assert pairs(validation) == {(10, 0), (110, 2)} and valid.classes == ["ant", "bee", "cat"]
    train.load_state_dict(state("cat", "bee", "ant"))
    assert pairs(validation) == {(10, 2), (110, 0)} and pairs(train) == {(10, 2), (60, 1), (110, 0)}


def test_balanced_classes_stay_balanced_under_other_numbers(tmp_path):
    folder = make(tmp_path, "ant", number=6)
    make(tmp_path, "cat", number=2)
    loader = ImageFolderDataLoader(folder, 4, 2, balance_classes=True)
    loader.load_state_dict(state("ant", "bee", "cat"))
    loader.set_epoch(1)
    assert sorted(int(label) for _, labels in loader for label in labels) == [0] * 4 + [2] * 4


def test_what_is_passed_over_is_described_for_the_folder_served(tmp_path):
    train, test = make(tmp_path / "train", "ant", "bee"), make(tmp_path / "test", "ant", "bee")
    assert ImageFolderDataLoader(train, 4, 2).describe_data() == []
    (tmp_path / "train" / "ant" / "1.txt").write_text("no image")
    (tmp_path / "test" / "bee" / "film.mp4").write_text("no image")
    assert ImageFolderDataLoader(train, 4, 2).describe_data() == ["passed over: 1 .txt"]
    testing = ImageFolderDataLoader(train, 4, 2, training=False, test_folder=test)
    assert testing.describe_data() == ["passed over: 1 .mp4"]


@pytest.mark.parametrize("in_memory", [True, False])
def test_white_reaches_the_images(tmp_path, in_memory):
    for name, value in (("ant", 1000), ("bee", 4000)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 4), value, np.uint16)).save(tmp_path / name / "1.png")
    with pytest.raises(UserError, match='"white": 4000'):
        ImageFolderDataLoader(str(tmp_path), 4, 2, in_memory=in_memory)
    assert pairs(ImageFolderDataLoader(str(tmp_path), 4, 2, white=4000, in_memory=in_memory)) == {(64, 0), (255, 1)}
    with pytest.raises(UserError, match="white: got 0; it should be the value of a white pixel"):
        ImageFolderDataLoader(str(tmp_path), 4, 2, white=0)
