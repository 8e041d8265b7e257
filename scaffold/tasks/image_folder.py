"""--task image-folder: tell the classes of images apart that are in one folder for each class."""

import os
import shlex
from typing import Any

import numpy as np

from base.data.class_folders import find_images
from base.data.image_files import image_size
from scaffold.tasks.images import OPTIMIZER, convolutions
from scaffold.tasks.looking import choose_split, duration_text, measures, require_kind, shares
from scaffold.tasks.plan import Plan, config_for, loaders_file, room
from utils.errors import UserError, shortened, shown

_TRAIN = ("train", "training")
_TEST = ("test", "testing")
_VALID = ("valid", "val", "validation")
_SIZES_READ = 2_000  # images whose headers are read
_LARGEST = 64  # pixels along an edge; more take minutes an epoch on two cores
_SMALLEST = 8
_IN_MEMORY_BYTES = 2_000_000_000


def plan(command: str, data: str, test: str | None = None) -> Plan:
    """Return the plan for a folder of class folders. test: another one to test on."""
    require_kind(data, "image-folder")
    folder, valid, test = _parts(data, test)
    notes: list[str] = []
    classes, files, labels = find_images(folder, "--data", notes)
    sizes = np.array([image_size(file) for file in files[:: -(-len(files) // _SIZES_READ)]])
    tested_on = [] if test is None else _require_known(test, classes, "--test")
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    tested = None if test is None else {"test_folder": test}
    num_valid = 0 if valid is None else len(_require_known(valid, classes, "--data"))
    split = choose_split(len(files), folder, stratify=(True, labels), tested=tested, num_valid=num_valid)
    pixels = int(np.clip(np.median(sizes.min(axis=1)), _SMALLEST, _LARGEST))
    augment = not all(len(name) <= 2 for name in classes)
    arch, batch_size, length = convolutions(len(split.train), len(classes), 3, pixels, pixels)
    args: dict[str, Any] = {"folder": folder, "image_size": pixels, "batch_size": batch_size, **split.args}
    if augment:
        args["augment"] = True
    if 3 * pixels**2 * len(files) > _IN_MEMORY_BYTES:
        args |= {"in_memory": False, "num_workers": 2}
    loader = "ImageFolderDataLoader"
    loaders: dict[str, Any] = {"data_loader": {"type": loader, "args": args}}
    if valid is not None:
        same = {key: value for key, value in args.items() if key not in ("test_folder", "augment")}
        loaders["valid_data_loader"] = {"type": loader, "args": {**same, "test_folder": valid, "training": False}}
    metrics, monitor, why = measures(len(classes), counts, few=(num_valid or len(files) // 5) < 200)
    config = config_for(
        f"Tells {len(classes)} classes of images apart",
        arch=arch,
        loaders=loaders,
        optimizer=OPTIMIZER,
        loss={"type": "torch.nn.CrossEntropyLoss", "args": {"label_smoothing": 0.05}},
        metrics=metrics,
        length=length,
        monitor=monitor,
        histograms=5,
        channels_last=True,
    )
    changed = (
        "shifted by up to an eighth and mirrored at random in training, as photographs may be"
        if augment
        else "neither shifted nor mirrored, since classes with names this short may be digits or letters"
    )
    choices = {
        "images": f"scaled and cropped to {pixels} x {pixels} pixels, so that an epoch is short; {changed}",
        "split": split.text,
        "model": "a small convolutional network, trained from scratch; for trained weights see docs/fine_tuning.md",
        "metrics": why,
        "training": duration_text(length, "at most about three minutes on two CPU cores; the learning rate falls to 0"),
    }
    smallest, largest = sizes.min(axis=0), sizes.max(axis=0)
    found = [
        f"{len(files):,} images, from {smallest[1]} x {smallest[0]} to {largest[1]} x {largest[0]} pixels",
        shares(classes, counts),
        *notes,
    ]
    rooms = {
        "model/model.py": room("image_model.py"),
        "data_loader/data_loaders.py": loaders_file(loader, "base/data/image_folders.py"),
    }
    return Plan(command, found, choices, config, rooms, shlex.quote(shown([*tested_on, *files][0])))


def _parts(folder: str, test: str | None) -> tuple[str, str | None, str | None]:
    """The folders to (train, validate, test) on: the folder itself, or those of its parts. None for one not given.

    Without a folder to test on, that to validate on is tested on, since validation samples can be set aside.
    """
    try:
        below = {name.lower(): os.path.join(folder, name) for name in sorted(os.listdir(folder))}
    except OSError as error:
        raise UserError(f"--data: {shown(folder)}: cannot read the folder: {error.strerror}") from None
    train, valid, held_out = (
        next((below[name] for name in names if os.path.isdir(below.get(name, ""))), None)
        for names in (_TRAIN, _VALID, _TEST)
    )
    if train is None or (valid is None and held_out is None):
        return folder, None, test
    test = test or held_out
    return (train, None, valid) if test is None else (train, valid, test)


def _require_known(folder: str, classes: list[str], flag: str) -> list[str]:
    """Return the paths of the images. Raises UserError for a class that the training data lack."""
    found, files, _ = find_images(folder, flag, least=1)
    unknown = [name for name in found if name not in classes]
    if unknown:
        names = shortened(", ".join(unknown))
        raise UserError(f"{flag}: {shown(folder)} has the classes {names}, which the training data lack")
    return files
