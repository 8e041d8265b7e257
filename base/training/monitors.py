"""Built-in callbacks that write to TensorBoard and change nothing in training."""

import copy
import functools
import itertools
import sys
import time
from operator import mul
from typing import TYPE_CHECKING, Any

import torch

from base import BaseCallback
from base.training.checkpoints import evaluated_model
from base.training.precision import to_device
from logger.pictures import EXAMPLES_DRAWN, batches_figure, figure_as_array
from utils import UserError
from utils.device import exact_float
from utils.distributed.shards import is_sharded, whole
from utils.distributed.world import broadcast
from utils.nested import halves, samples_of
from utils.runs.weights import unwrapped
from utils.seed import rng_state, set_rng_state

if TYPE_CHECKING:
    from trainer.trainer import Trainer


_MOST_AT_ONCE = 4_000_000  # values, for histograms


class LearningRateMonitor(BaseCallback):
    """Writes the learning rate of each parameter group as "lr_0", "lr_1", ..., whenever the loss is logged."""

    def on_step_end(self, trainer: "Trainer") -> None:
        if not is_log_point(trainer):
            return
        trainer.writer.set_step(trainer.step, timed=False)
        optimizers = getattr(trainer.optimizer, "by_name", {"": trainer.optimizer})
        for name, optimizer in optimizers.items():
            for i, group in enumerate(optimizer.param_groups):
                trainer.writer.add_scalar("_".join(filter(None, ["lr", name, str(i)])), float(group["lr"]))


class ThroughputMonitor(BaseCallback):
    """Writes the training throughput in samples per second, without validation, and the peak memory in MB.

    The memory is the accelerator's if torch measures it, otherwise the process's. TensorBoard shows steps per second
    without this.
    """

    def __init__(self) -> None:
        self._since = None  # (time, step) of the last point

    def on_valid_end(self, trainer: "Trainer", log: dict[str, Any]) -> None:
        self._since = None

    def on_epoch_end(self, trainer: "Trainer", log: dict[str, Any]) -> None:
        self._since = None

    def on_step_end(self, trainer: "Trainer") -> None:
        is_first, is_point = self._since is None, is_log_point(trainer)
        if (is_first or is_point) and trainer.device.type != "cpu":
            torch.accelerator.synchronize(trainer.device)  # else steps would count that are only sent to it
        if self._since is None:
            self._since = time.perf_counter(), trainer.step
        if not is_point:
            return
        now, steps = time.perf_counter(), trainer.step - self._since[1]
        trainer.writer.set_step(trainer.step, timed=False)
        if steps and getattr(trainer.data_loader, "batch_size", None):
            rate = steps / (now - self._since[0])
            trainer.writer.add_scalar("samples_per_s", rate * trainer.data_loader.batch_size)
        memory = _most_memory(trainer.device)
        if memory is not None:
            trainer.writer.add_scalar("memory_mb", memory / 1e6)
        self._since = now, trainer.step


class GradientNorm(BaseCallback):
    """Writes the mean norm of the gradient over all parameters as "grad_norm"; trainer.clip_norm does so anyway."""

    def check(self, trainer: "Trainer") -> None:
        if not hasattr(trainer, "len_epoch"):
            raise UserError("GradientNorm needs the loop of trainer/trainer.py")

    def on_train_start(self, trainer: "Trainer") -> None:
        trainer.optim_step.measures_norm = True


class ParameterHistograms(BaseCallback):
    """Writes a histogram of each parameter's values; trainer.histograms_every_epochs adds it.

    every_epochs: epochs between two histograms.
    """

    def __init__(self, every_epochs: int = 1) -> None:
        _require_counts(every_epochs=every_epochs)
        self.every_epochs = every_epochs

    def check(self, trainer: "Trainer") -> None:
        if not hasattr(trainer, "len_epoch"):
            raise UserError("ParameterHistograms needs the Trainer of trainer/trainer.py")

    def on_epoch_end(self, trainer: "Trainer", log: dict[str, Any]) -> None:
        if log["epoch"] % self.every_epochs or not _is_shown(trainer):
            return
        trainer.writer.set_step(log["epoch"] * trainer.len_epoch, timed=False)  # as the averages of the epoch
        limits = _limits()
        named = {name: values for name, values in unwrapped(trainer.model).named_parameters() if values.numel()}
        for name in [name for name, values in named.items() if not _is_countable(values)]:
            kind = f"{named[name].dtype}, {named[name].layout}"
            trainer.logger.warning("epoch %d: %s has no histogram, being %s", log["epoch"], name, kind)
            del named[name]
        for (name, values), ((least, greatest, total, squares), counts) in zip(
            named.items(), _fetched([_counted(whole(values.detach())) for values in named.values()]), strict=True
        ):
            if not limits[0] <= least <= greatest < limits[-1]:
                what = f"not finite, or not below {limits[-1]:.0e}"
                trainer.logger.warning("epoch %d: %s holds values that are %s", log["epoch"], name, what)
                continue
            filled = [i for i, count in enumerate(counts) if count]
            drawn = slice(filled[0] - 1, filled[-1] + 1)  # from an empty one on, since only right edges are written
            trainer.writer.add_histogram_raw(
                f"parameters/{name}",
                least,
                max=greatest,
                num=values.numel(),
                sum=total,
                sum_squares=squares,
                bucket_limits=limits[drawn],
                bucket_counts=counts[drawn],
            )


