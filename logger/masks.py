"""Segmentation masks that predict.py writes as PNG files, one for each example."""

import contextlib
import itertools
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any, Self

import torch

from utils.errors import UserError, shown
from utils.runs.run_folder import HAS_LOCKS, RunLock, is_being_trained

_MOST_CLASSES = 256  # of a PNG with 8 bits a pixel
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')  # on Windows


class MaskWriter:
    """A context that writes the predictions of a segmentation into a folder, as PNGs whose pixels are class numbers.

    folder: new or empty; None writes nothing. What a killed process left in it is deleted. Below it, files have the
    paths of their examples below the folder that these have in common: x/a.png for data/x/a.jpg, test-0.png for
    test:0, and a-2.png for a second a.png. The folder is complete, or as it was before.

    Raises UserError for a folder that cannot be used.
    """

    def __init__(self, folder: str | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._part, self._common = None, None  # the folder that is being filled; the parts of the one in common
        self._is_new = self.folder is not None and not self.folder.exists()
        self._numbers: dict[str, int] = {}  # of the files with a path
        try:
            if self.folder is not None and self.folder.exists() and not _is_emptied(self.folder):
                raise UserError(f"--masks: {shown(self.folder)}: holds files; give another folder")
        except OSError as error:
            raise UserError(f"--masks: {shown(folder)}: is not a folder that can be used: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._part is None or self.folder is None or self._common is None:
            return
        try:
            with _told(self.folder):
                if error[0] is None:
                    (self._part / ".lock").unlink()
                    for path in list(self._part.joinpath(*self._common).iterdir()):
                        path.rename(self.folder / path.name)
        finally:
            shutil.rmtree(self._part, ignore_errors=True)
            if error[0] is not None and self._is_new:
                with contextlib.suppress(OSError):
                    self.folder.rmdir()

    def fitting(self, parts: Iterable[Any]) -> Iterator[Any]:
        """Yield the Predictions. Raises UserError at the first whose outputs give no masks, if they are to be written.

        Outputs that are nan or infinite give none.
        """
        for part in parts:
            if self.folder is not None and len(part.outputs):
                _require_masks(part)
                finite = (part.masks >= 0).flatten(1).all(dim=1).tolist()
                for source, is_finite in zip(_sources(part), finite, strict=True):
                    if not is_finite:
                        raise UserError(f"--masks: {shown(source)}: the model's outputs are nan or infinite")
            yield part

    def add(self, part: Any) -> None:
        """Write the masks of Predictions that fitting has yielded."""
        if self.folder is None or not len(part.outputs):
            return
        with _told(self.folder):
            if self._part is None:
                self._part = self.folder / f".{secrets.token_hex(8)}.part"
                self._part.mkdir(parents=True)
                self._lock = RunLock(self._part)  # until this process ends, also if it is killed
            masks = part.masks.to(torch.uint8).numpy()
            for source, mask in zip(_sources(part), masks, strict=True):
                self._write(self._part, self._path_for(source), mask)

    def _path_for(self, source):
        *folders, name = Path(os.path.abspath(source)).parts[1:]
        folders = [_plain(folder) for folder in folders]
        both = zip(folders, folders if self._common is None else self._common, strict=False)
        self._common = [one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], both)]
        name = _plain(name if re.search(r":\d+$", name) else PurePath(name).stem)
        path = found = "/".join([*folders, name])
        number = self._numbers.get(path.casefold(), 1)
        while found.casefold() in self._numbers:  # as on a disk that takes A and a for the same
            number += 1
            found = f"{path}-{number}"
        self._numbers[path.casefold()] = number
        self._numbers.setdefault(found.casefold(), 1)
        return f"{found}.png"

    def _write(self, folder, name, mask):
        from PIL import Image

        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path, format="PNG")


def _is_emptied(folder):
    """Delete what killed processes left in the folder; returns whether it is empty now."""
    for path in folder.iterdir():
        is_part = re.fullmatch(r"\.[0-9a-f]{16}\.part", path.name) and (path / ".lock").is_file()
        if not is_part or not HAS_LOCKS or path.is_symlink() or is_being_trained(path):
            return False
        shutil.rmtree(path)
    return True


@contextlib.contextmanager
def _told(folder):
    """A context whose errors of the system are a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--masks: {shown(folder)}: cannot be written: {error.strerror or error}") from None


def _plain(name):
    """A name of a file or folder that every system takes."""
    return _NOT_IN_NAMES.sub("-", unicodedata.normalize("NFC", name)).rstrip(" .") or "-"


def _sources(part):
    """The names of the examples that were read."""
    return [str(name) for place, name in enumerate(part.examples.names) if place not in part.examples.errors]


def _require_masks(part):
    """Raise UserError if the outputs of Predictions give no masks."""
    shape, classes = tuple(part.outputs.shape), part.output.classes
    if part.masks is not None and part.masks.ndim == 3 and shape[1] <= _MOST_CLASSES:
        return
    if len(shape) != 4:
        cause = "masks are made of outputs (N, classes, H, W)"
    elif shape[1] > _MOST_CLASSES:
        cause = f"a PNG holds {_MOST_CLASSES} class numbers at most; --save-outputs takes all"
    elif shape[1] == 1:
        cause = 'one output needs two named classes, and a loss of your own expects = "logits": docs/predict.md'
    elif classes is not None and len(classes) != shape[1]:
        cause = f"the data loader's classes are {len(classes)}; name as many as there are outputs"
    else:
        cause = 'nothing says that they are classes; give a loss of your own expects = "classes": docs/predict.md'
    raise UserError(f"--masks: the outputs are {shape}; {cause}")
