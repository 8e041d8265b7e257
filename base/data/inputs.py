"""Inputs: how a raw example, such as an image file, becomes what the model is given. One for training and for use."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from base.data.examples import Examples
from base.data.outputs import Output
from base.data.reading import read_example
from utils.config.components import Part
from utils.config.types import build
from utils.errors import UserError, brief, shown

_INDICES = (torch.int32, torch.int64, torch.uint32, torch.uint64)
_PART = Part(
    "data_loader.data_loaders",
    ready=("base.data.inputs", "base.data.tables", "base.data.texts"),
    bases=("base.data.inputs.Input",),
    remedy="an input derives from Input in base/data/inputs.py",
)

NO_INPUT = (
    "give arrays of what the model takes, a config with -c whose data loader has the attribute input, or --split; see "
    "docs/predict.md"
)
"""What would do if a model without an input is to predict for files."""


class Input(torch.nn.Module):
    """How raw examples become the model's input. A loader has one as its attribute input; checkpoints hold it.

    A subclass passes its own arguments, plain values by name, to this constructor, from which it is built again
    without the training data. It writes `forward`, the arithmetic on a batch, and, to predict from files, `read`.

    arguments: those of the subclass's constructor.
    """

    suffixes: tuple[str, ...] = ()
    """Endings of the files that read can read, such as ".png"."""
    draws_per_sample = False
    """An input draws no random numbers, since predictions and exports use it too."""
    trained_shape: tuple[int, ...] | None = None
    """Shape of a raw example in training, which checkpoints hold; None if it is not known."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = arguments

    def read(self, file: str | BinaryIO) -> np.ndarray:
        """Return the raw example of a file: an array of fixed shape. Raises UserError if that is not possible.

        file: its path, or an open file that has the attribute name.
        """
        place = file if isinstance(file, str) else getattr(file, "name", "the file")
        raise UserError(f"{shown(place)}: {type(self).__name__} reads no files; give the raw examples as a .npy file")

    def parse(self, value: Any) -> np.ndarray:
        """Return the raw example for a value of JSON, float32. Raises UserError if it is none."""
        array = self._parsed(value, "float32")
        if self.is_checked_by_shape:
            self.require(array[None])
        return array

    def _parsed(self, value: Any, dtype: str) -> np.ndarray:
        """The array of numbers that a value of JSON is, in a dtype of NumPy."""
        kind = np.dtype(dtype).kind
        try:
            with np.errstate(over="raise"):
                array = np.array(value)
                if array.dtype.kind not in "biuf":
                    raise TypeError
                if kind not in "iu":
                    return array.astype(dtype)
        except (TypeError, ValueError, OverflowError, FloatingPointError):
            raise UserError("an example should be an array of numbers, all rows of equal length") from None
        limits = np.iinfo(dtype)
        in_reach = (array >= limits.min) & (array <= limits.max)
        if array.dtype.kind == "f":  # the largest integers of 64 bits are rounded up to a power of two
            in_reach &= (array == array.round()) & (array < 2.0 ** (limits.bits - (limits.min < 0)))
        if not in_reach.all():
            wanted = f"integers from {limits.min} to {limits.max}, as the model's training data do: {dtype}"
            raise UserError(f"an example should hold {wanted}")
        return array.astype(dtype)

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of what parse takes."""
        return {"type": ["array", "number"]}

    @property
    def reads_files(self) -> bool:
        """Whether read takes an open file."""
        return type(self).read is not Input.read

    @property
    def is_checked_by_shape(self) -> bool:
        """Whether require is the one of this class."""
        return type(self).require is Input.require

    def examples(self, file: str, output: Output) -> Iterator[Examples]:
        """Yield the examples of a file in parts; a subclass that reads tables and the like has many in one.

        output: what the model's numbers mean, for the targets that the file may hold. Raises UserError for a file that
        cannot be read.
        """
        yield Examples([file], read_example(self, file)[None])

    def require(self, raw: torch.Tensor | np.ndarray) -> None:
        """Raise UserError if these cannot be raw examples (B, ...): if their shape is another than in training.

        A subclass that takes several shapes, or knows the type, has its own.
        """
        if self.trained_shape is not None and tuple(raw.shape[1:]) != self.trained_shape:
            given, wanted = tuple(raw.shape[1:]), self.trained_shape
            raise UserError(f"an example has the shape {given}; the model is trained on examples of {wanted}")

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        """Return the model's input (B, ...) for a batch of raw examples (B, ...)."""
        raise NotImplementedError

    def spec(self) -> dict[str, Any]:
        """Return {"type": name, "args": arguments}, and "trained_shape" if known; build_input makes an equal one."""
        home, name = type(self).__module__, type(self).__name__
        short = home in (_PART.module, *_PART.ready)
        spec = {"type": name if short else f"{home.removeprefix('data_loader.')}.{name}", "args": self.arguments}
        return spec if self.trained_shape is None else spec | {"trained_shape": list(self.trained_shape)}


