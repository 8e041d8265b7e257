"""Going back to the last checkpoint after a batch that brought nan or infinity, to train on without it."""

from utils.errors import UserError
from utils.nonfinite import MAX_LEFT_OUT


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
    trainer.logger.warning("%s: back to %s, to train on without it", error, saver.newest)
    saver.forget_asked()
    left_out = trainer.left_out
    trainer._resume_checkpoint(saver.newest)
    trainer._restore_attributes()
    trainer.left_out |= left_out
    trainer.epoch = trainer.start_epoch
