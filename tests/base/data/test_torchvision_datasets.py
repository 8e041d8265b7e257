"""Datasets of torchvision in a BaseDataLoader: PIL images, transforms of single samples, and errors that name files."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets, transforms

from base import BaseDataLoader
from utils.batches import DataError, batches_of


@pytest.fixture
def folder(tmp_path):
    """Two classes of 8 images of several sizes."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(8):
            pixels = np.random.RandomState(i).randint(0, 256, (10 + i, 12, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    return tmp_path


def epoch(dataset, num_workers):
    torch.manual_seed(3)
    loader = BaseDataLoader(dataset, 4, True, 0.25, num_workers)
    loader.set_epoch(1)
    images, labels = zip(*batches_of(loader), strict=True)
    return torch.cat(images), torch.cat(labels)


def test_image_folder_of_torchvision_draws_the_same_in_workers(folder):
    crop = transforms.Compose([transforms.RandomResizedCrop(8), transforms.ToTensor()])
    dataset = datasets.ImageFolder(str(folder), crop)
    (images, labels), (again, same) = epoch(dataset, 0), epoch(dataset, 2)
    assert images.shape == (12, 3, 8, 8) and set(labels.tolist()) == {0, 1}
    assert torch.equal(images, again) and torch.equal(labels, same)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_error_of_a_torchvision_dataset_names_the_file(folder, num_workers):
    (folder / "dog" / "3.png").write_bytes(b"\x89PNG no more")
    dataset = datasets.ImageFolder(str(folder), transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()]))
    loader = BaseDataLoader(dataset, 4, False, 0, num_workers)
    loader.set_epoch(1)
    with pytest.raises(DataError, match=r"data_loader: sample 11 \(.*dog/3\.png\): PIL\.UnidentifiedImageError"):
        list(batches_of(loader))


def test_cifar_of_torchvision_is_read_through_pil():
    class Cifar(datasets.CIFAR10):
        def __init__(self, transform):
            self.transform, self.target_transform = transform, None
            self.data = np.random.RandomState(0).randint(0, 256, (20, 32, 32, 3)).astype(np.uint8)
            self.targets = list(range(10)) * 2

    loader = BaseDataLoader(Cifar(transforms.ToTensor()), 4, False, 0, 0)
    loader.set_epoch(1)
    images, labels = next(iter(batches_of(loader)))
    expected = torch.from_numpy(loader.dataset.data[:4].transpose(0, 3, 1, 2)) / 255
    assert torch.equal(images, expected) and labels.tolist() == [0, 1, 2, 3]
    loader = BaseDataLoader(Cifar(None), 4, False, 0, 0)
    with pytest.raises(DataError, match="sample 0 is tuple of Image, int; make tensors of images"):
        list(batches_of(loader))
