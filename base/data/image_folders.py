"""ImageFolderDataLoader: batches of images from one folder for each class."""

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from base import BaseDataLoader, InMemoryDataset
from base.data.augmentations import RandomShift
from base.data.local_files import local_file
from utils.errors import UserError, shortened, shown

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # none that PIL starts another program for
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class ImageFolderDataLoader(BaseDataLoader):
    """Batches of images (B, 3, image_size, image_size) float32, normalized as for ImageNet, and labels (B,) int64.

    Labels number the classes in sorted order; the attribute classes holds their names.

    folder: a folder with one folder of images for each class.
    image_size: pixels; images are scaled and cropped to a square around their centre.
    test_folder: the folder to serve if training is False; it must have the same classes.
    in_memory: decode all images at the start, into 3 * image_size ** 2 bytes each. Otherwise num_workers processes
        read each image when it is needed.
    augment: in training, shift images by up to an eighth of their size and mirror half of them.
    stratify: split so that both parts get the same share of each class.
    balance_classes: draw every class equally often in training.

    The other arguments are those of BaseDataLoader. Raises UserError that names a folder or an image that cannot be
    used; with in_memory=False, an image is only checked when it is read.
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
    ) -> None:
        if image_size < 1:
            raise UserError(f"image_size: got {image_size}; it should be a number of pixels from 1 on")
        self.classes, files, labels = find_images(folder, "folder")
        if not training:
            if test_folder is None:
                raise UserError("test_folder: the config names no folder to test on")
            classes, files, labels = find_images(test_folder, "test_folder")
            if classes != self.classes:
                other = ", ".join(map(shown, sorted({*classes} ^ {*self.classes})))
                both = f"{shown(test_folder)} and {shown(folder)}"
                raise UserError(f"test_folder: {both} hold other classes; in one of them alone: {other}")
        pixels = read_images(files, image_size) if in_memory else None

        def dataset(*transforms):
            if pixels is not None:
                return InMemoryDataset(pixels, labels, batch_transform=transforms)
            return ImageFiles(files, labels, image_size, transforms)

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


class ImageFiles(Dataset):
    """Images (3, size, size), read when they are asked for, and their labels.

    files: paths of the images. labels: (N,) int64. size: pixels. batch_transform: functions of images
    (B, 3, size, size), applied to each image as a batch of one.
    """

    def __init__(
        self, files: Sequence[str], labels: np.ndarray, size: int, batch_transform: Sequence[Callable]
    ) -> None:
        self.files = files  # error messages take the sample's file from here
        self.labels = labels
        self.size = size
        self.batch_transform = batch_transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, np.int64]:
        image = torch.from_numpy(read_image(self.files[index], self.size)).unsqueeze(0)
        for function in self.batch_transform:
            image = function(image)
        return image[0], self.labels[index]


def find_images(folder: str, argument: str) -> tuple[list[str], list[str], np.ndarray]:
    """Return (class names, files of all images, their labels (N,) int64). Raises UserError for an empty class."""
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


def read_images(files: list[str], size: int) -> np.ndarray:
    """Return the images of all files, (N, 3, size, size) uint8, as read_image reads them."""
    images = np.empty((len(files), 3, size, size), np.uint8)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for i, image in enumerate(pool.map(read_image, files, itertools.repeat(size))):
            images[i] = image
    return images


def read_image(file: str, size: int) -> np.ndarray:
    """Return the image upright, scaled and cropped to a square, (3, size, size) uint8.

    Raises UserError, naming the file, if it cannot be read.
    """
    local_file(file, "folder", "an image")
    try:
        with Image.open(file, formats=_FORMATS) as image:
            image = ImageOps.exif_transpose(image).convert("RGB")
            return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1).copy()
    except Exception as error:  # decoders raise errors of many kinds
        raise UserError(f"{shown(file)}: cannot be read as an image: {shortened(error)}") from error


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images (B, 3, H, W) as float32, minus the mean and divided by the deviation of ImageNet's pixels."""
    mean = images.new_tensor([0.485, 0.456, 0.406], dtype=torch.float32).mul_(255).view(3, 1, 1)
    std = images.new_tensor([0.229, 0.224, 0.225], dtype=torch.float32).mul_(255).view(3, 1, 1)
    return images.float().sub_(mean).div_(std)
