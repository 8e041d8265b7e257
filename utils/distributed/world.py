"""The processes of a run as the other rooms see them: which samples each reads, and what they tell each other.

One process is a world of size one, whose answers are all here. Files that communicate are imported where there are
several. rank, world_size and is_main come from launch.py.
"""

import contextlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from utils.device import prepare_device
from utils.distributed.launch import is_main, rank, world_size
from utils.errors import UserError, log_error

if TYPE_CHECKING:
    import torch

    from utils.distributed.messages import Agreement

T = TypeVar("T")


# ---- the run: its processes, their devices, their model


@contextlib.contextmanager
def joined(config: dict[str, Any], resume: str | None = None, device: str | None = None) -> Iterator[None]:
    """Within it this process is one of the run's. A traceback that leaves it is in the run's log, too.

    config: the merged config.
    resume: text that identifies the checkpoint to resume from.
    device: used instead of the config's.

    Raises UserError if the processes cannot find each other, or were started with different values. An error ends all
    processes and is reported once; so does the end of one of them, which the others report.
    """
    if world_size() > 1:
        from utils.distributed.process_group import joined as joined_with_others

        with joined_with_others(config, resume, device):
            yield
        return
    try:
        yield
    except Exception as error:
        if not isinstance(error, UserError):  # which is reported in a line
            log_error("".join(traceback.format_exception(error)).rstrip())
        raise


def process_device(n_gpu: int = 1, name: str = "auto") -> "torch.device":
    """The device of this process. n_gpu, name: as of prepare_device. Raises UserError if they do not fit."""
    if world_size() == 1:
        return prepare_device(n_gpu, name)[0]
    from utils.distributed import process_group

    return process_group.process_device(n_gpu, name)


def parallelize(model: "torch.nn.Module", config: Any, device: "torch.device") -> "torch.nn.Module":
    """Return the model on the device, as the processes train it together; call it before the optimizer is made.

    config: a ConfigParser with a section "parallel", by default {"type": "ddp"}. The model may still be on the CPU.
    """
    if world_size() == 1:
        return model.to(device)
    from utils.distributed import parallel

    return parallel.parallelize(model, config, device)


def seed_of_process(seed: int) -> int:
    """The seed for random numbers that do not concern the data, such as dropout's: another one in each process."""
    if is_main():
        return seed
    from utils.seed import derive_seed  # imports NumPy, which an error in a config need not wait for

    return derive_seed(seed, rank())


# ---- who reads which samples


class Part(NamedTuple):
    """A process's part of a batch that all share."""

    own: int
    """Samples that count for this process. If it is 0, the process reads one sample that counts for another one."""
    total: int
    """Samples of the batch."""


def part_of(total: int, number: int | None = None) -> Part:
    """The Part of a batch of `total` samples that process `number` has, by default this one.

    Parts are contiguous; the first ones have one sample more if the batch cannot be divided evenly.
    """
    number = rank() if number is None else number
    return Part(_first_of(number + 1, total) - _first_of(number, total), total)


def _first_of(number, total):
    each, more = divmod(total, world_size())
    return number * each + min(number, more)


def own_samples(indices: Sequence[int]) -> Sequence[int]:
    """Those of a batch's samples that this process reads."""
    return indices if world_size() == 1 else indices[own_slice(len(indices))]


def own_slice(total: int) -> slice:
    """Where this process's samples are in a batch of `total` samples.

    It is the batch's first sample if there are fewer samples than processes: every process takes part in every step.
    """
    start, end = _first_of(rank(), total), _first_of(rank() + 1, total)
    return slice(start, end) if end > start else slice(1)


def part_of_batch(loader: Any, batch_idx: int) -> Part | None:
    """This process's Part of a BaseDataLoader's batch, counted from 0; None if there is one process."""
    if world_size() == 1:
        return None
    return part_of(min(loader.batch_size, len(loader.sampler) - batch_idx * loader.batch_size))


# ---- what the processes tell each other; all must ask


def gather(value: T) -> list[T]:
    """[value of each process]. For tensors and plain values; tensors arrive on the CPU."""
    return [value] if world_size() == 1 else _messages().gather(value)


def gather_to_main(value: T) -> list[T]:
    """[value of each process] in the first process, [its own] in the others. Tensors arrive on the CPU."""
    return [value] if world_size() == 1 else _messages().gather_to_main(value)


def broadcast(value: T) -> T:
    """The first process's value."""
    return value if world_size() == 1 else _messages().broadcast(value)


def sums(numbers: list[float]) -> list[float]:
    """[the sum of each number over the processes]; faster than gather."""
    return numbers if world_size() == 1 else _messages().sums(numbers)


def any_of(value: T) -> T | None:
    """The first process's value that is not None; None if there is none."""
    return next((one for one in gather(value) if one is not None), None)


def decided_by_main(function: Callable[[], T]) -> T:
    """function(), which only the first process calls; its UserError ends the others too."""
    result: Any = None
    error = None
    if is_main():
        try:
            result = function()
        except UserError as raised:
            error = raised
    result, failed = broadcast((result, error is not None))
    if error is not None:
        raise error
    if failed:
        raise SystemExit(2)  # the first process reports the error
    return result


def barrier() -> None:
    """Wait for all processes."""
    gather(None)


def largest(tensor: "torch.Tensor") -> "torch.Tensor":
    """The tensor, with each entry the largest one of all processes."""
    return tensor if world_size() == 1 else _messages().largest(tensor)


def total_of(tensor: "torch.Tensor") -> "torch.Tensor":
    """The sum of the tensors of all processes, on their device."""
    return tensor if world_size() == 1 else _messages().total_of(tensor)


def same_buffers(model: "torch.nn.Module") -> None:
    """Give the model's buffers, such as the statistics of batch norm, the first process's values."""
    if world_size() > 1:
        _messages().same_buffers(model)


def agreement() -> "Agreement | OwnRequests":
    """A new Agreement, by which all processes do what one of them asks for."""
    return OwnRequests() if world_size() == 1 else _messages().Agreement()


class OwnRequests:
    """The Agreement of one process: what it asks for is agreed at once."""

    def __call__(self, *asked: int, place: Any = None) -> tuple[int, ...]:
        return asked

    def close(self) -> None:
        pass


def is_first_to_say(text: str) -> bool:
    """Whether this process should say it: the first one, or another one unless the first says the same just now."""
    return world_size() == 1 or _messages().is_first_to_say(text)


def _messages():
    from utils.distributed import messages

    return messages
