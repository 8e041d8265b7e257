"""Find the images of each class in a folder of class folders, as people have them; see find_images."""

import os
import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np

from base.data.image_files import readable
from utils.errors import UserError, quantity, shortened, shown

_SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
_TRAIN = {"train", "training"}
_HELD_OUT = {"test", "testing", "val", "valid", "validation", "dev", "eval", "pred"}
_MASK = re.compile(r"(^|[ _-])(mask|segmentation)s?([ _-]?\d+)?$", re.IGNORECASE)
_NUM_LISTED = 8


def find_images(
    folder: str, argument: str, notes: list[str] | None = None, least: int = 2
) -> tuple[list[str], list[str], np.ndarray]:
    """Return (class names in sorted order, files of all images, their labels (N,) int64).

    Hidden files and folders are passed over. Links are followed; no folder is read twice.

    argument: the argument that gave the folder, for messages.
    notes: lines on what is passed over, and on what may be no image to learn from, are added to it.
    least: number of classes needed.

    Raises UserError for folders that are not classes, for a class without images, and for broken links.
    """
    folder = os.path.expanduser(folder)
    if not os.path.isdir(folder):
        raise UserError(
            f"{argument}: there is no folder {shown(folder)}; it should hold a folder of images for each class"
        )
    passed_over: Counter[str] = Counter()
    folders, loose = _listed(folder, argument, passed_over)
    _require_classes(folder, folders, len(loose), argument, least)
    passed_over["in no class folder"] = len(loose)
    root = Path(os.path.realpath(folder))
    class_of = dict.fromkeys(map(str, [root, *root.parents]), "")
    classes = _class_names(folders, argument)
    files, labels = [], []
    for label, (name, place) in enumerate(classes.items()):
        found = _images_below(place, name, argument, passed_over, class_of)
        files += found
        labels += [label] * len(found)
    if notes is not None:
        notes += _notes(list(classes), files, +passed_over)
    return list(classes), files, np.array(labels, np.int64)


def _listed(folder, argument, passed_over):
    """(visible folders, images) in a folder, as sorted paths; its other entries are counted in passed_over."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{argument}: {shown(folder)}: cannot read the folder: {error.strerror}") from None
    folders, images, broken = [], [], []
    endings = readable()[1]
    for entry in entries:
        is_link, ending = entry.is_symlink(), os.path.splitext(entry.name)[1].lower()
        # entry.is_dir raises an error for a link to itself
        is_folder = os.path.isdir(entry.path) if is_link else entry.is_dir()
        if entry.name.startswith(".") or (is_folder and entry.name in _SYSTEM_FOLDERS):
            passed_over["hidden"] += 1
        elif is_folder:
            folders.append(entry.path)
        elif is_link and (ending in endings or not ending) and not os.path.exists(entry.path):
            broken.append(entry.path)
        elif ending in endings:
            images.append(entry.path)
        else:
            passed_over[ending or "without an ending"] += 1
    if broken:
        more = f" (and {len(broken) - 1} more beside it)" if len(broken) > 1 else ""
        raise UserError(f"{argument}: {shown(broken[0])}{more}: a link to what is not there; mend it, or remove it")
    return folders, images


def _require_classes(folder, folders, num_loose, argument, least):
    """Raise UserError if the folders are parts of the data, such as train and test, or fewer than `least`."""
    names = list(map(os.path.basename, folders))
    if remedy := _remedy_for_parts(folder, names, argument):
        raise UserError(f"{argument}: {shown(folder)} holds parts of the data and not classes; {remedy}")
    if len(names) >= least:
        return
    remedy = f"it should have one for each {'class' if least == 1 else 'of two classes or more'}"
    inner, followed = folder, 0
    while len(folders) == 1 and followed < _NUM_LISTED:  # a link may lead to where it started
        inner, followed = folders[0], followed + 1
        folders, _ = _listed(inner, argument, Counter())
    if len(folders) > 1:
        within = list(map(os.path.basename, folders))
        remedy = _remedy_for_parts(inner, within, argument) or f'give "{argument}": "{shown(inner)}"'
        remedy = f"{shown(inner)} has {len(folders)}; {remedy}"
    found = quantity(len(names), "folder")
    if num_loose and not names:
        found = "images, but no folders"
    raise UserError(f"{argument}: {shown(folder)} has {found}; {remedy}")


def _remedy_for_parts(folder, names, argument):
    """What to give instead of a folder that holds parts of the data; None if its folders may be classes."""
    words = {name: {word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", name)} for name in names}
    train = [name for name in names if words[name] & _TRAIN]
    held_out = [name for name in names if words[name] & _HELD_OUT and name not in train]
    if not (_are_parts(names) or (train and held_out and len(train + held_out) == len(names))):
        return None
    test = [name for name in held_out if words[name] & {"test", "testing"}] or held_out
    given = {"folder": train[:1] or held_out[:1], "test_folder": test[:1]}
    keys = ["folder", "test_folder"] if argument == "folder" else [argument]
    places = {key: shown(os.path.join(folder, name)) for key in keys for name in given[key]}
    return "give " + ", ".join(f'"{key}": "{place}"' for key, place in places.items())


def _are_parts(names):
    """Whether these are the names of parts of the data: train beside test or val, or several such and no others."""
    found = {name.lower() for name in names}
    return bool(found & _TRAIN and found & _HELD_OUT) or (len(found) > 1 and found <= _TRAIN | _HELD_OUT)


def _class_names(folders, argument):
    """{name: folder}, sorted by name, in which systems' two spellings of a letter with an accent are one (NFC)."""
    classes = {}
    for place in folders:
        name = unicodedata.normalize("NFC", os.path.basename(place))
        if name in classes:
            raise UserError(
                f"{argument}: two folders are called {shown(place)}, in two spellings of Unicode; join them"
            )
        classes[name] = place
    return dict(sorted(classes.items()))


