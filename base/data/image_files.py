"""Read image files as arrays, whatever their format, mode and orientation; see read_image."""

import contextlib
import functools
import itertools
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from base.data.local_files import local_file
from utils.errors import UserError, shortened, shown

# Left out are formats for which PIL starts another program or the system's drawing commands (EPS, WMF), or which it
# only recognizes (BUFR, GRIB, HDF5, MPEG); those of layers, tables and films (PSD, FITS, FLI); and those without a
# signature (TGA, PCD), as which a damaged file of another format could be read. PIL reads the last two of these with a
# package that registers itself.
_FORMATS = (
    *("PNG", "JPEG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000", "ICO", "PCX", "SGI", "SUN"),
    *("DDS", "QOI", "HEIF", "JXL"),
)
_NUM_PROBED = 16
_DARK = 4096  # 16-bit images below it keep at most 16 of 256 shades, and are often those of a camera of 12 bits
_WHITE = 65535
_ALMOST_WHITE, _HALF = 250, 127.5  # of 255
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@functools.cache
def readable() -> tuple[tuple[str, ...], frozenset[str]]:
    """Return (the formats that are read, in PIL's names; their file endings, such as ".png")."""
    Image.init()
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # twice as many pixels are an error
    formats = tuple(name for name in _FORMATS if name in Image.OPEN)
    endings = {ending for ending, name in Image.EXTENSION.items() if name in formats or name == "MPO"}  # a JPEG
    return formats, frozenset(endings)


def read_images(files: list[str], read: Callable[[str], np.ndarray]) -> np.ndarray:
    """Return the images of all files, (N, C, H, W) uint8. read: returns that of one, as ImageInput.read does."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        found = pool.map(read, files)
        first = next(found)
        images = np.empty((len(files), *first.shape), np.uint8)
        for i, image in enumerate(itertools.chain([first], found)):
            images[i] = image
    return images


def read_image(
    file: str | BinaryIO, size: tuple[int, int], white: float | None = None, channels: int = 3
) -> np.ndarray:
    """Return the image scaled and cropped to (height, width), as (channels, height, width) uint8.

    channels: 3 for RGB, 1 for grey. white, errors: as for rgb_image.
    """
    image = rgb_image(file, white).convert("RGB" if channels == 3 else "L")
    pixels = np.asarray(ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BILINEAR))
    return pixels.reshape(*size, channels).transpose(2, 0, 1).copy()


def rgb_image(file: str | BinaryIO, white: float | None = None) -> Image.Image:
    """Return the image upright, as RGB. Of several frames, the first is read.

    What is transparent becomes white, or black if all that can be seen is white.

    white: the value that becomes white in images of one channel with more than 8 bits. By default it is 65535 for 16
        bits and 1.0 for floats from 0 to 1.

    Raises UserError, naming the file, if it cannot be read.
    """
    with _opened(file) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        image = _to_rgb(image, white)
        # ImageOps.exif_transpose would fail where another entry of the EXIF data cannot be written again
        return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def image_size(file: str) -> tuple[int, int]:
    """Return (height, width) of an image, of which only the header is read. Raises UserError, naming the file."""
    with _opened(file, pixels=False) as image:
        return image.height, image.width


def require_bright(files: list[str], white: float | None) -> None:
    """Raise UserError if images of 16 bits would be nearly black, which `white` changes; looks at a few of them."""
    if white is not None:
        return
    largest = {}
    for file in files[:: -(-len(files) // _NUM_PROBED)]:
        with contextlib.suppress(UserError), _opened(file, pixels=False) as image:  # damage is reported on reading
            if _is_16_bit(image):
                image.load()
                largest[file] = int(np.asarray(image).max())
    if largest and max(largest.values()) < _DARK:
        value = max(largest.values())
        given = (
            f'give "white": {value or _WHITE}, the value that is to be white, or {_WHITE} for images as dark as this'
        )
        raise UserError(
            f"white: {shown(next(iter(largest)))} and others of 16 bits hold values up to {value} only; {given}"
        )


@contextlib.contextmanager
def _opened(file, pixels=True):
    """The open image, its pixels read if so asked. Any error within becomes a UserError that names the file."""
    place = file if isinstance(file, str) else getattr(file, "name", "the file")
    if isinstance(file, str):
        local_file(file, "", "an image")
    try:
        with Image.open(file, formats=readable()[0]) as image:
            if pixels:
                image.load()
            yield image
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UserError(f"{shown(place)}: has more than {most:,} pixels, which would fill the memory") from None
    except UnidentifiedImageError:
        raise UserError(f"{shown(place)}: cannot be read as an image: it has no known format") from None
    except Exception as error:  # decoders raise errors of many kinds
        raise UserError(f"{shown(place)}: cannot be read as an image: {shortened(error)}") from error


def _to_rgb(image, white):
    """The image as RGB; PIL itself would clip more than 8 bits at 255, and show the colours below transparency."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bits(image, white)
    if image.has_transparency_data:
        on_white = _on_paper(image, "white")
        is_drawing = np.asarray(image.convert("RGBA").getchannel("A")).mean() < _HALF  # strokes on nothing
        if not is_drawing or np.asarray(on_white).min() < _ALMOST_WHITE:
            return on_white
        on_black = _on_paper(image, "black")
        return on_black if on_black.getbbox() else on_white
    return image.convert("RGB")


def _on_paper(image, colour):
    paper = Image.new("RGBA", image.size, colour)
    return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")


def _to_8_bits(image, white):
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not (low >= 0 and np.isfinite(high)):
        raise ValueError("it holds values below 0, or that are not numbers; convert it")
    if white is None and _is_16_bit(image):
        white = _WHITE
    elif white is None and image.mode == "F" and high <= 1:
        white = 1.0
    elif white is None:
        raise ValueError(f'it holds values up to {high:g}; give "white", the value that is to be white')
    return Image.fromarray(np.minimum(values * (255 / white), 255).round().astype(np.uint8))


def _is_16_bit(image):
    # some PGM and PNG files of 16 bits are opened with mode I, and PIL has scaled the values of PGM to 16 bits
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG"))
