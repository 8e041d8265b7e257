"""Batches of images as one picture, and figures as files and arrays."""

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

    by_part: {title: (images, labels)} with images (N, 1 or 3, H, W), whose values are stretched to [0, 1], and labels
        (N,) or a list of texts; labels of another shape are left out.

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
    their image; None if the data are no images or the outputs have another size.
    """
    if getattr(images, "ndim", None) != 4:
        return None
    masks = output.class_maps(outputs)
    if masks is None:
        return outputs if outputs.shape == images.shape else None
    if masks.shape[1:] != images.shape[2:]:
        return None
    low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
    span = (high - low).where(high > low, 1)  # of a blank image, too
    shades = low + span * masks.unsqueeze(1) / max(1, outputs.shape[1] - 1)
    return shades.expand(images.shape)


def _first(title, batch, most):
    """(images with values in [0, 1], texts) of a batch, at most so many."""
    images: Any
    images, labels = batch if isinstance(batch, (list, tuple)) and len(batch) == 2 else (batch, None)
    shape = tuple(getattr(images, "shape", ()))
    if len(shape) != 4 or shape[1] not in (1, 3):
        what = f"a tensor of shape {shape}" if shape else f"a {type(images).__name__}"
        raise UserError(f"the {title} batch: has {what} first; images (N, 1 or 3, H, W) can be drawn")
    images = images[:most].detach().cpu().float()
    low, high = images.min(), images.max()
    texts = [""] * len(images)
    if isinstance(labels, list):
        texts = labels
    elif labels is not None and getattr(labels, "ndim", None) == 1:
        texts = [f"{label:.4g}" if isinstance(label, float) else str(label) for label in labels.tolist()]
    return (images - low) / (high - low).clamp(min=1e-12), texts