class SamplePredictions(BaseCallback):
    """Writes the model's predictions for the first validation samples after each epoch.

    n: number of samples, from the first batch.
    every_epochs: epochs between two tables.
    classes: names of the classes; by default those of the data loader, or else their numbers.

    An output (N, C) becomes a table of targets and predictions, and for images (N, 1 or 3, H, W) a picture of the first
    32, each below its prediction. An output of the input's shape becomes images below the input.
    """

    def __init__(self, n: int = 16, every_epochs: int = 1, classes: list | None = None) -> None:
        _require_counts(n=n, every_epochs=every_epochs)
        self.n, self.every_epochs, self.classes = n, every_epochs, classes
        self._batch = None

    def check(self, trainer: "Trainer") -> None:
        if getattr(trainer, "valid_data_loader", None) is None:
            raise UserError("SamplePredictions needs validation data; set data_loader.args.validation_split")

    def on_epoch_end(self, trainer: "Trainer", log: dict[str, Any]) -> None:
        if log["epoch"] % self.every_epochs or not _is_shown(trainer):
            return
        before = rng_state()
        if self._batch is None:
            self._batch = copy.deepcopy(halves(next(iter(trainer.valid_data_loader))))
        data, target = self._batch
        model = evaluated_model(trainer).eval()
        with torch.no_grad():
            output = model(to_device(data, trainer.device))
        set_rng_state(before)
        if not isinstance(output, torch.Tensor) or not isinstance(target, torch.Tensor):
            raise UserError("SamplePredictions: needs a model output and a target that are tensors")
        if not trainer.writer.enabled:  # a sharded model needs all processes for its forward pass
            return
        trainer.writer.set_step(trainer.step, "valid", timed=False)
        self.classes = self.classes or getattr(trainer.data_loader, "classes", None)
        shown = samples_of((data, target, output.float()), slice(self.n))
        self._show(trainer.writer, *to_device(shown, torch.device("cpu")))  # a loader may keep data on the device

    def _show(self, writer, data, target, output):
        is_reconstruction = getattr(data, "shape", None) == output.shape
        if is_reconstruction and show_images(writer, "predictions", torch.cat([data.float(), output]), most=None):
            return
        if output.dim() != 2 or output.shape[1] < 2 or target.dim() != 1:
            rows = [(str(t.tolist()), str(o.tolist()), "") for t, o in zip(target, output, strict=True)]
            show_images(writer, "samples", data, most=None)
        else:
            shares, predicted = output.softmax(dim=1).max(dim=1)
            rows = [
                (self._name(t), self._name(p), f"{share:.3f}")
                for t, p, share in zip(target.tolist(), predicted.tolist(), shares.tolist(), strict=True)
            ]
            if is_batch_of_images(data):
                captions = [_caption(*row) for row in rows[:EXAMPLES_DRAWN]]
                figure = batches_figure({"predictions": (data, captions)})
                writer.add_image("predictions", figure_as_array(figure), dataformats="HWC")
        lines = [f"| {i} | {t} | {p} | {share} |" for i, (t, p, share) in enumerate(rows)]
        head = ["| sample | target | prediction | probability |", "|---|---|---|---|"]
        writer.add_text("predictions", "\n".join(head + lines))

    def _name(self, number):
        return str(self.classes[number] if self.classes and 0 <= number < len(self.classes) else number)


def _caption(target, prediction, share):
    """A caption of at most some 16 characters a line, as "7 0.98" or, if it is wrong, in two: "7 0.98", "not 2"."""
    wrong = f"\nnot {target[:12]}" if prediction != target else ""
    return f"{prediction[:12]} {share}{wrong}"


