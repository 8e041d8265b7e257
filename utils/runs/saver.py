"""CheckpointSaver: writes a run's checkpoint files, at once or in the background."""

import functools
import logging
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from utils.distributed.sharded_checkpoint import with_shards_saved
from utils.distributed.world import barrier, broadcast, is_main, world_size
from utils.files import delete_unless_in_use
from utils.nested import tensors_in
from utils.runs.checkpoint import copy_checkpoint, prune_checkpoints, save_checkpoint, set_aside_overtaken
from utils.untrusted import plain

LARGEST_COPY = 10**9
"""Bytes of a state that is copied in host memory without being asked to."""


class CheckpointSaver:
    """Writes checkpoints into the folder of a run, one after the other. An error of a save is raised by the next call.

    With several processes the first one writes; the others only record the names.

    folder: of the run.
    newest: the checkpoint to resume from, if there is one already.
    keep_last: how many checkpoints of whole epochs to keep, None for all.
    in_background: write a copy in host memory while training continues; None does so if it is below LARGEST_COPY, and
        no tensor is sharded.
    """

    def __init__(
        self,
        folder: Path,
        newest: Path | None = None,
        keep_last: int | None = None,
        in_background: bool | None = False,
    ) -> None:
        self.folder, self.newest, self.keep_last = folder, newest, keep_last
        self._in_background = in_background
        self._thread: ThreadPoolExecutor | None = None
        self._is_closed = False
        self._job: Future | None = None  # the pending save
        self.saved_at = time.monotonic()
        self.names: list[str] = []  # further names for the next checkpoint
        self._replaced: list[str] = []  # names of files to delete after it

    def save_as(self, name: str, instead_of: Iterable[str] = ()) -> None:
        """Save the next checkpoint under this name too, and then delete the files of other names."""
        self.names.append(name)
        self._replaced += instead_of

    def agree(self) -> None:
        """Take over the names that the first process was asked for, since all processes save together."""
        self.names = broadcast(self.names)

    def forget_asked(self) -> None:
        """Forget what save_as has asked for."""
        self.names, self._replaced = [], []

    def save(self, state: dict[str, Any], names: Iterable[str]) -> None:
        """Write one checkpoint under all names. A pending save is finished first, so that only one copy exists.

        All processes wait here for the one that writes.
        """
        self.saved_at = time.monotonic()
        paths = [self.folder / name for name in dict.fromkeys([*self.names, *names])]
        replaced = [self.folder / name for name in self._replaced]
        self.forget_asked()
        if world_size() > 1:
            state = with_shards_saved(state, self.folder, paths[-1].stem)
        if is_main():
            self.wait()
            small = "shards" not in state and sum(tensor.nbytes for tensor in tensors_in(state)) < LARGEST_COPY
            later = not self._is_closed and (small if self._in_background is None else self._in_background)
            write = functools.partial(self._write, _copied(state) if later else plain(state), paths, replaced)
            if later:
                self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="writer")
                self._job = self._thread.submit(write)
            else:
                write()
        else:
            self.newest = paths[-1]
        barrier()

    def _write(self, state, paths, replaced):
        set_aside_overtaken(self.folder, state["epoch"], state["batch"])
        save_checkpoint(state, paths[0])
        for path in paths[1:]:
            copy_checkpoint(paths[0], path)
        self.newest = paths[-1]
        for path in replaced:
            delete_unless_in_use(path)
        prune_checkpoints(self.folder, self.keep_last)

    def check(self) -> None:
        """Raise the error of a save that has failed; costs next to nothing."""
        if self._job is not None and self._job.done():
            self.wait()

    def wait(self) -> None:
        """Return when the pending save is finished; raises its error."""
        job = self._job
        if job is not None:
            try:
                job.result()
            finally:
                if job.done():  # not if Ctrl-C came first
                    self._job = None

    def close(self, logger: logging.Logger) -> None:
        """Finish the pending save and log its error, since another error is being raised already.

        Later saves are written at once.
        """
        thread, self._thread, self._is_closed = self._thread, None, True
        if thread is not None:
            thread.shutdown()
        job, self._job = self._job, None
        if job is not None and job.exception() is not None:
            logger.error("%s", job.exception())


def _copied(state):
    """A copy of the state in host memory, for which the devices are waited for once."""
    import torch

    copy = plain(state, copy=True)
    for device in {tensor.device for tensor in tensors_in(state)} - {torch.device("cpu")}:
        torch.accelerator.synchronize(device)
    return copy
