"""Batches of images as one picture, and figures as files and arrays."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import UserError
from utils.files import replacing

if TYPE_CHECKING:
    import numpy as np
    import torch
    from matplotlib.figure import Figure

    from base.data.outputs import Output

_PER_ROW, _ROWS = 8, 4
EXAMPLES_DRAWN = _PER_ROW * _ROWS


def draw_batches(path: Path, by_part: dict[str, Any], most: int = EXAMPLES_DRAWN) -> None:
    """Draw the first images of batches into a PNG: batches_figure. Raises UserError if it cannot be written."""
    save_figure(batches_figure(by_part, most), path)


def batches_figure(by_part: dict[str, Any], most: int = EXAMPLES_DRAWN) -> "Figure":
    """Return a figure of the first images of batches, at most so many of each, each image under its label.

    by_part: {title: (images, labels)} with images (N, 1 or 3, H, W), whose values are stretched to [0, 1] while nan and
        infinite ones are black, and labels (N,) or a list of texts; labels of another shape are left out.

    Raises UserError for other data.
    """
    from matplotlib.figure import Figure

    parts = {title: _first(title, batch, most) for title, batch in by_part.items()}
    rows = {title: -(-len(images) // _PER_ROW) for title, (images, _) in parts.items()}
    figure = Figure(figsize=(_PER_ROW, 1.3 * sum(rows.values()) + 0.4 * len(rows)), layout="constrained")
    panels = figure.subfigures(len(parts), 1, height_ratios=list(rows.values()), squeeze=False)[:, 0]
    for panel, (title, (images, labels)) in zip(panels, parts.items(), strict=True):
        panel.suptitle(title)
        axes = panel.subplots(rows[title], _PER_ROW, squeeze=False).flat
        for i, axis in enumerate(axes):
            axis.axis("off")
            if i < len(images):
                axis.imshow(images[i].permute(1, 2, 0).squeeze(2).numpy(), cmap="gray", vmin=0, vmax=1)
                axis.set_title(plain(labels[i]), fontsize=8)
    return figure


def plain(text: str) -> str:
    """The text as matplotlib draws it literally: two dollar signs would enclose a formula."""
    return text.replace("$", r"\$")


def figure_as_array(figure: "Figure") -> "np.ndarray":
    """Return a matplotlib figure as an (H, W, 3) uint8 array."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a matplotlib figure into a PNG. Raises UserError if it cannot be written."""
    with replacing(path, "the picture") as file:
        figure.savefig(file, format="png", dpi=120)


def outputs_as_images(output: "Output", images: Any, outputs: "torch.Tensor") -> "torch.Tensor | None":
    """Return (B, C, H, W) pictures of a model's outputs to draw beside the images (B, C, H, W) that it was given.

    They are the outputs, or the masks of a segmentation in shades of grey from the darkest to the brightest value of
    their image, or nan if their outputs are; None if the data are no images or the outputs have another size.
    """
    if getattr(images, "ndim", None) != 4:
        return None
    masks = output.masks(outputs)
    if masks is None:
        return outputs if outputs.shape == images.shape else None
    if masks.shape[1:] != images.shape[2:]:
        return None
    masks = masks.unsqueeze(1).to(images.device)
    return _shades(images, (masks / max(1, outputs.shape[1] - 1)).where(masks >= 0, math.nan))


def with_targets_below(batch: Any, ignored: int = -100) -> Any:
    """Return a batch (images, target) to draw, as (images above the targets, None) if the target has their size.

    Class numbers (N, H, W) or (N, 1, H, W) are drawn in shades of grey from the darkest to the brightest value of their
    image, those that are negative or ignored in black. Other batches are returned as they are.
    """
    import torch

    images, target = batch if isinstance(batch, (list, tuple)) and len(batch) == 2 else (None, None)
    if not isinstance(images, torch.Tensor) or not isinstance(target, torch.Tensor) or images.ndim != 4:
        return batch
    is_image = target.shape == images.shape and target.is_floating_point()
    size = len(images), 1, *images.shape[2:]
    if not is_image and target.shape not in (size, (size[0], *size[2:])):
        return batch
    below = target.float()
    if not is_image:
        shares = below.where((target >= 0) & (target != ignored), math.nan).view(size)
        below = _shades(images, shares / max(1e-12, shares.nan_to_num().max()))
    return torch.cat([images.float(), below], dim=2), None


def _shades(images, shares):
    """(B, C, H, W) of shares (B, 1, H, W) of the range of each of the images (B, C, H, W)."""
    low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
    span = (high - low).where(high > low, 1)  # of a blank image, too
    return (low + span * shares).expand(images.shape)


def _first(title, batch, most):
    """(images with values in [0, 1], texts) of a batch, at most so many."""
    images: Any
    images, labels = batch if isinstance(batch, (list, tuple)) and len(batch) == 2 else (batch, None)
    shape = tuple(getattr(images, "shape", ()))
    if len(shape) != 4 or shape[1] not in (1, 3):
        what = f"a tensor of shape {shape}" if shape else f"a {type(images).__name__}"
        raise UserError(f"the {title} batch: has {what} first; images (N, 1 or 3, H, W) can be drawn")
    images = images[:most].detach().cpu().float()
    finite = images[images.isfinite()]
    low, high = (finite.min().item(), finite.max().item()) if len(finite) else (0.0, 1.0)
    texts = [""] * len(images)
    if isinstance(labels, list):
        texts = labels
    elif labels is not None and getattr(labels, "ndim", None) == 1:
        texts = [f"{label:.4g}" if isinstance(label, float) else str(label) for label in labels.tolist()]
    return ((images - low) / max(1e-12, high - low)).nan_to_num(0, posinf=0, neginf=0), texts
