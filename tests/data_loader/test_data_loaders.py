import gzip
import shutil
import tracemalloc
from pathlib import Path

import pytest
import torch

from base.data.mnist_files import read_mnist
from data_loader.data_loaders import MnistDataLoader
from helpers import PROJECT
from utils import UserError

DATA = PROJECT / "data"


def test_embedded_mnist_is_found_and_whole():
    images, labels = read_mnist(DATA, training=False)
    assert images.shape == (10000, 1, 28, 28) and images.dtype == torch.uint8
    assert labels.shape == (10000,) and labels.bincount().min() == 892  # the fives, the rarest digit
    assert read_mnist(DATA, training=True)[0].shape == (60000, 1, 28, 28)


def test_batches_are_normalized_and_split():
    loader = MnistDataLoader(str(DATA), 128, shuffle=True, validation_split=0.1, num_workers=0, training=False)
    data, target = next(iter(loader))
    assert data.shape == (128, 1, 28, 28) and data.dtype == torch.float32 and target.dtype == torch.int64
    assert data.min() == pytest.approx(-0.1307 / 0.3081, abs=1e-6)
    assert loader.n_samples == 9000 and len(loader.split_validation().sampler) == 1000


def test_normalized_images_have_mean_0_and_deviation_1():
    images = read_mnist(DATA, training=True)[0]
    normalized = MnistDataLoader(DATA, 128).input(images)
    assert normalized.mean().item() == pytest.approx(0, abs=1e-3) and normalized.std().item() == pytest.approx(
        1, abs=1e-3
    )
    assert images.dtype == torch.uint8 and images.max() == 255  # the stored images are left as they are


def test_unpacked_files_where_torchvision_puts_them_are_read(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for path in (DATA / "mnist").glob("t10k*.gz"):
        (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    assert torch.equal(read_mnist(tmp_path, training=False)[0], read_mnist(DATA, training=False)[0])


def test_missing_files_are_named_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r'no t10k-images-idx3-ubyte.gz in .*; give "data/".*"download": true'):
        read_mnist(tmp_path / "none", training=False)


def test_download_is_asked_of_torchvision_only_when_files_are_missing(tmp_path, monkeypatch):
    import torchvision

    asked = []

    def fetch(root, download):
        asked.append((root, download))
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets, "MNIST", fetch)
    read_mnist(DATA, training=False, download=True)
    assert asked == []
    with pytest.raises(UserError, match=r"cannot download MNIST into .*: no network"):
        read_mnist(tmp_path, training=False, download=True)
    assert asked == [(tmp_path, True)]


def test_a_file_that_unpacks_to_more_than_it_should_is_not_unpacked(tmp_path):
    for path in (DATA / "mnist").glob("t10k*"):
        shutil.copy(path, tmp_path)
    zeros = gzip.compress(bytes(10**6), 1)
    Path(tmp_path, "t10k-images-idx3-ubyte.gz").write_bytes(zeros * 1_000)  # 1 GB
    tracemalloc.start()
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte\.gz: damaged"):
        read_mnist(tmp_path, training=False)
    assert tracemalloc.get_traced_memory()[1] < 10**8
    tracemalloc.stop()


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-100],
        lambda b: b"",
        lambda b: b[:5000] + b"x" + b[5001:],
        lambda b: gzip.compress(gzip.decompress(b)[:-1] + b"\x01"),
    ],
)
def test_damaged_file_is_refused_by_name(tmp_path, damage):
    for path in (DATA / "mnist").glob("t10k*"):
        shutil.copy(path, tmp_path)
    target = Path(tmp_path, "t10k-images-idx3-ubyte.gz")
    target.write_bytes(damage(target.read_bytes()))
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte\.gz: damaged"):
        read_mnist(tmp_path, training=False)
