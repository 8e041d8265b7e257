"""BaseTracker: an experiment tracker, which gets a run's numbers and images, named in the config's "trackers"."""

import collections
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import UserError
from utils.untrusted import as_count, as_list, as_number

if TYPE_CHECKING:
    import numpy as np
    import torch

_SECONDS_BETWEEN = 2.0  # two hand-overs of rows; a store that writes to a disk takes some 40 ms for each


class BaseTracker:
    """Sends a run's numbers and images somewhere. A subclass overrides what it needs.

    An error that it raises in start ends the run before it has begun. A later error does not end training: see
    TrackerList. What must survive a restart, such as the id of the run there, goes into state_dict.
    """

    needs_package: str | None = None
    """Name of the package that must be installed for it."""

    def start(self, log_dir: Path, config: dict[str, Any]) -> None:
        """Called before the first batch. log_dir: the run's folder of logs, whose name is the run's."""

    def add_rows(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        """Take the numbers of one step or more, the oldest first: a list of (step, {"loss/train": 0.5, ...})."""

    def add_image(self, tag: str, image: "np.ndarray", step: int) -> None:
        """Take one image, an (H, W, 3) uint8 array."""

    def close(self, outcome: str) -> None:
        """Called at the end. outcome: "finished"; "stopped", by a signal; or "failed", by an error."""

    def state_dict(self) -> dict[str, Any]:
        """What must survive a restart: plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state: before start, and later when a run goes back to a checkpoint."""


class TrackerList:
    """Trackers that all get the same images, and one row {tag: number} for each step.

    trackers: the trackers.
    config: the merged config, for their start.
    logger: where warnings about them go.

    Rows are handed over every few seconds, before each checkpoint and at the end. Training outlives a tracker that
    fails, and no number is lost silently: a failure is a warning, and rows then wait, in the checkpoints too, to be
    offered again at each checkpoint and at the end. Rows that are not taken even then are an error, after everything
    else is done. Images do not wait.
    """

    def __init__(
        self,
        trackers: Sequence[BaseTracker] = (),
        config: dict[str, Any] | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        self.config = config or {}
        self.logger = logger or logging.getLogger("trackers")
        self.started = False
        self._posts = [_Post(f"trackers.{i}: {type(t).__name__}", t, self.logger) for i, t in enumerate(trackers)]
        self._step, self._row = 0, {}  # being filled
        self._early_images = []

    def __bool__(self) -> bool:
        return bool(self._posts)

    def start(self, log_dir: Path) -> None:
        """Start all trackers. Raises UserError if one cannot."""
        for i, post in enumerate(self._posts):
            try:
                post.tracker.start(log_dir, self.config)
            except Exception as error:
                for begun in self._posts[:i]:
                    begun.close("failed")
                raise UserError(f"{post.name} cannot start: {in_a_line(error)}") from error
        self.started = True
        for early in self._early_images:
            self.add_images(*early)

    def add_scalar(self, tag: str, value: "float | np.ndarray | torch.Tensor", step: int) -> None:
        """Put a number into the step's row; another step, or a second number of the tag, begins a new row."""
        if step != self._step or tag in self._row:
            self._end_row()
        self._step = step
        item = getattr(value, "item", None)  # float alone refuses NumPy arrays of one element
        self._row[tag] = float(item() if item else value)

    def add_images(self, tag: str, images: "np.ndarray | torch.Tensor", step: int, dataformats: str) -> None:
        """Send one image, or several as one. dataformats: a letter for each axis, as "NCHW"."""
        if not self.started:
            self._early_images.append((tag, images, step, dataformats))
            return
        for post in self._posts:
            if type(post.tracker).add_image is not BaseTracker.add_image:
                post.send_image(tag, images, step, dataformats)

    def close(self, outcome: str) -> None:
        """Send what waits, and close all. Raises UserError for what is lost, if no other error is being raised."""
        if not self.started:
            return
        self.started = False
        self._end_row()
        lost = [line for post in self._posts for line in post.close(outcome)]
        if lost and outcome == "finished":
            raise UserError("\n".join(lost))
        for line in lost:
            self.logger.error("%s", line)

    def state_dict(self) -> dict[str, Any]:
        """{class name: its state, and the rows that it has not taken}."""
        if self.started:
            self._end_row()
            for post in self._posts:
                post.send()
        return {name: {"state": post.tracker.state_dict(), "rows": list(post.rows)} for name, post in self._named()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state; a tracker without one starts afresh."""
        self._row, self._early_images = {}, []
        for name, post in self._named():
            if name in state:
                rows = as_list(state[name]["rows"])
                post.rows = [(as_count(step), {str(t): as_number(v) for t, v in row.items()}) for step, row in rows]
                post.tracker.load_state_dict(state[name]["state"])

    def _end_row(self):
        for post in self._posts if self._row else ():
            post.rows.append((self._step, self._row))
            due = time.monotonic() - post.sent_at >= _SECONDS_BETWEEN
            if self.started and due and post.error is None:
                post.send()
        self._row = {}

    def _named(self):
        """(class name, post) of each, with a number after the name from the second tracker of a class on."""
        seen = collections.Counter()
        for post in self._posts:
            name = type(post.tracker).__name__
            seen[name] += 1
            yield (name if seen[name] == 1 else f"{name}.{seen[name]}"), post


class _Post:
    """One tracker, and the rows that it has not taken yet."""

    def __init__(self, name: str, tracker: BaseTracker, logger: logging.Logger) -> None:
        self.name = name
        self.tracker = tracker
        self.logger = logger
        self.rows = []  # (step, {tag: number})
        self.sent_at = time.monotonic()
        self.images_lost = 0
        self.error = self.last_error = None  # why it does not work now; why it last did not

    def send(self):
        """Offer the rows that wait."""
        if self.rows and self._attempt(self.tracker.add_rows, self.rows):
            self.rows = []
        self.sent_at = time.monotonic()

    def send_image(self, tag, images, step, dataformats):
        """Offer an image."""
        sent = self._attempt(lambda: self.tracker.add_image(tag, as_picture(images, dataformats), step))
        self.images_lost += not sent

    def close(self, outcome):
        """Offer what waits, and close the tracker; returns a line for each thing that is lost."""
        self.send()
        counts = {"steps": len(self.rows), "images": self.images_lost}
        lost = [f"{self.name} did not take {n} {what}: {self.last_error}" for what, n in counts.items() if n]
        try:
            self.tracker.close(outcome)
        except Exception as error:
            lost.append(f"{self.name} did not end well: {in_a_line(error)}")
        return lost

    def _attempt(self, method, *arguments):
        """Whether a call succeeds. The first failure is logged, and the first success after it."""
        try:
            method(*arguments)
        except Exception as error:
            if self.error is None:
                what = "training continues, its numbers wait to be offered again, its images are lost"
                self.logger.warning("%s: %s; %s", self.name, in_a_line(error), what)
            self.error = self.last_error = in_a_line(error)
            return False
        if self.error is not None:
            self.logger.info("%s: works again", self.name)
        self.error = None
        return True


def as_picture(images: "np.ndarray | torch.Tensor", dataformats: str) -> "np.ndarray":
    """(H, W, 3) uint8 array of one image, or of several in rows of 8; floats are in [0, 1], gray becomes RGB.

    images: tensor or array. dataformats: a letter for each axis, as "CHW", "NCHW" or "HW".
    """
    import torch
    from torchvision.utils import make_grid

    axes = dataformats.upper()
    images = torch.as_tensor(images).detach().cpu()
    images = images.permute([axes.index(axis) for axis in "NCHW" if axis in axes])
    images = images if "C" in axes else images.unsqueeze(-3)
    images = images if "N" in axes else images.unsqueeze(0)
    if images.is_floating_point():
        images = images.float().mul(255).round().clamp(0, 255)
    return make_grid(images.to(torch.uint8).expand(-1, 3, -1, -1), nrow=8, padding=0).permute(1, 2, 0).numpy()


def config_values(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) for each leaf of a config; an empty list or dict is a leaf."""
    if isinstance(config, (dict, list)) and config:
        for key, item in config.items() if isinstance(config, dict) else enumerate(config):
            yield from config_values(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, config


def in_a_line(error: BaseException) -> str:
    """The message of an error, cut to one line."""
    text = (str(error).strip() or "no reason given").splitlines()[0][:300]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