def _is_shown(trainer):
    """Whether this process computes what the first one's writer shows: with a sharded model all have to."""
    enabled = trainer.writer.enabled
    return broadcast(enabled) if is_sharded(trainer.model) else enabled


def is_log_point(trainer: "Trainer") -> bool:
    """Whether the loss is logged after this batch, so that waiting for the device costs nothing extra."""
    return trainer.batches_done % trainer.log_step == 0 or trainer.batches_done == trainer.len_epoch


def _most_memory(device):
    """Most bytes that the accelerator, or this process, has had; None where nothing measures it, as on Windows."""
    measure = getattr(torch.get_device_module(device), "max_memory_allocated", None)  # the CPU has none
    if measure is not None:
        return measure(device)
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@functools.cache
def _limits():
    """The limits of the bins, as torch's SummaryWriter chooses them."""
    grown = itertools.accumulate(itertools.repeat(1.1), mul, initial=1e-12)
    above = list(itertools.takewhile(lambda limit: limit < 1e20, grown))
    return [*(-limit for limit in reversed(above)), 0.0, *above]


@functools.cache
def _edges(dtype, device):
    """The limits on the device, rounded up to the dtype: its numbers compare with them as with the limits."""
    exact = torch.tensor(_limits(), dtype=torch.float64)
    edges = exact.to(dtype)
    above = torch.nextafter(edges, torch.tensor(torch.inf, dtype=dtype))
    return torch.where(edges.double() < exact, above, edges).to(device)


def _is_countable(values):
    """Whether torch can compute with the values: not with sparse ones, nor with floats of 8 bits."""
    return values.layout is torch.strided and (values.element_size() > 1 or not values.is_floating_point())


def _counted(values):
    """(least, greatest, sum, sum of squares), and the counts (L + 1,) below, between and above the limits.

    On the device of the values, without waiting for it.
    """
    values = torch.view_as_real(values) if values.is_complex() else values
    dtype, device = torch.promote_types(values.dtype, torch.float32), values.device
    edges, wide = _edges(dtype, device), exact_float(device)
    counts = torch.zeros(len(edges) + 1, dtype=torch.int64, device=device)
    sums = torch.zeros(2, dtype=wide, device=device)
    for part in values.reshape(-1).to(dtype).split(_MOST_AT_ONCE):
        places = torch.bucketize(part, edges, right=True)
        counts.scatter_add_(0, places, torch.ones_like(places))  # bincount would wait for the device
        sums += torch.stack([part.sum(dtype=wide), torch.linalg.vector_norm(part, dtype=wide).square()])
    return torch.cat([torch.stack(values.aminmax()).to(wide), sums]), counts


def _fetched(counted):
    """[(four floats, counts)] of what _counted returned, in one copy from each device."""
    kinds = {torch.float64: torch.int64, torch.float32: torch.int32}
    # the bits of the floats as integers, and not the reverse, since a device may set floats next to 0 to 0
    numbers = [torch.cat([part.view(kinds[floats.dtype]) for part in (floats, counts)]) for floats, counts in counted]
    rows = {}
    for device in {one.device for one in numbers}:
        places = [place for place, one in enumerate(numbers) if one.device == device]
        rows |= zip(places, torch.stack([numbers[place] for place in places]).cpu(), strict=True)
    both = (rows[place].split([4, len(rows[place]) - 4]) for place in range(len(numbers)))
    bits = zip(both, (floats.dtype for floats, _ in counted), strict=True)
    return [(floats.view(kind).tolist(), counts.clone().view(torch.int64).tolist()) for (floats, counts), kind in bits]


def show_images(writer: Any, tag: str, data: Any, most: int | None = 32, step: int | None = None) -> bool:
    """Write the first images to TensorBoard, with values stretched to [0, 1]; returns False if data are not images.

    data: (N, 1 or 3, H, W), of any dtype.
    step: the x value, if the writer's is to change.
    """
    if not is_batch_of_images(data):
        return False
    if step is not None:
        writer.set_step(step, timed=False)
    images = data[:most].float()
    low, high = images.min(), images.max()
    writer.add_images(tag, (images - low) / (high - low).clamp(min=1e-12))
    return True


def is_batch_of_images(data: Any) -> bool:
    """Whether data is (N, 1 or 3, H, W)."""
    return getattr(data, "ndim", 0) == 4 and data.shape[1] in (1, 3)


def _require_counts(**counts):
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{name}: got {value!r}; it should be an integer of at least 1")
