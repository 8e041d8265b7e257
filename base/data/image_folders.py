"""ImageFolderDataLoader: batches of images from one folder for each class."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from base import BaseDataLoader, InMemoryDataset
from base.data.augmentations import RandomShift
from base.data.class_folders import find_images
from base.data.image_files import read_images, require_bright
from base.data.inputs import ImageInput
from base.data.splits import samples_to_serve
from utils.errors import UserError, shortened, shown


class ImageFolderDataLoader(BaseDataLoader):
    """Batches of images (B, 3, image_size, image_size) float32, normalized as for ImageNet, and labels (B,) int64.

    Labels number the classes in sorted order; the attribute classes holds their names. load_state_dict numbers both as
    in the checkpoint, by name.

    folder: a folder with one folder of images for each class.
    image_size: pixels; images are scaled and cropped to a square around their centre.
    test_folder: the folder to serve if training is False; it may lack classes, but not have others.
    in_memory: decode all images at the start, into 3 * image_size ** 2 bytes each. Otherwise num_workers processes
        read each image when it is needed.
    augment: in training, shift images by up to an eighth of their size and mirror half of them.
    stratify: split so that both parts get the same share of each class.
    test_split: share of the samples, or their number, to set aside as test data, if test_folder names none.
    balance_classes: draw every class equally often in training.
    white: the value that becomes white in grey images of 16 or 32 bits; by default 65535 for 16 bits.

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
        white: float | None = None,
        drop_last: bool = False,
        test_split: float = 0.0,
    ) -> None:
        if image_size < 1:
            raise UserError(f"image_size: got {image_size}; it should be a number of pixels from 1 on")
        if white is not None and not white > 0:
            raise UserError(f"white: got {white}; it should be the value of a white pixel, such as 4095 for 12 bits")
        self._notes: list[str] = []
        self._served = f"folder: {shown(folder)}" if training or test_split else f"test_folder: {shown(test_folder)}"
        self._has_warned = False
        self.classes, files, labels = find_images(folder, "folder", self._notes if training else None)
        if not training and not test_split:
            if test_folder is None:
                raise UserError("test_folder: the config names no folder to test on")
            classes, files, labels = find_images(test_folder, "test_folder", self._notes, least=1)
            labels = np.array(_numbers(classes, self.classes, self._served, f"{shown(folder)} has"))[labels]
        by_class = labels if stratify else None
        samples = samples_to_serve(len(files), test_split, training, ("test_folder", test_folder), by_class)
        require_bright(files, white)
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet
        self.input = as_input = ImageInput(3, image_size, image_size, mean, std, white=white)
        pixels = read_images(files, as_input.read) if in_memory else None

        def dataset(*transforms):
            if pixels is not None:
                return InMemoryDataset(pixels, labels, batch_transform=transforms)
            return ImageFiles(files, labels, as_input.read, transforms)

        plain = dataset(as_input)
        super().__init__(
            dataset(RandomShift(image_size // 8, flip=True), as_input) if augment and training else plain,
            batch_size,
            shuffle,
            validation_split,
            num_workers,
            valid_dataset=plain,
            device_resident=device_resident,
            drop_last=drop_last,
            fold=fold,
            stratify=by_class,
            balance_classes=labels if balance_classes else None,
            samples=samples,
        )

    def describe_data(self) -> list[str]:
        """Return lines on what was passed over in the folder served, and on what may be no image to learn from."""
        return self._notes

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Number the classes as in the state of a checkpoint, by name. Raises UserError for a class it does not know.

        Logs a warning if a class of the state has no images here.
        """
        known = state.get("classes")
        if known and list(known) != self.classes:
            self._renumber(list(known))
        super().load_state_dict(state)
        held = set(self._labels().tolist())
        missing = [str(name) for number, name in enumerate(self.classes) if number not in held]
        if known and missing and not self._has_warned:
            self._has_warned = True
            which = shortened(", ".join(missing))
            logging.getLogger("data").warning(
                "%s: no images of %d of the classes: %s", self._served, len(missing), which
            )

    def _labels(self) -> np.ndarray:
        """(N,) the labels of all samples."""
        dataset = self.valid_dataset
        labels = dataset.arrays[1] if isinstance(dataset, InMemoryDataset) else dataset.labels
        return labels.cpu().numpy() if isinstance(labels, torch.Tensor) else labels

    def _renumber(self, known):
        """Number labels and classes by the names `known`."""
        used = np.unique(self._labels())
        new = np.zeros(len(self.classes), np.int64)
        new[used] = _numbers([self.classes[number] for number in used], known, self._served, "the model is trained on")
        for dataset in {self.dataset, self.valid_dataset}:
            if isinstance(dataset, InMemoryDataset):
                labels = dataset.arrays[1]
                if isinstance(labels, torch.Tensor):  # moved to the device
                    new = torch.as_tensor(new, device=labels.device)
                dataset.arrays[1] = new[labels]
            else:
                dataset.labels = new[dataset.labels]
        self.classes = known


class ImageFiles(Dataset):
    """Images (C, H, W), read when they are asked for, and their labels.

    files: paths of the images. labels: (N,) int64. read: returns the image of a file, (C, H, W) uint8. batch_transform:
    functions of images (B, C, H, W), applied to each image as a batch of one.
    """

    def __init__(
        self,
        files: Sequence[str],
        labels: np.ndarray,
        read: Callable[[str], np.ndarray],
        batch_transform: Sequence[Callable],
    ) -> None:
        self.files = files  # error messages take the sample's file from here
        self.labels = labels
        self.read = read
        self.batch_transform = batch_transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, np.int64]:
        image = torch.from_numpy(self.read(self.files[index])).unsqueeze(0)
        for function in self.batch_transform:
            image = function(image)
        return image[0], self.labels[index]


def _numbers(names: list[str], known: list, place: str, source: str) -> list[int]:
    """The number of each name in `known`, whatever the case of its letters. Raises UserError for one not in it."""
    exact = {str(name): number for number, name in enumerate(known)}
    folded = {name.casefold(): number for name, number in exact.items() if name not in names}
    numbers = [exact.get(name, folded.get(name.casefold())) for name in names]
    unknown = [name for name, number in zip(names, numbers, strict=True) if number is None]
    if unknown or len(set(numbers)) < len(numbers):
        which = shortened(", ".join(unknown or names))
        classes = shortened(", ".join(exact))
        remedy = "rename or remove their folders, or train a new model"
        raise UserError(f"{place} has images of {which}, but {source} the classes {classes}; {remedy}")
    return [number for number in numbers if number is not None]
