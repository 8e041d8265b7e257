"""CheckpointSaver: a run's checkpoint files, written one after the other, at once or in the background."""

import functools
import math
import time

from base.training.background import BackgroundWriter
from utils.distributed.messages import barrier, broadcast
from utils.distributed.sharded_checkpoint import with_shards_saved
from utils.distributed.world import is_main
from utils.runs.checkpoint import (
    BEST_MODEL,
    copy_checkpoint,
    find_logged,
    plain,
    prune_checkpoints,
    save_checkpoint,
    set_aside_overtaken,
)
from utils.stop_signal import unhurried


class CheckpointSaver(BackgroundWriter):
    """Writes checkpoints into the folder of a run.

    newest: the checkpoint to go on from, if there is one already. keep_last: how many after epochs stay, None for all.
    in_background: write a copy in host memory while training goes on. Of several processes the first one writes, and
    the others know the names.
    """

    def __init__(self, folder, newest=None, keep_last=None, in_background=False):
        super().__init__(enabled=in_background and is_main())
        self.folder = folder
        self.newest = newest
        self.keep_last = keep_last
        self.saved_at = time.monotonic()
        self.names = []  # under which the next checkpoint is saved too
        self._replaced = []  # names of files that it takes the place of

    def save_as(self, name, instead_of=()):
        """Save what is saved next under this name too, and then delete the files of other names."""
        self.names.append(name)
        self._replaced += instead_of

    def agree(self):
        """Take over what the first process is asked for: what all save, they save together."""
        self.names = broadcast(self.names)

    def forget_asked(self):
        """Forget what save_as has asked for."""
        self.names, self._replaced = [], []

    @unhurried()
    def wait(self):
        """Return when all is written."""
        super().wait()

    @unhurried()
    def save(self, state, names):
        """Write one checkpoint under all names. Nothing else may be under way, so that there is one copy at most.

        Of several processes the others wait here for the one that writes, since in their next step, where they would
        wait otherwise, too long a time after a signal is their end.
        """
        self.saved_at = time.monotonic()
        paths = [self.folder / name for name in dict.fromkeys([*self.names, *names])]
        replaced = [self.folder / name for name in self._replaced]
        self.forget_asked()
        state = with_shards_saved(state, self.folder, paths[-1].stem)
        if is_main():
            self.submit(functools.partial(self._write, plain(state, copy=self.in_background), paths, replaced))
        else:
            self.newest = paths[-1]
        barrier()

    def end(self, logger):
        """Wait for what is being written, and end; an error that nobody has been told of goes into the log."""
        error = self.close()
        if error is not None:  # only beside another one, which is on its way already
            logger.error("%s", error)

    def leave_later_epochs(self, epoch, batch, monitored, best, logger):
        """Set aside what a run overtakes that goes on from here, and bring back the best model before it.

        monitored: the name under which epochs logged the best value; None if none was watched.
        """
        if not is_main():
            return
        names = set_aside_overtaken(self.folder, epoch, batch)
        if names:
            logger.info("set aside as overtaken-...: %s", ", ".join(names))
        lost = not (self.folder / BEST_MODEL).exists()  # now, or by a run killed before it was brought back
        if lost and monitored is not None and math.isfinite(best):
            path = find_logged(self.folder, monitored, best)
            if path is not None:
                copy_checkpoint(path, self.folder / BEST_MODEL)
            again = f"model_best.pth is {path.name} again" if path else "there is no model_best.pth: its epoch is gone"
            logger.info(again)

    def _write(self, state, paths, replaced):
        set_aside_overtaken(self.folder, state["epoch"], state["batch"])
        save_checkpoint(state, paths[0])
        for path in paths[1:]:
            copy_checkpoint(paths[0], path)
        self.newest = paths[-1]
        for path in replaced:
            path.unlink(missing_ok=True)
        prune_checkpoints(self.folder, self.keep_last)
