"""TensorboardWriter: writes a run's TensorBoard files, and passes numbers and images on to its trackers."""

import contextlib
import functools
import io
import json
import logging
import secrets
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from logger.base_tracker import TrackerList, config_values, in_a_line
from utils.distributed.world import is_main
from utils.errors import UserError, shown
from utils.files import cut
from utils.untrusted import as_count

if TYPE_CHECKING:
    from torch.nn import Module
    from torch.utils.tensorboard import SummaryWriter

_VALIDATION = "val"  # the folder of its points, so that TensorBoard's tables call them val.loss, val.accuracy


class TensorboardWriter:
    """A SummaryWriter that fills in the step and appends the mode to each tag ("loss/train", "loss/valid").

    add_values writes numbers under their own names instead, training and validation in one chart.

    log_dir: folder of the event files; those of validation are in its folder val.
    logger: where warnings go.
    enabled: False writes no event files.
    trackers: a TrackerList that gets numbers and images too, from start() until the end of the with statement.

    The attribute writer is the SummaryWriter itself, None if not enabled, for data that has no method here.

    When a run resumes, load_state_dict removes what was written after its checkpoint, so that no point is there twice.
    Of several processes the first one writes. Raises UserError if the files cannot be written. Values that cannot be
    shown, such as a histogram of nan, are skipped, with one warning for each tag.
    """

    def __init__(
        self, log_dir: str | Path, logger: logging.Logger, enabled: bool, trackers: TrackerList | None = None
    ) -> None:
        self.log_dir = Path(log_dir)
        self.logger = logger
        self.trackers = TrackerList() if trackers is None else trackers
        self._tensorboard = enabled and is_main()
        self.step = 0
        self.mode = ""
        self._last = None  # (mode, step, time) of the last timed set_step
        self._writers: dict[str, SummaryWriter] = {}  # by folder below log_dir
        self._skipped = set()  # tags with a warning in the log

    def start(self, config: dict[str, Any] | None = None, step: int = 0) -> None:
        """Start the trackers, before the first batch, and show the config. Raises UserError if a tracker cannot start.

        config: shown as text, and its values under HPARAMS, where TensorBoard compares runs.
        """
        self.trackers.start(self.log_dir)
        if config is not None and self.writer is not None:
            lines = json.dumps(config, indent=4).splitlines()
            with self._user_errors():
                self.writer.add_text("config", "\n".join(f"    {line}" for line in lines), step)
            self._add_record(_session(config)[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        outcome = "finished" if kind is None else "failed" if issubclass(kind, Exception) else "stopped"
        try:
            if outcome == "finished" and "" in self._writers:
                self._add_record(_session({})[1])
            self.close()
        finally:
            self.trackers.close(outcome)

    @property
    def enabled(self) -> bool:
        """Whether TensorBoard or a tracker gets what is added."""
        return bool(self._tensorboard or self.trackers)

    @property
    def writer(self) -> "SummaryWriter | None":
        """The SummaryWriter, made when it is first asked for."""
        return self._writer_in("")

    def _writer_in(self, name):
        """The SummaryWriter of a folder below log_dir; None if TensorBoard is off."""
        if name not in self._writers and self._tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            _silence_thread()
            folder = self.log_dir / name
            if name and folder.is_symlink():
                raise UserError(f"{shown(folder)}: is a link, where the run has a folder; move it away")
            with self._user_errors():
                # a random name, under which nobody can have put a link
                self._writers[name] = SummaryWriter(str(folder), filename_suffix=f".{secrets.token_hex(8)}")
            if not name:
                self.logger.debug("TensorBoard files go to %s", folder)
        return self._writers.get(name)

    def set_step(self, step: int, mode: str = "train", timed: bool = True) -> None:
        """Set the step and the mode ("train", "valid") of the next calls.

        timed: log the rate of steps since the last timed call of the same mode.
        """
        self.step, self.mode = step, mode
        for name, rate in self._rate().items() if timed else ():
            self.add_scalar(name, rate)

    def _rate(self):
        """{"steps_per_sec": the rate since the last call for this mode}; {} in the first one."""
        (mode, step, then), self._last = self._last or (None, 0, 0.0), (self.mode, self.step, time.perf_counter())
        is_known = mode == self.mode and self.step > step
        return {"steps_per_sec": (self.step - step) / (self._last[2] - then)} if is_known else {}

    def add_report(self, values: Mapping[str, float], step: int, mode: str = "train") -> None:
        """Set the step and the mode, and add numbers, with the rate of steps since the last report, in one event."""
        self.set_step(step, mode, timed=False)
        tagged = {self._tagged(name): value for name, value in {**self._rate(), **values}.items()}
        self._write("", tagged, step)
        for tag, value in tagged.items():
            self._track_scalar(tag, value, step)

    def add_values(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers under their own names, without a mode. values: as {"loss": 0.3, "val_loss": 0.4}.

        TensorBoard draws <name> and val_<name> as two lines of the chart <name>: the second is a run of its own there,
        <run>/val, since a chart has one line for each run. Trackers get the names as they are.
        """
        valid = {name.removeprefix("val_"): value for name, value in values.items() if name.startswith("val_")}
        self._write("", {name: value for name, value in values.items() if not name.startswith("val_")}, step)
        self._write(_VALIDATION, valid, step)
        for name, value in values.items():
            self._track_scalar(name, value, step)

    def add_scalar(self, tag: str, data: Any, *args: Any, **kwargs: Any) -> None:
        """Add one number."""
        self._add("add_scalar", tag, data, *args, **kwargs)
        self._track_scalar(self._tagged(tag), data, kwargs.get("global_step", self.step))

    def add_scalars(self, tag: str, data: Any, *args: Any, **kwargs: Any) -> None:
        """Add several numbers in one plot. data: {name: number}."""
        self._add("add_scalars", tag, data, *args, **kwargs)
        for name, value in data.items() if self.trackers else ():
            self._track_scalar(f"{self._tagged(tag)}/{name}", value, kwargs.get("global_step", self.step))

    def add_image(self, tag: str, data: Any, *args: Any, **kwargs: Any) -> None:
        """Add one image. data: (C, H, W)."""
        self._add("add_image", tag, data, *args, **kwargs)
        self._track_images(tag, data, **{"dataformats": "CHW", **kwargs})

    def add_images(self, tag: str, data: Any, *args: Any, **kwargs: Any) -> None:
        """Add images. data: (N, C, H, W)."""
        self._add("add_images", tag, data, *args, **kwargs)
        self._track_images(tag, data, **{"dataformats": "NCHW", **kwargs})

    def add_audio(self, tag: str, data: Any, *args: Any, **kwargs: Any) -> None:
        """Add sound. data: (1, L), values in [-1, 1]."""
        self._add("add_audio", tag, data, *args, **kwargs)

    def add_text(self, tag: str, data: Any, *args: Any, **kwargs: Any) -> None:
        """Add text, shown as Markdown."""
        self._add("add_text", tag, data, *args, **kwargs)

    def add_histogram(self, tag: str, data: Any, *args: Any, **kwargs: Any) -> None:
        """Add the distribution of a tensor's values."""
        self._add("add_histogram", tag, data, *args, **kwargs)

    def add_histogram_raw(self, tag: str, data: float, *args: Any, **kwargs: Any) -> None:
        """Add a distribution that is counted already. data: the least value; further ones as for the SummaryWriter."""
        self._add("add_histogram_raw", tag, data, *args, **kwargs)

    def add_pr_curve(self, tag: str, data: Any, *args: Any, **kwargs: Any) -> None:
        """Add a precision-recall curve. data: the true labels (N,); next, the predicted probabilities (N,)."""
        self._add("add_pr_curve", tag, data, *args, **kwargs)

    def add_embedding(self, tag: str, data: Any, *args: Any, **kwargs: Any) -> None:
        """Add points for the projector. data: (N, D)."""
        writer, tag = self.writer, self._tagged(tag)
        if writer is not None:
            with self._user_errors(), self._skip_impossible(tag):
                writer.add_embedding(data, *args, tag=tag, global_step=self.step, **kwargs)

    def add_graph(self, model: "Module", batch: Any) -> None:
        """Add the model's graph, traced with a batch; training modes and random generators stay as they are."""
        if self.writer is None:
            return
        import torch

        from utils.seed import seeded

        modes = {module: module.training for module in model.modules()}
        with seeded(0), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # torch calls its tracer deprecated, and TensorBoard's writer has no other
            try:
                # traced here, since the writer would have torch trace it again to compare
                traced = torch.jit.trace(model.eval(), (batch,), check_trace=False)  # one argument, perhaps a tuple
                self.writer.add_graph(traced, (batch,))
            except Exception as error:  # a model that cannot be traced can still be trained
                self.logger.warning("no model graph in TensorBoard: %s", in_a_line(error))
            finally:
                for module, training in modes.items():  # model.train() would have parts that are frozen train, too
                    module.training = training

    def flush(self) -> None:
        """Write out what is buffered, so that it survives a kill."""
        for writer in list(self._writers.values()):
            with self._user_errors():
                writer.flush()

    def close(self) -> None:
        """Write out what is buffered, and close the files."""
        writers, self._writers = self._writers, {}
        for writer in writers.values():
            with self._user_errors():
                writer.close()

    def state_dict(self) -> dict[str, Any]:
        """The lengths of the files, after a flush, and the trackers' states."""
        self.flush()
        state = {"files": {name: path.stat().st_size for name, path in self._files().items()}}
        return state | ({"run": self.log_dir.name, "trackers": self.trackers.state_dict()} if self.trackers else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut the files back to their lengths; later files are renamed, so that TensorBoard does not find them.

        Trackers do not take over the state of another run.
        """
        self.close()
        self._last = None
        for name, path in self._files().items() if is_main() else ():
            size = state["files"].get(name)
            size = None if size is None else as_count(size)
            with self._user_errors():
                if size is None:
                    path.replace(path.with_name(path.name.replace("tfevents", "overtaken")))
                elif size < path.stat().st_size:
                    cut(path, size)
        if self.trackers and state.get("run") == self.log_dir.name:
            self.trackers.load_state_dict(state["trackers"])

    def _add(self, method, tag, data, *args, **kwargs):
        writer, tag = self.writer, self._tagged(tag)
        if writer is not None:
            kwargs.setdefault("global_step", self.step)
            with self._user_errors(), self._skip_impossible(tag):
                getattr(writer, method)(tag, data, *args, **kwargs)

    def _write(self, folder, values, step):
        """Add {tag: number} in one event, since each event wakes the writer's thread."""
        if not self._tensorboard:
            return
        from torch.utils.tensorboard.summary import scalar

        records = []
        for tag, value in values.items():
            with self._skip_impossible(f"{folder}/{tag}".lstrip("/")):
                records.append(scalar(tag, value))
        for record in records[1:]:
            records[0].MergeFrom(record)
        if records:
            self._add_record(records[0], folder, step)

    def _add_record(self, record, folder="", step=None):
        file_writer = getattr(self._writer_in(folder), "file_writer", None)
        if file_writer is not None:
            with self._user_errors():
                file_writer.add_summary(record, step)

    def _track_scalar(self, tag, value, step):
        if self.trackers:
            with self._skip_impossible(tag):
                self.trackers.add_scalar(tag, value, step)

    def _track_images(self, tag, data, dataformats, global_step=None, **kwargs):
        if self.trackers:
            step = self.step if global_step is None else global_step
            self.trackers.add_images(self._tagged(tag), data, step, dataformats)

    def _files(self):
        """{path below log_dir: path} of the event files."""
        inner = self.log_dir / _VALIDATION
        folders = [self.log_dir] if inner.is_symlink() else [self.log_dir, inner]
        found = [path for folder in folders for path in folder.glob("*tfevents*")]
        return {p.relative_to(self.log_dir).as_posix(): p for p in found if p.is_file() and not p.is_symlink()}

    @contextlib.contextmanager
    def _user_errors(self):
        """Within it an OSError of TensorBoard or of its thread becomes a UserError."""
        try:
            yield
        except OSError as error:
            self._writers, self._tensorboard = {}, False  # it would raise the same at every further call
            raise UserError(f"{self.log_dir}: cannot write the TensorBoard files: {error.strerror or error}") from error

    @contextlib.contextmanager
    def _skip_impossible(self, tag):
        """Within it an error that a tag's values raise becomes a warning, once for each tag."""
        import numpy as np

        try:
            with np.errstate(invalid="raise"):  # of nan in pixels and shares, NumPy makes numbers and a warning
                yield
        except OSError:
            raise
        except Exception as error:
            if tag not in self._skipped:
                self.logger.warning("%s: skipped where it cannot be shown: %s", tag, in_a_line(error))
            self._skipped.add(tag)

    def _tagged(self, tag):
        return f"{tag}/{self.mode}" if self.mode else tag


def _session(config):
    """TensorBoard's records of the start and the end of a session with the values of a config.

    The record of an experiment that torch makes too is left out: TensorBoard takes that of one run for all, and without
    it the union of their values.
    """
    from torch.utils.tensorboard.summary import hparams

    compared = {name: value for name, value in config.items() if name not in ("$schema", "description", "cli")}
    values = dict(config_values(compared))
    for path, value in values.items():
        if value is None or isinstance(value, bool):  # for torch, true is 1 and null is nothing
            values[path] = json.dumps(value)
    return hparams({path: value for path, value in values.items() if value not in ([], {})}, {})[1:]


def _silence_thread():
    """Print no traceback of TensorBoard's thread, whose error the writer's next call raises."""
    if getattr(threading.excepthook, "func", None) is not _report:
        threading.excepthook = functools.partial(_report, threading.excepthook)


def _report(hook, ended):
    if type(ended.thread).__name__ != "_AsyncWriterThread":
        hook(ended)