class ImageInput(Input):
    """Images: raw (B, channels, height, width) uint8; the model's input is float32, scaled by mean and std.

    channels: 1 for grey, 3 for RGB.
    height, width: pixels.
    mean, std: of each channel, for pixels from 0 to 1.
    background: for grey drawings, "dark" or "light": what lies around them in the training images, as "dark" in MNIST.
        Files are brought to that form by as_drawn of base/data/drawings.py.
    margin: pixels around such a drawing.
    white: the value that becomes white in grey files of 16 or 32 bits, as for read_image of base/data/image_files.py.

    A file is turned upright, put on white or black if it is transparent, and converted to the channels. Without
    background it is scaled and cropped to the size around its centre.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        mean: Sequence[float],
        std: Sequence[float],
        background: str | None = None,
        margin: int = 0,
        white: float | None = None,
    ) -> None:
        super().__init__(
            channels=channels,
            height=height,
            width=width,
            mean=list(mean),
            std=list(std),
            background=background,
            margin=margin,
            white=white,
        )
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.size = height, width
        self.channels, self.background, self.margin, self.white = channels, background, margin, white
        for name, values in (("mean", mean), ("std", std)):
            pixels = torch.tensor(values, dtype=torch.float64).mul(255).float()
            self.register_buffer(name, pixels.view(-1, 1, 1), persistent=False)

    @property
    def suffixes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Endings of the image files that can be read."""
        from base.data.image_files import readable

        return tuple(sorted(readable()[1]))

    @property
    def raw_shape(self) -> tuple[int, ...]:
        """The shape of a raw example, (channels, height, width)."""
        return self.channels, *self.size

    def parse(self, value: Any) -> np.ndarray:
        """Return the image, (channels, height, width) uint8, for nested lists of pixels from 0 to 255."""
        pixels = super().parse(value)
        if pixels.shape != self.raw_shape or not ((pixels >= 0) & (pixels <= 255)).all():
            raise UserError(f"an example should be an array {self.raw_shape} of pixels from 0 to 255")
        return pixels.astype(np.uint8)

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of what parse takes: an image."""
        schema: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 255}
        for length in reversed(self.raw_shape):
            schema = {"type": "array", "minItems": length, "maxItems": length, "items": schema}
        return schema

    def read(self, file: str | BinaryIO) -> np.ndarray:
        """Return the image of a file, (channels, height, width) uint8. Raises UserError, naming the file."""
        from base.data.image_files import read_image, rgb_image  # here, since few runs read image files

        if self.background is None:
            return read_image(file, self.size, self.white, self.channels)
        from base.data.drawings import as_drawn

        pixels = np.asarray(rgb_image(file, self.white).convert("L"))
        return as_drawn(pixels, self.size, self.background, self.margin)[None]

    def require(self, raw: torch.Tensor) -> None:
        """Raise UserError unless raw is (B, channels, height, width) of whole numbers from 0 to 255."""
        if tuple(raw.shape[1:]) != self.raw_shape or raw.is_floating_point() or raw.dtype == torch.bool:
            given = f"{raw.dtype}".removeprefix("torch.")
            raise UserError(
                f"the raw examples are {given} {tuple(raw.shape)}; they should be pixels from 0 to 255, uint8 (N, "
                f"{', '.join(map(str, self.raw_shape))}), as the model prepares them itself"
            )
        if raw.dtype != torch.uint8 and raw.numel():
            values = (raw if raw.stride(0) else raw[:1]).long()  # one row if it is expanded
            low, high = int(values.min()), int(values.max())
            if low < 0 or high > 255:
                raise UserError(f"the raw examples hold numbers from {low} to {high}; pixels are from 0 to 255")

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        """Return float32 (B, channels, height, width) for uint8 of that shape."""
        if self.mean.device != raw.device:  # a loader's data may be moved to another device
            self.to(raw.device)
        return raw.float().sub_(self.mean).div_(self.std)


class ArrayInput(Input):
    """Rows of arrays, raw (B, ...), converted to the dtype that the model takes.

    dtype: name of that dtype. By default, uint8 become float32 from 0 to 1, integers of 32 and 64 bits, which are
        indices, int64, and all other numbers float32.
    raw_dtype: name of the dtype of the raw rows that the model is trained on; None if that is not known.
    raw_shape: shape of one of them.
    """

    def __init__(
        self, dtype: str | None = None, raw_dtype: str | None = None, raw_shape: Sequence[int] | None = None
    ) -> None:
        for name, value in (("dtype", dtype), ("raw_dtype", raw_dtype)):
            if value is not None and not isinstance(getattr(torch, value, None), torch.dtype):
                raise UserError(f"{name}: got {brief(value)}; it should be a dtype of torch, such as 'float32'")
        shape = None if raw_shape is None else list(raw_shape)
        super().__init__(dtype=dtype, raw_dtype=raw_dtype, raw_shape=shape)
        self.dtype, self.raw_dtype, self.raw_shape = dtype, raw_dtype, shape

    def parse(self, value: Any) -> np.ndarray:
        """Return the raw row for nested lists of numbers. Raises UserError if it has another shape."""
        row = self._parsed(value, self.raw_dtype or "float32")
        if self.raw_shape is not None and row.shape != tuple(self.raw_shape):
            raise UserError(f"an example should be an array {tuple(self.raw_shape)}; got {row.shape}")
        return row

    @property
    def example(self) -> Any:
        """An example for parse, zeros; None if the shape is not known."""
        return None if self.raw_shape is None else np.zeros(self.raw_shape, int).tolist()

    def require(self, raw: torch.Tensor) -> None:
        """Raise UserError for raw rows of another kind, or with more or fewer dimensions, than the training data's."""
        if self.raw_shape is not None and raw.ndim != 1 + len(self.raw_shape):
            raise UserError(f"the raw examples are {tuple(raw.shape)}; they should be (N, {str(self.raw_shape)[1:-1]})")
        if self.dtype is not None:
            return
        trained_on = self._trained_on(raw)
        for kind in ((torch.uint8,), _INDICES):
            if (raw.dtype in kind) != (trained_on in kind):
                remedy = "convert them: they would mean something else to the model"
                raise UserError(f"the raw examples are {raw.dtype}, and the model is trained on {trained_on}; {remedy}")

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        """Return the rows (B, ...) in the dtype. Raises UserError for others than the training data's."""
        if self.dtype is not None:
            return raw.to(getattr(torch, self.dtype))
        self.require(raw)
        trained_on = self._trained_on(raw)
        if trained_on == torch.uint8:
            return raw.float().div_(255)
        return raw.long() if trained_on in _INDICES else raw.float()

    def _trained_on(self, raw):
        return raw.dtype if self.raw_dtype is None else getattr(torch, self.raw_dtype)


def build_input(spec: dict[str, Any]) -> Input:
    """Return the Input of a checkpoint's spec {"type", "args"}. Raises UserError for one that cannot be built."""
    place = "the checkpoint's input"
    if not isinstance(spec, dict) or not isinstance(spec.get("type"), str) or not isinstance(spec.get("args"), dict):
        raise UserError(f'{place} should be {{"type": ..., "args": ...}}')
    input = build(place, spec, _PART)
    if isinstance(shape := spec.get("trained_shape"), (list, tuple)):
        input.trained_shape = tuple(shape)
    return input


def files_in(folder: str | Path, suffixes: Sequence[str]) -> list[str]:
    """Return the files below a folder with one of these endings, sorted; hidden ones are passed over."""
    found = sorted(Path(folder).rglob("*"))
    visible = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return [str(path) for path in visible if path.suffix.lower() in suffixes and path.is_file()]
