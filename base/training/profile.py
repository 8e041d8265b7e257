"""Profile: records a few steps of a run with torch's profiler."""

import shutil
import tempfile
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from base import BaseCallback
from utils.files import replacing

if TYPE_CHECKING:
    from trainer.trainer import Trainer

WARM_UP, RECORDED = 5, 5  # steps
_SHOWN = 15  # operators
TRACE = "profile.pt.trace.json"  # the ending that TensorBoard looks for


class Profile(BaseCallback):
    """Records 5 steps after 5 steps of warm-up, fewer in a shorter run.

    It then logs a table of operators and writes a trace into the run's log folder. Training is unchanged.
    """

    left = 0  # steps to come

    def on_train_start(self, trainer: "Trainer") -> None:
        steps = (trainer.epochs - trainer.start_epoch + 1) * trainer.len_epoch - trainer.batches_done
        self.warm_up = max(0, min(WARM_UP, steps - 1))
        recorded = min(RECORDED, steps - self.warm_up)
        if trainer.stop_reason or recorded < 1:
            return
        self.left = self.warm_up + recorded
        wait, warm = max(0, self.warm_up - 1), min(1, self.warm_up)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of a run of one step, without warm-up
            schedule = torch.profiler.schedule(wait=wait, warmup=warm, active=recorded, repeat=1)
            self.profiler = torch.profiler.profile(schedule=schedule)
            self.profiler.start()

    def on_step_end(self, trainer: "Trainer") -> None:
        if self.left:
            self.left -= 1
            self.profiler.step()
            if not self.left:
                self._end(trainer)

    def on_error(self, trainer: "Trainer", error: BaseException) -> None:
        self.on_train_end(trainer)

    def on_train_end(self, trainer: "Trainer") -> None:
        if self.left:  # the run ended before
            self._end(trainer)

    def _end(self, trainer):
        self.left = 0
        self.profiler.stop()
        steps = self.profiler.step_num - self.warm_up
        if steps > 0:
            path = trainer.config.log_dir / TRACE
            with tempfile.TemporaryDirectory() as folder, replacing(path, "the trace") as file:
                self.profiler.export_chrome_trace(f"{folder}/{TRACE}")  # it would follow a symbolic link
                with open(f"{folder}/{TRACE}", "rb") as trace:
                    shutil.copyfileobj(trace, file)
            table = profile_table(self.profiler.key_averages(), steps)
            trainer.logger.info("%s\ntrace of the profile: %s", table, path)


def profile_table(events: Iterable[Any], steps: int) -> str:
    """Lines of at most 80 columns: the operators that take longest, without what they call. events: key_averages()."""
    cpu_events = torch.autograd.DeviceType.CPU  # pyright: ignore[reportPrivateImportUsage]
    events = [event for event in events if event.device_type == cpu_events]
    cpu = [event.self_cpu_time_total / 1000 for event in events]  # ms
    device = [event.self_device_time_total / 1000 for event in events]
    on_device = sum(device) > 0
    ranked = sorted(zip(events, cpu, device, strict=True), key=lambda row: row[2 if on_device else 1], reverse=True)
    head = f"{'operator':<36}{'calls':>8}{'CPU ms':>10}"
    lines = [head + (f"{'GPU ms':>17}" if on_device else "")]
    for event, own, on_gpu in ranked[:_SHOWN]:
        name = "(python and waiting)" if event.key.startswith("ProfilerStep") else event.key
        line = f"{name[:35]:<36}{event.count:>8}{own:>10.2f}{own / max(sum(cpu), 1e-9):>7.1%}"
        lines.append(line + (f"{on_gpu:>10.2f}{on_gpu / sum(device):>7.1%}" if on_device else ""))
    each = f", {sum(device) / steps:.2f} ms on the GPU" if on_device else ""
    return "\n".join([f"profile of {steps} steps: {sum(cpu) / steps:.2f} ms each on the CPU{each}", *lines])
