"""Gather what a report shows of a model's predictions, batch by batch, in memory that does not grow with the data."""

import base64
import io
import itertools
from typing import Any

import numpy as np
import torch

from base.data.outputs import Output
from base.data.sources import names_in
from base.generate import continued, samples_of
from base.trained_model import TrainedModel
from logger.details import (
    MOST_CLASSES,
    MOST_LETTERS,
    MOST_MISTAKES,
    MOST_PAIRS,
    NUM_BINS,
    Classes,
    Continuation,
    Mistake,
    Picture,
    TestDetails,
    Values,
)
from logger.pictures import outputs_as_images
from utils.device import exact_float
from utils.errors import UserError, shortened

_MOST_VALUES = 4  # of an example, that are shown
_MOST_PIXELS = 96  # of a picture's side
_EXACT_PIXELS = 40  # of the side of a picture that is kept as it is
_IMAGES, _DRAWN, _TEXTS = 8, 32, 3
_LARGEST = 1e100
_PROMPT_BYTES, _LENGTH, _TEMPERATURE = 40, 200, 0.8


class Examination:
    """Observes the batches of a test: evaluate(..., observe=examination.add), then examination.details(...).

    trained: the TrainedModel that is measured, whose output says what its numbers mean.
    loader: of the split, in a fixed order.
    split: its name.
    """

    def __init__(self, trained: TrainedModel, loader: Any, split: str) -> None:
        self._trained, self._split = trained, split
        names = names_in(loader, split) if hasattr(getattr(loader, "dataset", None), "__len__") else ()
        self._names = itertools.chain(names, (f"{split}:{i}" for i in itertools.count()))
        self._classes: _ClassCounts | None = None
        self._values: list[_ValueSums] = []
        self._images: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._tokens: list[list[int]] = []
        self.num_samples = 0

    def add(self, data: Any, target: Any, output: Any) -> None:
        """Count a batch. data, target, output: as evaluate passes them; those of unknown forms are only counted."""
        size = len(output) if isinstance(output, torch.Tensor) and output.ndim else 0
        names = list(itertools.islice(self._names, size))
        self.num_samples += size
        if not size or not isinstance(target, torch.Tensor) or len(target) != size:
            return
        numbers = _class_numbers(self._trained.output, output, target)
        if numbers is not None:
            if self._classes is None:
                self._classes = _ClassCounts(self._trained.output.names(output) or [])
            self._classes.add(names, data, numbers, self._trained.output.probabilities(output))
        elif output.numel() == target.numel() and output.ndim <= 2 and self._is_of_values(target):
            self._add_values(output, target)
        elif _is_drawable(data):
            self._add_images(data, output)
        elif isinstance(data, torch.Tensor) and data.ndim == 2 and not data.is_floating_point():
            room = _TEXTS - len(self._tokens)
            self._tokens += data[:room].tolist() if room else []

    def details(self, checkpoint: str) -> TestDetails:
        """Return the TestDetails of all batches. checkpoint: its file name."""
        return TestDetails(
            checkpoint=checkpoint,
            split=self._split,
            samples=self.num_samples,
            classes=self._classes and self._classes.result(),
            values=[sums.result() for sums in self._values],
            texts=self._texts(),
            images=[(_picture(one), _picture(made)) for one, made in self._images],
            drawn=self._drawn(),
        )

    def _is_of_values(self, target):
        """Whether the target holds values; several classes at once, as 0 and 1, are none."""
        meaning = self._trained.output
        return target.is_floating_point() and not meaning.is_of_classes

    def _add_images(self, data, output):
        """Keep what is made of the first images, if it can be drawn beside them."""
        meaning, room = self._trained.output, _IMAGES - len(self._images)
        if not room:
            return
        data, output = data[:room].cpu(), output[:room].cpu()
        made = outputs_as_images(meaning, data, output)
        if made is not None:
            has_range_of_data = meaning.is_segmentation(output)
            both = zip(data, made, strict=True)
            self._images += [(_small(one), _small(made, like=one if has_range_of_data else None)) for one, made in both]

    def _add_values(self, output, target):
        scale = self._trained.output
        dtype = exact_float(output.device)
        both = torch.stack([part.to(dtype).reshape(len(target), -1) for part in (target, output)])  # read together
        pairs = both.cpu().double().numpy() * scale.std + scale.mean
        columns = pairs.shape[2]
        if not self._values:
            names = [""] if columns == 1 else [f"output {i}" for i in range(min(columns, _MOST_VALUES))]
            self._values = [_ValueSums(name) for name in names]
        for i, sums in enumerate(self._values[:columns]):
            sums.add(*pairs[:, :, i])

    def _texts(self):
        """Continuations of the first samples, if the model is one of texts."""
        found = []
        for tokens in self._tokens:
            text = bytes(token & 255 for token in tokens)
            prompt = text[: min(_PROMPT_BYTES, max(1, len(text) // 2))]
            try:
                written = continued(self._trained, prompt.decode("utf-8", "replace"), _LENGTH, _TEMPERATURE, len(found))
                written = "".join(written)
            except UserError:  # of a model that continues no text
                break
            data = text[len(prompt) :].decode("utf-8", "replace")[:MOST_LETTERS]
            found.append(Continuation(prompt=prompt.decode("utf-8", "replace"), written=written, data=data))
        return found

    def _drawn(self):
        """Samples of a model that generates images."""
        try:
            samples = samples_of(self._trained, _DRAWN)
        except UserError:
            return []
        return [_picture(_small(one)) for one in samples] if _is_drawable(samples) else []


def _class_numbers(meaning: Output, output, target):
    """The target as (B,) class numbers, on the CPU; None if outputs and target are not of classes."""
    names = meaning.names(output)
    numbers = target.reshape(len(target), -1)
    if names is None or len(names) < 2 or numbers.shape[1] != 1:
        return None
    if target.is_floating_point() and len(names) > 2:
        return None
    numbers = numbers[:, 0].cpu()
    if target.is_floating_point() and not bool(((numbers == 0) | (numbers == 1)).all()):
        return None
    return numbers.long()


class _ClassCounts:
    """Counts of predictions of classes, and the most confident mistakes. names: of the classes."""

    def __init__(self, names) -> None:
        self._names, size = names, len(names)
        self._table = torch.zeros(size * size, dtype=torch.int64) if size <= MOST_CLASSES else None
        self._per_class = torch.zeros(3, size, dtype=torch.int64)
        self._bins = torch.zeros(3, NUM_BINS, dtype=torch.float64)
        self._mistakes = []  # (-probability, index, source, target, prediction, picture)
        self._num_mistakes = self._num_seen = 0

    def add(self, sources, data, target, probabilities):
        """Count a batch. target: (B,) int64; others than numbers of classes are not counted."""
        size = len(self._names)
        confidence, predicted = probabilities.cpu().max(dim=1)
        counts = confidence.isfinite() & (target >= 0) & (target < size)
        wrong = (counts & (predicted != target)).nonzero()[:, 0]
        self._num_mistakes += len(wrong)
        self._keep(wrong, confidence, predicted, target, sources, data)
        self._num_seen += len(target)
        target, predicted, confidence = target[counts], predicted[counts], confidence[counts].double()
        right = target == predicted
        if self._table is not None:
            self._table += torch.bincount(target * size + predicted, minlength=size * size)
        for row, numbers in zip(self._per_class, (target, predicted, target[right]), strict=True):
            row += torch.bincount(numbers, minlength=size)
        bins = (confidence * NUM_BINS).ceil().long().sub(1).clamp(0, NUM_BINS - 1)
        for row, weights in zip(self._bins, (None, confidence, right.double()), strict=True):
            row += torch.bincount(bins, weights, minlength=NUM_BINS)

    def _keep(self, wrong, confidence, predicted, target, sources, data):
        """Keep the most confident of all mistakes; of equal ones the first."""
        order = confidence[wrong].argsort(descending=True, stable=True)[:MOST_MISTAKES]
        last = self._mistakes[-1][0] if len(self._mistakes) == MOST_MISTAKES else 0.0
        kept = [i for i in wrong[order].tolist() if len(self._mistakes) < MOST_MISTAKES or -confidence[i] < last]
        images = data[kept].cpu() if kept and _is_drawable(data) else [None] * len(kept)
        for i, image in zip(kept, images, strict=True):
            picture = None if image is None else _small(image)
            found = (-confidence[i].item(), self._num_seen + i, sources[i], int(target[i]), int(predicted[i]), picture)
            self._mistakes.append(found)
        self._mistakes = sorted(self._mistakes, key=lambda one: one[:2])[:MOST_MISTAKES]

    def result(self):
        """The Classes of all batches."""
        pairs = None
        if self._table is not None:
            places = self._table.nonzero()[:, 0]
            size = len(self._names)
            numbers = torch.stack([places // size, places % size, self._table[places]], dim=1)
            pairs = list(map(tuple, numbers.tolist()))
        bins = [(int(count), total, int(right)) for count, total, right in self._bins.T.tolist()]
        mistakes = [
            Mistake(
                source=source if len(source) < 1_000 else f"...{source[-900:]}",
                target=self._name(target),
                prediction=self._name(predicted),
                probability=-key,
                picture=None if picture is None else _picture(picture),
            )
            for key, _, source, target, predicted, picture in self._mistakes
        ]
        return Classes(
            names=[self._name(i) for i in range(len(self._names))],
            per_class=list(map(tuple, self._per_class.T.tolist())),
            pairs=pairs,
            bins=bins,
            num_mistakes=self._num_mistakes,
            mistakes=mistakes,
        )

    def _name(self, number):
        return shortened(self._names[number])


class _ValueSums:
    """Exact averages over pairs (target, prediction) of numbers, and a random sample of them."""

    def __init__(self, name) -> None:
        self._name, self._count = name, 0
        self._error = np.zeros(3)  # sums of the error, of its absolute value, of its square
        self._mean, self._spread = 0.0, 0.0  # of the target: mean, and sum of squared distances from it
        self._generator = np.random.default_rng(0)
        self._sample = np.empty((0, 3))  # (random key, target, prediction): those with the smallest keys are kept

    def add(self, target, prediction):
        """Count a batch, two arrays (B,); pairs that are not finite, or whose squares are not, are not counted."""
        good = (np.abs(target) < _LARGEST) & (np.abs(prediction) < _LARGEST)
        keys = self._generator.random(len(target))[good]
        target, prediction = target[good], prediction[good]
        if not len(target):
            return
        error = prediction - target
        self._error += [error.sum(), np.abs(error).sum(), (error**2).sum()]
        count, mean = self._count + len(target), target.mean()  # Chan, Golub and LeVeque 1979
        between = (mean - self._mean) ** 2 * self._count * len(target) / count
        self._spread += ((target - mean) ** 2).sum() + between
        self._mean += (mean - self._mean) * len(target) / count
        self._count = count
        sample = np.concatenate([self._sample, np.stack([keys, target, prediction], axis=1)])
        self._sample = sample[np.argsort(sample[:, 0])[:MOST_PAIRS]]

    def result(self):
        """The Values of all batches."""
        mean_error, absolute, squared = self._error / max(1, self._count)
        return Values(
            name=self._name,
            count=self._count,
            mean_error=mean_error,
            mean_absolute_error=absolute,
            root_mean_squared_error=squared**0.5,
            r_squared=1 - self._error[2] / self._spread if self._spread else None,
            pairs=list(map(tuple, self._sample[:, 1:].tolist())),
        )


# ---- pictures


def _is_drawable(data):
    """Whether data are images (B, 1 or 3, H, W)."""
    return isinstance(data, torch.Tensor) and data.ndim == 4 and data.shape[1] in (1, 3) and min(data.shape[2:]) > 0


def _small(image, like=None):
    """(H, W, 1 or 3) uint8 of an image (C, H, W), reduced to _MOST_PIXELS a side.

    It is stretched to its values, or to those of another image that it is like.
    """
    image = image.detach().float().cpu().nan_to_num()
    longest = max(image.shape[1:])
    if longest > _MOST_PIXELS:
        size = [max(1, side * _MOST_PIXELS // longest) for side in image.shape[1:]]
        image = torch.nn.functional.interpolate(image[None], size, mode="area")[0]
    values = image if like is None else like.detach().float().cpu().nan_to_num()
    low, span = values.min(), values.max() - values.min()
    if like is not None and not span:  # a blank image, whose mask has a range of 1
        span += 1
    return ((image - low) / span.clamp(min=1e-12) * 255).clamp(0, 255).round().byte().permute(1, 2, 0).contiguous()


def _picture(image):
    """The Picture of (H, W, 1 or 3) uint8: a PNG if it is small, or else a JPEG, which takes a fifth of the bytes."""
    from PIL import Image

    array = image.numpy()
    exact = max(array.shape[:2]) <= _EXACT_PIXELS
    file = io.BytesIO()
    drawn = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    drawn.save(file, format="PNG" if exact else "JPEG", quality=85)
    text = base64.b64encode(file.getvalue()).decode()
    uri = f"data:image/{'png' if exact else 'jpeg'};base64,{text}"
    return Picture(uri=uri, width=array.shape[1], height=array.shape[0])