def _images_below(folder, name, argument, passed_over, class_of):
    """Sorted paths of the images at any depth below the folder of a class.

    class_of: {real path of a folder: the class it was read for, or "" above the class folders}; is added to.
    """
    images, folders, links, others = [], [folder], [], Counter()
    while folders or links:
        place = folders.pop() if folders else links.pop()  # links last, so that a file goes by its own path
        real = os.path.realpath(place)
        if class_of.get(real) in ("", name):
            others["linked and read already"] += 1
            continue
        if real in class_of:
            both = f"classes {shown(class_of[real])} and {shown(name)}"
            raise UserError(f"{argument}: {shown(place)}: a link puts its images into {both}; remove the link")
        class_of[real] = name
        below, found = _listed(place, argument, others)
        if _are_parts(list(map(os.path.basename, below))):
            remedy = "make a folder of each part, with the class folders in it"
            raise UserError(f"{argument}: {shown(place)}, within a class, holds parts of the data; {remedy}")
        images += found
        for path in below:
            (links if os.path.islink(path) else folders).append(path)
    if not images:
        only = f", only {_counted(others)}" if others else ""
        raise UserError(f"{argument}: {shown(folder)} holds no images{only}; fill it, or remove it")
    passed_over.update(others)
    return sorted(images)


def _notes(classes, files, passed_over):
    """Lines on what was passed over, and on what may be no image to learn from."""
    notes = [f"passed over: {_counted(passed_over)}"] if passed_over else []
    folded = Counter(name.casefold() for name in classes)
    alike = [shown(name) for name in classes if len(name) > 1 and folded[name.casefold()] > 1]
    if alike:
        notes.append(f"classes whose names differ in upper and lower case alone: {', '.join(alike[:_NUM_LISTED])}")
    masks = [file for file in files if any(map(_MASK.search, os.path.splitext(file)[0].split(os.sep)[-2:]))]
    if masks and len(masks) < len(files):
        notes.append(
            f"images that are masks by their names, but are read as any other: {len(masks)}, such as {shown(masks[0])}"
        )
    return notes


def _counted(counts):
    """The counts as text, such as "3 .txt, 1 .mp4", the largest first."""
    most = counts.most_common(_NUM_LISTED)
    rest = counts.total() - sum(number for _, number in most)
    listed = [f"{number} {shortened(name)}" for name, number in most]
    return ", ".join(listed + ([f"{rest} more"] if rest else []))
