"""The loaders for data of one's own: image folders, texts, and what goes for the files of all."""

import bz2
import gzip
import lzma
import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from base.data.arrays import ArrayDataLoader, read_array
from base.data.augmentations import RandomShift
from base.data.image_folders import ImageFolderDataLoader
from base.data.mnist_files import read_mnist
from base.data.tables import TableDataLoader
from base.data.texts import TextDataLoader
from examples.cifar_resnet.data import read_cifar10
from helpers import whole
from utils import UserError
from utils.batches import DataError, batches_of

# images in class folders


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Folders train and test of the classes cat (red, 6 of them), dog (green, 3) and owl (blue, 3)."""
    folder = tmp_path_factory.mktemp("pictures")
    for part in ("train", "test"):
        for name, colour, number in (("cat", (255, 0, 0), 6), ("dog", (0, 255, 0), 3), ("owl", (0, 0, 255), 3)):
            (folder / part / name).mkdir(parents=True)
            for i in range(number):
                Image.new("RGB", (20 + i, 10), colour).save(folder / part / name / f"{i}.png")
        (folder / part / "cat" / "notes.txt").write_text("no image")
    return folder


@pytest.mark.parametrize("in_memory", [True, False])
def test_image_folders_give_normalized_squares_and_labels(pictures, in_memory):
    loader = ImageFolderDataLoader(str(pictures / "train"), 8, 5, shuffle=False, in_memory=in_memory)
    images, labels = whole(loader)
    assert loader.classes == ["cat", "dog", "owl"] and labels.tolist() == [0] * 6 + [1] * 3 + [2] * 3
    assert images.shape == (12, 3, 8, 8) and images.dtype == torch.float32 and labels.dtype == torch.int64
    assert torch.equal(images.mean((2, 3)).argmax(1), labels)
    assert images[0, 0, 0, 0] == pytest.approx((1 - 0.485) / 0.229, abs=1e-6)


def test_images_in_memory_and_from_files_are_the_same(pictures):
    memory, files = (
        whole(ImageFolderDataLoader(str(pictures / "train"), 8, 5, shuffle=False, in_memory=in_memory))[0]
        for in_memory in (True, False)
    )
    assert torch.equal(memory, files)


@pytest.mark.parametrize("in_memory", [True, False])
def test_augmentation_is_for_training_alone_and_a_function_of_the_epoch(pictures, in_memory):
    def epoch(number, augment):
        torch.manual_seed(3)
        loader = ImageFolderDataLoader(
            str(pictures / "train"), 8, 4, validation_split=4, in_memory=in_memory, augment=augment
        )
        loader.set_epoch(number)
        return whole(loader)[0], whole(loader.split_validation())[0]

    (first, valid), (again, _), (second, _), (plain, plain_valid) = (
        epoch(1, True),
        epoch(1, True),
        epoch(2, True),
        epoch(1, False),
    )
    assert torch.equal(first, again) and not torch.equal(first, plain)
    assert not torch.equal(first, second) and torch.equal(valid, plain_valid)


def test_images_to_test_on_have_the_labels_of_those_trained_on(pictures):
    folder = str(pictures / "train")
    assert len(whole(ImageFolderDataLoader(folder, 8, 5, training=False, test_folder=str(pictures / "test")))[1]) == 12
    with pytest.raises(UserError, match="test_folder: the config names no folder"):
        ImageFolderDataLoader(folder, 8, 5, training=False)


def test_image_that_cannot_be_read_is_named(pictures, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / "good.png")
    (tmp_path / "b" / "bad.jpg").write_bytes(b"\xff\xd8 no more")
    with pytest.raises(UserError, match=r"b/bad\.jpg: cannot be read as an image: "):
        ImageFolderDataLoader(str(tmp_path), 4, 2)
    loader = ImageFolderDataLoader(str(tmp_path), 4, 2, in_memory=False)
    loader.set_epoch(1)
    with pytest.raises(DataError, match=r"data_loader: sample 1: .*b/bad\.jpg: cannot be read as an image"):
        list(batches_of(loader))


def test_programs_are_not_started_for_images(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    Image.new("L", (4, 4)).save(tmp_path / "b" / "x.png")
    with pytest.raises(UserError, match=r"a/x\.png: cannot be read as an image"):
        ImageFolderDataLoader(str(tmp_path), 4, 2)


def test_folders_that_will_not_do_are_refused(tmp_path):
    with pytest.raises(UserError, match="folder: there is no folder"):
        ImageFolderDataLoader(str(tmp_path / "none"), 4, 2)
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="has 1 folder; it should have one for each of two classes or more"):
        ImageFolderDataLoader(str(tmp_path), 4, 2)
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=r"folder: .*/a holds no images; fill it, or remove it"):
        ImageFolderDataLoader(str(tmp_path), 4, 2)


def test_shift_moves_each_image_whole_and_fills_in_zeros():
    images = torch.zeros(64, 2, 5, 7, dtype=torch.uint8)
    images[:, :, 2, 3] = torch.tensor([7, 9], dtype=torch.uint8)
    moved = RandomShift(2)(images)
    assert moved.dtype == torch.uint8 and torch.equal(moved.sum((2, 3)), torch.tensor([[7, 9]] * 64))
    places = {tuple(image[0].nonzero()[0].tolist()) for image in moved}
    assert len(places) > 15 and places <= {(row, column) for row in range(5) for column in range(1, 6)}
    lopsided = torch.arange(4.0).expand(50, 1, 4, 4)
    assert {tuple(image[0, 0].tolist()) for image in RandomShift(0, flip=True)(lopsided)} == {
        (0, 1, 2, 3),
        (3, 2, 1, 0),
    }


# any files


def test_loaders_do_not_wait_at_pipes_nor_read_devices(tmp_path):
    for name in ("a.npy", "a.npz", "a.csv", "a.txt"):
        os.mkfifo(tmp_path / name)
    for folder in ("one", "two"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        os.mkfifo(tmp_path / "images" / folder / "a.png")
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073))
    os.mkfifo(tmp_path / "data_batch_2.bin")
    for load in (
        lambda: read_array(f"{tmp_path}/a.npy", "data"),
        lambda: read_array(f"{tmp_path}/a.npz:x", "data"),
        lambda: read_array("/dev/zero", "data"),
        lambda: TableDataLoader(f"{tmp_path}/a.csv", "b", "regression", 8),
        lambda: TextDataLoader(f"{tmp_path}/a.txt", 4, 3),
        lambda: TextDataLoader("/dev/zero", 4, 3),
        lambda: ImageFolderDataLoader(f"{tmp_path}/images", 4, 2),
        lambda: read_cifar10(tmp_path, training=True),
    ):
        with pytest.raises(UserError, match="not an ordinary file"):
            load()


def test_paths_are_shown_in_one_line_whatever_they_hold(tmp_path):
    odd = f"{tmp_path}/a\x1b[2J\nerror: b"
    for load in (
        lambda: read_array(f"{odd}.npy", "data"),
        lambda: read_array(f"{odd}.npz:x", "data"),
        lambda: read_array(f"{odd}.npz", "data"),
        lambda: TableDataLoader(f"{odd}.csv", "b", "regression", 8),
        lambda: TextDataLoader(f"{odd}.txt", 4, 3),
        lambda: ImageFolderDataLoader(odd, 4, 2),
        lambda: read_cifar10(odd, training=True),
        lambda: read_mnist(odd, training=True),
    ):
        with pytest.raises(UserError, match="x1b") as refused:
            load()
        assert str(refused.value).isprintable()


# texts


def test_texts_are_blocks_of_bytes_and_the_bytes_that_follow(tmp_path):
    text = "Ein Blümchen stand am Wegesrand.".encode()
    (tmp_path / "text.txt").write_bytes(text)
    data, target = whole(TextDataLoader(str(tmp_path / "text.txt"), 4, 3, shuffle=False))
    assert data.dtype == target.dtype == torch.int64 and data.shape == target.shape == (len(text[1:]) // 4, 4)
    assert bytes(data.flatten().tolist()) == text[: data.numel()]
    assert bytes(target.flatten().tolist()) == text[1 : 1 + data.numel()]


def test_texts_split_and_test(tmp_path):
    (tmp_path / "text.txt").write_bytes(bytes(range(101)))
    (tmp_path / "test.txt").write_bytes(bytes(range(21)))
    path = str(tmp_path / "text.txt")
    loader = TextDataLoader(path, 10, 3, fold="1/5")
    assert loader.n_samples == 8 and len(loader.split_validation().sampler) == 2
    assert len(whole(TextDataLoader(path, 10, 3, training=False, test_path=str(tmp_path / "test.txt")))[0]) == 2
    for arguments, message in (
        ({"block_size": 101}, "block_size: .* has 101 bytes, and a block takes 102"),
        ({"block_size": 0}, "block_size: got 0"),
        ({"path": "none.txt"}, "path: none.txt: cannot read the text"),
        ({"training": False}, "test_path: the config names no text"),
    ):
        with pytest.raises(UserError, match=message):
            TextDataLoader(**{"path": path, "block_size": 10, "batch_size": 3, **arguments})


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zip", "PDF"])
def test_packed_texts_are_refused(tmp_path, kind):
    path = tmp_path / "text"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("poem.txt", "A rose is a rose. " * 20)
    else:
        packed = {
            "gzip": gzip.compress,
            "bzip2": bz2.compress,
            "xz": lzma.compress,
            "PDF": lambda text: b"%PDF-" + text,
        }
        path.write_bytes(packed[kind](b"A rose is a rose. " * 20))
    with pytest.raises(UserError, match=f"path: .*/text: is a {kind} file; give the text that it holds"):
        TextDataLoader(str(path), 4, 2)


def test_an_incomplete_last_batch_can_be_left_out_in_training_alone(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((9, 2), np.float32))
    np.save(tmp_path / "y.npy", np.arange(9))
    args = (f"{tmp_path}/x.npy", f"{tmp_path}/y.npy", 4)
    loader = ArrayDataLoader(*args, drop_last=True)
    assert [len(target) for _, target in loader] == [4, 4]
    assert [len(target) for _, target in loader.as_validation()] == [4, 4, 1]
    assert [len(target) for _, target in ArrayDataLoader(*args)] == [4, 4, 1]
