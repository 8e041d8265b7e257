"""Losses, gradients and parameters that are nan or infinite: detected, traced to their batches, reported."""

import itertools
import logging
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from utils.distributed.shards import local
from utils.distributed.world import gather, sums
from utils.errors import UserError
from utils.metric_tracker import MetricTracker, read_together
from utils.seed import rng_state, set_rng_state
from utils.untrusted import as_count, as_list

if TYPE_CHECKING:
    from base.training.batch_stream import BatchStream

MAX_SKIPPED = 10  # batches of an epoch that "rollback" skips
_SAMPLES_NAMED = 20  # in a report
_BATCHES_READ_AGAIN = 4  # to find the samples at fault
_VALID_READ_AGAIN = 1000  # samples, to find those at fault
# Dtypes of gradients that the kernel of the check does not take, by kind of device: not those of bf16 (pytorch#127176);
# on mps it sets all of half precision to 0 in some versions of torch (pytorch#184286).
_LEFT_OUT = {"cpu": (), "mps": (torch.float16, torch.bfloat16)}
_LEFT_OUT_ELSEWHERE = (torch.bfloat16,)


class NonFiniteError(UserError):
    """A loss, gradient or parameter is nan or infinite. batches: indices of the epoch's batches that caused it."""

    def __init__(self, message: str, batches: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.batches = batches


class NonFiniteWatch:
    """Carries out trainer.on_nonfinite: knows the batches of the losses and optimizer steps since the last report.

    action: "stop" and "rollback" raise NonFiniteError, "skip" warns (the optimizer step is skipped by OptimStep),
        "ignore" does nothing.
    stream: the BatchStream, which knows the samples of each batch.
    logger: where "skip" warns.

    Gradients are checked on the device, into flags that only `report` reads. The check is GradScaler's kernel with a
    scale of 1: it has no public name, and the public way, a norm, costs twice as much for a model of small layers.
    """

    own_by_process = True

    def __init__(self, action: str, stream: "BatchStream | None" = None, logger: logging.Logger | None = None) -> None:
        self.action = action
        self.stream: Any = stream  # None if only gradients are checked
        self.logger: Any = logger
        self._flags: dict[int, _Flags] = {}  # by the number of the device, -1 for the CPU
        self._num_flagged = 0
        self.begin_epoch()

    @property
    def checks_gradients(self) -> bool:
        """Whether OptimStep passes its gradients to `look`."""
        return self.action != "ignore"

    @property
    def skips(self) -> bool:
        """Whether an optimizer step whose gradient is not finite is skipped."""
        return self.action == "skip"

    def begin_epoch(self) -> None:
        """Forget the epoch before."""
        self.last_update = -1  # last batch of the optimizer steps reported so far
        self.batches, self.updates = [], []
        self._clear_flags()

    def count_loss(self, batch_idx: int) -> None:
        """Record that the next loss belongs to this batch."""
        self.batches.append(batch_idx)

    def count_update(self, batch_idx: int) -> None:
        """Record that the next optimizer step ends with this batch."""
        self.updates.append(batch_idx)

    def look(self, gradients: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """Check the gradients of an optimizer step; returns a 0-dim flag for each device, 0.0 if all are finite."""
        by_device = {}
        for gradient in gradients:  # for each parameter at each step: it has to be fast
            by_device.setdefault(gradient.get_device(), []).append(_entries(gradient))
        found = [self._checked(number, entries) for number, entries in by_device.items()]
        self._num_flagged += 1
        return found

    def _checked(self, number, entries):
        """The flag of an optimizer step on a device."""
        flags = self._flags.get(number)
        if flags is None or len(flags.views) <= self._num_flagged:
            flags = self._flags[number] = _Flags(entries[0].device, max(256, 2 * self._num_flagged), flags)
        if flags.num_entries != len(entries):  # not at each step, for speed
            flags.num_entries = len(entries)
            flags.takes_all = all(one.dtype not in flags.left_out for one in entries)
        if not flags.takes_all:
            entries = _taken_by_kernel(entries, flags.left_out)
        found = flags.views[self._num_flagged]
        torch._amp_foreach_non_finite_check_and_unscale_(entries, found, flags.one)  # pyright: ignore[reportPrivateImportUsage]
        return found

    def report(self, epoch: int, tracker: MetricTracker, *others: MetricTracker) -> None:
        """Raise NonFiniteError for the first fault since the last report, or warn of all of them.

        tracker: holds "loss" of each batch counted since. What it, the others and the flags hold is read in one
            transfer per device: the one wait of a report. All processes must call it.
        """
        flags = read_together([tracker, *others], self._waiting())
        if self.action == "ignore":
            return
        faults = self.faults(tracker.window("loss"), flags)
        (found,) = sums([len(faults)])
        for batches, what in _merged_faults(gather(faults)) if found else ():
            place = self.describe(epoch, batches, what)
            if not self.skips:
                raise NonFiniteError(place, batches)
            self.logger.warning("%s; the optimizer step is skipped", place)

    def begin_window(self) -> None:
        """Start counting batches for the next report."""
        self.last_update = self.updates[-1] if self.updates else self.last_update
        self.batches, self.updates = [], []
        self._clear_flags()

    def faults(self, losses: Sequence[float], flags: Sequence[Sequence[float]]) -> list[tuple[list[int], str]]:
        """[(batches, what is not finite), ...] since the last report, in order; at most one an optimizer step.

        losses: one for each batch. flags: for each device, one for each optimizer step, above 0 if it is not finite.
        """
        bad = [(i, loss) for i, loss in zip(self.batches, losses, strict=False) if not math.isfinite(loss)]
        faults = {batch: ([batch], f"the loss is {loss}") for batch, loss in bad}
        begins = [self.last_update, *self.updates]
        for before, end, bad in zip(begins, self.updates, self._all_found(flags), strict=False):
            if not bad:
                continue
            window = list(range(before + 1, end + 1)) or [end]  # one batch may bring several steps
            if not faults.keys() & set(window):
                faults[end] = (window, "the gradient is not finite")
        return [faults[batch] for batch in sorted(faults)]

    def describe(self, epoch: int, batches: list[int], what: str) -> str:
        """One line: the place of a fault, what it is, and its cause: samples that hold nan or infinity, or the rate."""
        samples = [index for batch_idx in batches for index in self.stream.samples(epoch, batch_idx)]
        place = f"epoch {epoch}, batch {' and '.join(str(i + 1) for i in batches)} of {self.stream.len_epoch}"
        named = f"; samples {_listed(samples)}" if samples else ""
        bad = self._samples_at_fault(epoch, batches[:_BATCHES_READ_AGAIN])
        cause = "the learning rate may be too high" if what.startswith(("the loss", "the gradient")) else ""
        if cause and epoch == 1 and batches[0] == 0:  # no rate has had an effect yet
            cause = "no optimizer step was taken before, so it comes from the model or the loss, as of 0 / 0 or log(0)"
        cause = f"data_loader has nan or infinity in sample {_listed(bad)}" if bad else cause
        return f"{place}: {what}{named}" + (f"; {cause}" if cause else "")

    def merged(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """The state for another number of processes, without the losses of the open window."""
        return states[0] | {"batches": []}

    def state_dict(self) -> dict[str, Any]:
        """The batches and optimizer steps since the last report, and which gradients were not finite."""
        self._found = self._all_found(read_together([], self._waiting()))
        self._reset_flags()
        return {
            "batches": self.batches,
            "updates": self.updates,
            "last_update": self.last_update,
            "found": self._found,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        self.batches = [as_count(batch) for batch in as_list(state["batches"])]
        self.updates = [as_count(batch) for batch in as_list(state["updates"])]
        self.last_update = as_count(state["last_update"], least=-1)
        self._clear_flags()
        self._found = [bool(found) for found in as_list(state["found"])]

    def _samples_at_fault(self, epoch, batches):
        """Samples of these batches that hold nan or infinity; [] where reading them again could disturb the run."""
        loader = self.stream.loader
        if self.action != "stop" and getattr(loader, "num_workers", 0):
            return []  # later workers would share a file that the dataset opens here
        return nonfinite_samples(loader, [i for batch in batches for i in self.stream.samples(epoch, batch)])

    def _waiting(self):
        """The flags of each device that have not been read; a device without gradients of late may have fewer."""
        return [flags.all[: self._num_flagged] for flags in self._flags.values()] if self._num_flagged else []

    def _all_found(self, flags):
        """Whether the gradient of each step since the last report was not finite. flags: the values of _waiting()."""
        by_step = itertools.zip_longest([0.0] * self._num_flagged, *flags, fillvalue=0.0)
        return [*self._found, *map(any, by_step)]

    def _clear_flags(self):
        self._reset_flags()
        self._found = []  # flags read already

    def _reset_flags(self):
        if self._num_flagged:
            for flags in self._flags.values():
                flags.all.zero_()
        self._num_flagged = 0


class _Flags:
    """The flags of the optimizer steps on a device: `all` (number,), and each as a 0-dim view. before: those so far."""

    def __init__(self, device: torch.device, number: int, before: "_Flags | None") -> None:
        self.all = torch.zeros(number, dtype=torch.float32, device=device)  # of which the kernel takes no other
        if before is not None:
            self.all[: len(before.all)] = before.all
        self.views = list(self.all)
        self.one = torch.ones((), dtype=torch.float32, device=device)
        self.left_out = _LEFT_OUT.get(device.type, _LEFT_OUT_ELSEWHERE)
        self.num_entries, self.takes_all = 0, True  # of the gradients, as they were last


def _entries(gradient):
    """The gradient, or this process's shard of it, as a dense tensor of real numbers."""
    if gradient.is_sparse:
        dense = gradient.coalesce().values()
    else:
        dense = gradient if type(gradient) is torch.Tensor else local(gradient)  # not asked each plain one, for speed
    return torch.view_as_real(dense) if dense.is_complex() else dense


def _taken_by_kernel(entries, left_out):
    """The tensors; those of the dtypes that are left out as their largest entries, nan if one is."""
    large = [one for one in entries if one.dtype in left_out and one.numel()]
    taken = [one for one in entries if one.dtype not in left_out]
    largest = torch._foreach_norm(large, math.inf) if large else ()  # pyright: ignore[reportPrivateImportUsage]
    return [*taken, *(one.float() for one in largest)]


def _merged_faults(of_processes):
    """The faults of all processes in the same form; one for each window, preferably one of a loss."""
    merged = {}
    for batches, what in itertools.chain.from_iterable(of_processes):
        last = batches[-1]
        windows = [key for key, (window, _) in merged.items() if set(window) & set(batches)]
        if not windows or len(batches) < len(merged[windows[0]][0]):
            for key in windows:
                del merged[key]
            merged[last] = (batches, what)
    return [merged[batch] for batch in sorted(merged)]


def _listed(samples):
    more = f" and {len(samples) - _SAMPLES_NAMED} more" if len(samples) > _SAMPLES_NAMED else ""
    return ", ".join(map(str, samples[:_SAMPLES_NAMED])) + more


def validation_fault(loader: Any) -> str:
    """Return which of the first validation samples hold nan or infinity, for the end of a message; "" if none does."""
    bad = nonfinite_samples(loader, getattr(loader, "sampler", ()), _VALID_READ_AGAIN)
    samples = f"sample{'s' * (len(bad) > 1)} {_listed(bad)}"
    return f"; {samples} of the validation data hold{'s' * (len(bad) == 1)} nan or infinity" if bad else ""


def nonfinite_samples(loader: Any, indices: Iterable[int], most: int | None = None) -> list[int]:
    """The samples, by index, in which a tensor, array or number is nan or infinite; [] if they cannot be read.

    They are read from the loader's dataset, one by one and in this process. Random generators are restored, from which
    a sampler that is the indices may draw. most: number of samples to read, the first ones.
    """
    before = rng_state()
    try:
        dataset = getattr(loader, "seeded", loader.dataset)
        return [index for index in itertools.islice(indices, most) if _holds_nonfinite(dataset[index])]
    except Exception:  # it only adds detail to an error under way
        return []
    finally:
        set_rng_state(before)


def _holds_nonfinite(sample):
    if isinstance(sample, (dict, list, tuple)):
        return any(map(_holds_nonfinite, sample.values() if isinstance(sample, dict) else sample))
    if isinstance(sample, (float, np.ndarray, np.generic)):
        sample = torch.as_tensor(sample)
    return isinstance(sample, torch.Tensor) and not sample.isfinite().all()


def finite_state(model: torch.nn.Module, criterion: Any = None) -> dict[str, torch.Tensor]:
    """{name: tensor} that must stay finite: the trainable parameters, and the buffers that are finite now.

    criterion: the loss, which may have parameters, too.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}
    buffers = {name: b for name, b in model.named_buffers() if b.is_floating_point()}
    buffers = dict(itertools.compress(buffers.items(), _are_finite(buffers.values())))
    of_loss = finite_state(criterion) if isinstance(criterion, torch.nn.Module) else {}
    return parameters | buffers | {f"loss.{name}": tensor for name, tensor in of_loss.items()}


def require_finite(tensors: dict[str, torch.Tensor], when: str) -> None:
    """Raise NonFiniteError, with their names, if any of {name: tensor} holds nan or infinity. Waits for the device.

    All processes must call it; it raises in all of them.
    """
    bad = [name for name, is_finite in zip(tensors, _are_finite(tensors.values()), strict=True) if not is_finite]
    of_all = gather(bad)
    bad = list(dict.fromkeys(name for of_one in of_all for name in of_one))
    if bad:
        raise NonFiniteError(f"{when}: {', '.join(bad[:3])} of the model hold nan or infinity; not saved")


def _are_finite(tensors):
    """[whether a tensor, or this process's shard of it, is finite] of each, in one read."""
    finite = [local(tensor.detach()).isfinite().all() for tensor in tensors]
    return torch.stack([one.to(finite[0].device) for one in finite]).tolist() if finite else []
