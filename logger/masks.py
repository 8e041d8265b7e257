"""Class maps that predict.py writes as PNG files, one for each example."""

import itertools
import re
from pathlib import Path
from typing import Any

from utils.errors import UserError, shown
from utils.files import replacing

_MOST_CLASSES = 256  # of a PNG with 8 bits a pixel


class MaskWriter:
    """Writes the predictions of a segmentation into a folder, as PNG files whose pixels are class numbers.

    folder: new or empty; None writes nothing. Files are called as their examples: a.png for a.jpg, test-0.png for
    test:0, a-2.png for a second one of that name.

    Raises UserError for a folder that cannot be used.
    """

    def __init__(self, folder: str | None) -> None:
        self._folder, self._names = None if folder is None else Path(folder), set()
        try:
            if self._folder is not None and self._folder.exists() and any(self._folder.iterdir()):
                raise UserError(f"--masks: {shown(self._folder)}: holds files; give another folder")
        except OSError as error:
            raise UserError(f"--masks: {shown(folder)}: is no folder to write into: {error.strerror}") from None

    def add(self, part: Any) -> None:
        """Write the masks of Predictions. Raises UserError if its outputs are no class maps (N, classes, H, W)."""
        if self._folder is None or not len(part.outputs):
            return
        maps = part.output.class_maps(part.outputs)
        if maps is None or maps.ndim != 3 or part.outputs.shape[1] > _MOST_CLASSES:
            wanted = f"(N, classes, H, W) of at most {_MOST_CLASSES} classes with names, and a loss of classes"
            raise UserError(
                f"--masks: the outputs are {tuple(part.outputs.shape)}; masks need {wanted}: docs/predict.md"
            )
        self._make_folder()
        sources = [name for place, name in enumerate(part.examples.names) if place not in part.examples.errors]
        for source, mask in zip(sources, maps.byte().cpu().numpy(), strict=True):
            self._write(self._folder / f"{self._name_for(str(source))}.png", mask)

    def _make_folder(self):
        assert self._folder is not None  # else nothing is written
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--masks: {shown(self._folder)}: cannot be made: {error.strerror}") from None

    def _name_for(self, source):
        name = Path(source).name
        name = re.sub(r"[^\w.+ -]", "-", name if ":" in name else Path(name).stem)
        for number in itertools.count(1):
            found = name if number == 1 else f"{name}-{number}"
            if found not in self._names:
                self._names.add(found)
                return found

    def _write(self, path, mask):
        from PIL import Image

        with replacing(str(path), "the mask") as file:
            Image.fromarray(mask).save(file, format="PNG")
