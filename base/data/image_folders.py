"""YOURS: images in a folder for each class, named in a config as "image_folders.ImageFolderDataLoader"."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from base import BaseDataLoader, InMemoryDataset
from base.data.augmentations import RandomShift
from base.data.local_files import local_file
from utils import UserError
from utils.errors import shortened, shown

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # none that another program would be started for
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class ImageFolderDataLoader(BaseDataLoader):
    """Batches of images (B, 3, image_size, image_size) float32, normalized as for ImageNet, and labels (B,) int64.

    folder: of one folder for each class; labels count them in the order of their names, the attribute classes. Images
    are scaled and cut to a square around their centre. test_folder: what training=False serves, of the same classes.
    in_memory: decode all images at the start, into 3 * image_size ** 2 bytes each; without it each is read when its
    turn comes, by num_workers processes. augment: in training, shift images by up to an eighth and mirror half of them.
    stratify: split so that both parts hold the same share of each class. fold: "3/5" validates on the third of five
    parts. balance_classes: draw every class equally often. device_resident: keep the images on the GPU.
    """

    def __init__(
        self,
        folder: str,
        image_size: int,
        batch_size: int,
        shuffle: bool = True,
        validation_split: float = 0.0,
        num_workers: int = 0,
        training: bool = True,
        test_folder: str | None = None,
        in_memory: bool = True,
        augment: bool = False,
        fold: str | None = None,
        stratify: bool = False,
        balance_classes: bool = False,
        device_resident: bool = False,
    ):
        if image_size < 1:
            raise UserError(f"image_size: got {image_size}; it should be a number of pixels from 1 on")
        self.classes, files, labels = find_images(folder, "folder")
        if not training:
            files, labels = self._test_images(test_folder, folder)
        images = read_images(files, image_size) if in_memory else None

        def dataset(*batch_transform):
            if in_memory:
                return InMemoryDataset(images, labels, batch_transform=batch_transform)
            return ImageFiles(files, labels, image_size, batch_transform)

        plain = dataset(normalize)
        super().__init__(
            dataset(RandomShift(image_size // 8, flip=True), normalize) if augment and training else plain,
            batch_size,
            shuffle,
            validation_split,
            num_workers,
            valid_dataset=plain,
            device_resident=device_resident,
            fold=fold,
            stratify=labels if stratify else None,
            balance_classes=labels if balance_classes else None,
        )

    def _test_images(self, test_folder, folder):
        if test_folder is None:
            raise UserError("test_folder: the config names no folder to test on")
        classes, files, labels = find_images(test_folder, "test_folder")
        if classes != self.classes:
            other = ", ".join(map(shown, sorted({*classes} ^ {*self.classes})))
            both = f"{shown(test_folder)} and {shown(folder)}"
            raise UserError(f"test_folder: {both} hold other classes; in one of them alone: {other}")
        return files, labels


class ImageFiles(Dataset):
    """Images read when they are asked for. files: paths. batch_transform: functions of batches (B, 3, size, size)."""

    def __init__(self, files, labels, size, batch_transform):
        self.files = files  # errors name the sample's file
        self.labels = labels
        self.size = size
        self.batch_transform = batch_transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        image = torch.from_numpy(read_image(self.files[index], self.size)).unsqueeze(0)
        for function in self.batch_transform:
            image = function(image)
        return image[0], self.labels[index]


def find_images(folder, argument):
    """(names of the classes, files of all images, their labels (N,) int64). Raises UserError for an empty class."""
    place = shown(folder)
    if not os.path.isdir(folder):
        raise UserError(f"{argument}: there is no folder {place}; it should hold a folder of images for each class")
    classes = sorted(path.name for path in Path(folder).iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        raise UserError(
            f"{argument}: {place} has {len(classes)} folders; it should have one for each of two classes or more"
        )
    files, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(str(path) for path in Path(folder, name).rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not found:
            raise UserError(f"{argument}: {shown(Path(folder, name))} holds no images; fill it, or remove it")
        files += found
        labels += [label] * len(found)
    return classes, files, np.array(labels)


def read_images(files, size):
    """(N, 3, size, size) uint8 of all files. Raises UserError that names one that cannot be read."""
    images = np.empty((len(files), 3, size, size), np.uint8)

    def read(i):
        images[i] = read_image(files[i], size)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(read, range(len(files))))
    return images


def read_image(file, size):
    """(3, size, size) uint8: the image upright, scaled and cut to a square. Raises UserError that names the file."""
    local_file(file, "folder", "an image")
    try:
        with Image.open(file, formats=_FORMATS) as image:
            image = ImageOps.exif_transpose(image).convert("RGB")
            return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1).copy()
    except Exception as error:  # decoders raise all kinds
        raise UserError(f"{shown(file)}: cannot be read as an image: {shortened(error)}") from error


def normalize(images):
    """uint8 images (B, 3, H, W) as float32, with the mean 0 and the standard deviation 1 that ImageNet's would have."""
    mean = images.new_tensor([0.485, 0.456, 0.406], dtype=torch.float32).mul_(255).view(3, 1, 1)
    std = images.new_tensor([0.229, 0.224, 0.225], dtype=torch.float32).mul_(255).view(3, 1, 1)
    return images.float().sub_(mean).div_(std)
