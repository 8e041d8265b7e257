"""Bring drawings of any size on any paper to the form of a set of training images, such as MNIST."""

import numpy as np
from PIL import Image


def as_drawn(pixels: np.ndarray, size: tuple[int, int], background: str, margin: int) -> np.ndarray:
    """Return the drawing in grey pixels (H, W) uint8 as pixels (height, width) uint8, size being (height, width).

    A drawing of the right size and background stays as it is. Otherwise it is inverted if its border is of the other
    kind, paper that is not quite white is removed, and it is scaled into the size without its margin, with its centre
    of mass in the middle.

    background: "dark" or "light". margin: pixels.
    """
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    if (np.median(border) > 127) != (background == "light"):
        pixels = 255 - pixels
    elif pixels.shape == size:
        return pixels
    return _centred(pixels, size, background, margin)


def _centred(pixels, size, background, margin):
    """The drawing in grey pixels, scaled into the size without its margin, with its centre of mass in the middle."""
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
