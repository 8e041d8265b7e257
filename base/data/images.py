"""Open image files of any mode and orientation, and bring them to the size that a model takes."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from base.data.local_files import local_file
from utils.errors import UserError, shortened, shown

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # none that PIL starts another program for


@contextlib.contextmanager
def open_image(file: str, mode: str) -> Iterator[Any]:
    """A context with the image of a file, upright, on white where it is transparent, in a mode ("L" or "RGB").

    Raises UserError, naming the file, for one that cannot be read.
    """
    from PIL import Image, ImageOps  # here, since most runs train on other data

    local_file(file, "image", "an image")
    try:
        with Image.open(file, formats=FORMATS) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            image = image.convert(mode)
    except Exception as error:  # decoders raise errors of many kinds
        raise UserError(f"{shown(file)}: cannot be read as an image: {shortened(error)}") from error
    yield image


def placed(image: Any, size: tuple[int, int], background: str | None, margin: int) -> np.ndarray:
    """Return the pixels, (height, width) or (height, width, 3) uint8, of an image brought to a size (height, width).

    background, margin: as for ImageInput.
    """
    from PIL import Image, ImageOps

    height, width = size
    if background is None:
        return np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR))
    pixels = np.asarray(image)
    is_light = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])) > 127
    if is_light != (background == "light"):
        pixels = 255 - pixels
    elif pixels.shape[:2] == size:
        return pixels
    return _centred(pixels, size, background, margin)


def _centred(pixels, size, background, margin):
    """The drawing in grey pixels, scaled into the size without its margin, with its centre of mass in the middle."""
    from PIL import Image

    ground = 255 if background == "light" else 0
    ink = np.abs(pixels.astype(np.int16) - ground)
    noise = ink < max(32, 0.25 * ink.max())  # paper is not quite white, nor a screen quite black
    if noise.all():
        return np.full(size, ground, np.uint8)
    rows, columns = np.flatnonzero((~noise).any(axis=1)), np.flatnonzero((~noise).any(axis=0))
    ink = np.where(noise, 0, ink)[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    ink = np.rint(ink * (255 / ink.max())).astype(np.uint8)
    height, width = size
    scale = min((height - 2 * margin) / ink.shape[0], (width - 2 * margin) / ink.shape[1])
    scaled = [max(1, round(length * scale)) for length in ink.shape]
    ink = np.asarray(Image.fromarray(ink).resize((scaled[1], scaled[0]), Image.Resampling.BOX))
    mass = ink.astype(np.float64) / ink.sum()
    top = round((height - 1) / 2 - (mass.sum(axis=1) @ np.arange(scaled[0])))
    left = round((width - 1) / 2 - (mass.sum(axis=0) @ np.arange(scaled[1])))
    top, left = min(max(top, 0), height - scaled[0]), min(max(left, 0), width - scaled[1])
    result = np.zeros(size, np.uint8)
    result[top : top + scaled[0], left : left + scaled[1]] = ink
    return 255 - result if ground else result
