"""The files of a run that resumes: what a killed save lacks, what lies ahead; and going back before a batch of nan."""

from base.training.nonfinite import MAX_LEFT_OUT
from utils.distributed.messages import barrier
from utils.distributed.world import is_main
from utils.errors import UserError
from utils.runs.checkpoint import checkpoint_name, copy_checkpoint, load_checkpoint


def complete_last_save(trainer):
    """Write the checkpoint of the last epoch, if a kill came after the best model of it and before that was written."""
    resume, epoch = trainer.config.resume, trainer.start_epoch - 1
    if not (is_main() and trainer.config.continues and epoch) or trainer.batches_done:
        return
    path = trainer.checkpoint_dir / checkpoint_name(epoch)
    due = epoch % trainer.save_period == 0 or epoch >= trainer.epochs or trainer.stop_reason
    if due and not path.exists() and not load_checkpoint(resume, shards=False).get("batch"):
        copy_checkpoint(resume, path)
        trainer.saver.newest = path


def leave_later_epochs(trainer):
    """Set aside what the run has saved after the place from which it goes on, if it is the same run."""
    if trainer.config.continues:
        monitored = None if trainer.monitor == "off" else trainer.mnt_metric
        place = trainer.start_epoch - 1, trainer.batches_done
        trainer.saver.leave_later_epochs(*place, monitored, trainer.mnt_best, trainer.logger)


def roll_back(trainer, error):
    """Put the trainer back to its newest checkpoint, to leave the error's batches out; or raise it as a UserError."""
    saver = trainer.saver
    if trainer.settings.on_nonfinite != "rollback" or not error.batches:
        last = f"the last checkpoint is {saver.newest}" if saver.newest else "no checkpoint was saved yet"
        other = 'trainer.on_nonfinite: "skip" and "rollback" go on without it'
        raise UserError(f"{error}; {last}; {other}") from error
    trainer.left_out |= {(trainer.epoch, batch_idx) for batch_idx in error.batches}
    if len([batch for batch in trainer.left_out if batch[0] == trainer.epoch]) > MAX_LEFT_OUT:
        raise UserError(f"{error}; {MAX_LEFT_OUT} batches of this epoch have been left out already") from error
    saver.wait()
    barrier()  # for the process that writes
    trainer.logger.warning("%s: back to %s, to train on without it", error, saver.newest)
    saver.forget_asked()
    left_out = trainer.left_out
    trainer._resume_checkpoint(saver.newest)
    trainer._restore_attributes()
    trainer.left_out |= left_out
    trainer.epoch = trainer.start_epoch
