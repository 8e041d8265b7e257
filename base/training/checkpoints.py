"""What a checkpoint holds, and how a trainer is restored from one or rolled back to one."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.base_data_loader import BaseDataLoader
from base.data.outputs import Output, spec_in, spec_of
from base.training.nonfinite import MAX_SKIPPED
from utils.config.changes import monitored, optimizer_types, order_of_data
from utils.config.plain import require_savable
from utils.distributed.shards import mesh_of
from utils.distributed.world import barrier, gather_to_main, is_main, rank, world_size
from utils.errors import UserError, quantity, shortened
from utils.files import differences
from utils.runs.checkpoint import (
    BEST_MODEL,
    FORMAT,
    checkpoint_name,
    copy_checkpoint,
    find_logged,
    load_checkpoint,
    set_aside_overtaken,
    with_shards,
)
from utils.runs.earlier import upgraded_states
from utils.runs.entries import further_states
from utils.runs.run_folder import refuse_other_batch
from utils.runs.schedule_state import refuse_old_steps
from utils.runs.weights import class_name, load_optimizer, load_state, load_weights, unwrapped
from utils.seed import derive_seed, rng_state, seed_everything, set_rng_state
from utils.untrusted import as_count

if TYPE_CHECKING:
    import torch

    from base.base_trainer import BaseTrainer
    from base.training.nonfinite import NonFiniteError

# ---- what a checkpoint holds

SAVED_APART = ("model", "optimizer", "averaged_model", "_trackers")  # the writer saves the trackers
# {key of a checkpoint: attribute}
_BEST = {"monitor_best": "mnt_best", "best_epoch": "best_epoch", "not_improved_count": "not_improved_count"}


def stateful_attributes(trainer: "BaseTrainer") -> dict[str, Any]:
    """{name: attribute} of the attributes with state_dict and load_state_dict, except the models and the optimizer.

    Of a Trainer these are _callbacks, lr_scheduler, nonfinite, optim_step, stream, train_metrics, update_metrics,
    valid_metrics and writer; criterion if it is a module, and data_loader if it has a state.
    """
    return {
        name: unwrapped(value)
        for name, value in vars(trainer).items()
        if name not in SAVED_APART and hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
    }


def evaluated_model(trainer: "BaseTrainer") -> "torch.nn.Module":
    """The model to validate and save: the average that a callback such as EMA keeps, if any."""
    return unwrapped(trainer.model) if trainer.averaged_model is None else trainer.averaged_model


def gather_state(trainer: "BaseTrainer", epoch: int, unsavable: Collection[str] = ()) -> dict[str, Any]:
    """Everything that must survive a restart, {name: state}; complete in the first process only.

    epoch: the last complete one. unsavable: names of attributes to leave out.
    """
    model, evaluated = unwrapped(trainer.model), evaluated_model(trainer)
    # includes optim_step with the gradients of an open accumulation window
    this_rank, *other_ranks = gather_to_main(_state_of_this_rank(trainer, unsavable))
    attributes = {
        name: value.state_dict()
        for name, value in stateful_attributes(trainer).items()
        if name not in unsavable and name not in this_rank["attributes"]
    }
    state = {
        "format": FORMAT,
        "arch": class_name(model),
        "epoch": epoch,
        "batch": trainer.batches_done,  # in the next epoch
        "step": trainer.step,
        "validated_step": trainer.validated_step,
        "left_out": sorted(trainer.skipped_batches),
        "state_dict": evaluated.state_dict(),  # what test.py and deployment use
        "optimizer": trainer.optimizer.state_dict(),
        **{key: getattr(trainer, name) for key, name in _BEST.items()},
        "attributes": this_rank["attributes"] | attributes,
        "rng": this_rank["rng"],
        "log": trainer.saved_log,  # of the epoch
        "config": trainer.config.saved,
        "outputs": spec_of(trainer.config.saved.get("loss"), trainer.criterion, trainer.output_shape),
    }
    if evaluated is not model:
        state["trained_state_dict"] = model.state_dict()  # to resume from
    if trainer.stop_reason is not None:
        state["stop_reason"] = trainer.stop_reason
    if other_ranks:
        state["of_other_processes"] = other_ranks
    return state


def _state_of_this_rank(trainer, unsavable):
    """State that differs between processes: random generators, and attributes with own_by_process set."""
    attributes = {
        name: value.state_dict()
        for name, value in stateful_attributes(trainer).items()
        if getattr(value, "own_by_process", False) and name not in unsavable
    }
    return {"rng": trainer.resume_rng or rng_state(), "attributes": attributes}


# ---- restoring

# Attributes that start afresh if one of these sections of the config has changed since the checkpoint.
_RESET_BY = {"lr_scheduler": {"optimizer", "lr_scheduler"}, "criterion": {"loss"}}


def restore(trainer: "BaseTrainer", path: Path) -> dict[str, Any]:
    """Restore model, optimizer, progress and random generators; returns the states of the attributes, {name: state}.

    Where the config has changed: another type of optimizer starts without a state; a changed optimizer or lr_scheduler
    section resets the learning rate and the schedule; a changed loss resets the loss's state. A new run from a
    checkpoint starts without a best value.
    """
    checkpoint = _read(trainer, path)
    before, now = checkpoint.get("config", {}), trainer.config.saved
    changed = {key for key in {**before, **now} if before.get(key) != now.get(key)}
    if not changed & _RESET_BY["lr_scheduler"]:
        refuse_old_steps(checkpoint, getattr(trainer, "lr_scheduler", None), getattr(trainer, "len_epoch", None))
    _restore_model_and_optimizer(trainer, checkpoint, before, changed)
    states = _attribute_states(checkpoint)
    data_changed = _restore_data(trainer, states)
    _restore_progress(trainer, checkpoint, before, changed, data_changed)
    if trainer.config.continues or path != trainer.config.resume:  # a rollback stays in its run
        _restore_best(trainer, checkpoint, before)
    else:
        trainer.saved_log = {}
    if "rng" in checkpoint:
        trainer.resume_rng = _rng_for_this_rank(trainer, checkpoint)
        set_rng_state(trainer.resume_rng)
    if others := further_states(checkpoint):
        trainer.logger.warning("the checkpoint also holds %s, which this trainer does not restore", others)
    within = f"after {quantity(trainer.batches_done, 'batch')} of epoch {trainer.start_epoch}"
    place = within if trainer.batches_done else f"epoch {trainer.start_epoch - 1}"
    trainer.logger.info("resumed from %s, %s", path, place)
    for line in differences(before, now):
        trainer.logger.info("changed since: %s", line)
    if data_changed:
        trainer.logger.warning("changed since: %s", data_changed)
    reset = {name for name, sections in _RESET_BY.items() if changed & sections}
    if checkpoint.get("batch") and not trainer.batches_done:
        reset |= {"data_loader", "stream"}
    return {name: state for name, state in states.items() if name not in reset}


def _read(trainer, path):
    """The content of the checkpoint at the path."""
    config, mesh = trainer.config, mesh_of(trainer.model)
    if path == config.resume:
        if config.continues:
            refuse_other_batch(path.parent, config.saved)
        checkpoint = config.load_checkpoint(mesh)
    else:
        checkpoint = with_shards(load_checkpoint(path, shards=False), path, mesh)
    require_savable(checkpoint.get("config", {}), path)
    return checkpoint


def _restore_model_and_optimizer(trainer, checkpoint, before, changed):
    load_weights(trainer.model, checkpoint.get("trained_state_dict", checkpoint["state_dict"]))
    if "optimizer" not in checkpoint or optimizer_types(before) != optimizer_types(trainer.config.saved):
        trainer.logger.warning("the optimizer starts without a state: the checkpoint has none of its type")
    else:
        load_optimizer(trainer.optimizer, checkpoint["optimizer"], bool(changed & {"optimizer", "lr_scheduler"}))


def _restore_data(trainer, states):
    """Load the state of a BaseDataLoader; returns a line if its samples have changed since the checkpoint, else None.

    It must be there before the first batch is read. The state of other loaders, a position, waits for train().
    """
    loader = getattr(trainer, "data_loader", None)
    if not isinstance(loader, BaseDataLoader) or "data_loader" not in states:
        return None
    state = states.pop("data_loader")
    load_state("data_loader", loader, state)
    return loader.changes_since(state)


def _restore_progress(trainer, checkpoint, before, changed, data_changed):
    """Set the position: after the checkpoint's batch, or at the start of that epoch if need be."""
    trainer.start_epoch = checkpoint.get("epoch", 0) + 1
    trainer.batches_done = checkpoint.get("batch", 0)
    trainer.step, trainer.validated_step = checkpoint.get("step", 0), checkpoint.get("validated_step", 0)
    trainer.output_shape = Output.from_state({}, spec_in(checkpoint)).shape
    try:
        skipped = {(as_count(epoch), as_count(batch_idx)) for epoch, batch_idx in checkpoint.get("left_out", ())}
    except (TypeError, ValueError):
        raise UserError("the checkpoint's 'left_out' should be a list of pairs of integers") from None
    trainer.skipped_batches = skipped
    same_data = order_of_data(before) == order_of_data(trainer.config.saved) and not data_changed
    if trainer.batches_done and not (trainer.resumes_within_epochs and same_data):
        reason = "this trainer cannot resume within an epoch" if same_data else "the data or their order have changed"
        again = f"{reason}, so training repeats {quantity(trainer.batches_done, 'batch')}"
        trainer.logger.warning("epoch %d starts over: %s", trainer.start_epoch, again)
        trainer.batches_done = 0
    if trainer.batches_done and changed & {"loss", "metrics"}:
        mixed = "epoch %d: its averages mix the loss and metrics before and after the change"
        trainer.logger.warning(mixed, trainer.start_epoch)
    if not trainer.config.continues and trainer.start_epoch > trainer.epochs:
        raise UserError(
            f"trainer.epochs: got {trainer.epochs}, and {quantity(trainer.start_epoch - 1, 'epoch')} of the checkpoint "
            f"count too; give more than {trainer.start_epoch - 1}"
        )


def _restore_best(trainer, checkpoint, before):
    """Restore the last log, the best value if it is measured as before, and what stopped the run."""
    trainer.saved_log = checkpoint.get("log", {})
    was, now = monitored(before), monitored(trainer.config.saved)
    if was[0] == now[0] and was != now:
        trainer.logger.warning("%s is measured in another way now, so its best value starts afresh", trainer.mnt_metric)
    if was == now:
        for key, name in _BEST.items():
            setattr(trainer, name, checkpoint.get(key, getattr(trainer, name)))
    if checkpoint.get("stop_reason") and before == trainer.config.saved:
        remedy = "to train further, raise trainer.epochs or change what ended the run"
        trainer.stop(f"{shortened(checkpoint['stop_reason'])}; {remedy}")


def restore_attributes(trainer: "BaseTrainer", states: dict[str, Any]) -> None:
    """Load {name: state} of a checkpoint into the attributes. Raises UserError for a state that does not fit."""
    stateful = stateful_attributes(trainer)
    for name, state in states.items():
        if name in stateful:
            load_state(name, stateful[name], _state_for_this_rank(name, stateful[name], state))
        else:
            trainer.logger.warning("the checkpoint holds a state of %r, which this trainer does not have", name)


class _ByRank(list):
    """The states that the processes saved of one attribute, by rank."""


def _attribute_states(checkpoint):
    """{name: state} of the attributes; a _ByRank for those that differ between processes."""
    first = upgraded_states(checkpoint.get("attributes", {}))
    ranks = [first, *(upgraded_states(other["attributes"], first) for other in _states_of_other_ranks(checkpoint))]
    names = {name for states in ranks[1:] for name in states}
    return first | {name: _ByRank(states.get(name, {}) for states in ranks) for name in names}


def _states_of_other_ranks(checkpoint):
    others = checkpoint.get("of_other_processes", [])
    if not all(isinstance(other, dict) and isinstance(other.get("attributes"), dict) for other in others):
        raise UserError("the checkpoint's 'of_other_processes' should be a list of states")
    return others


def _state_for_this_rank(name, target, state):
    """The state to resume this process from, given the states saved by all processes."""
    own = getattr(target, "own_by_process", False)
    if not own and not isinstance(state, _ByRank):
        return state
    states = state if isinstance(state, _ByRank) else [state]
    if own and len(states) == world_size():
        return states[rank()]
    try:
        return target.merged(states)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"the checkpoint does not fit {name!r}: {' '.join(str(error).split())}") from None


def _rng_for_this_rank(trainer, checkpoint):
    """The state of the random generators: the one saved by this rank, or a newly seeded one for a new rank."""
    states = [checkpoint["rng"], *(other.get("rng") for other in _states_of_other_ranks(checkpoint))]
    if rank() < len(states):
        return states[rank()]
    seed_everything(derive_seed(trainer.torch_seed, trainer.start_epoch, trainer.batches_done, rank()))
    return rng_state()


# ---- the files of a resumed run, and rollback


def complete_last_save(trainer: "BaseTrainer") -> None:
    """Write the last epoch's checkpoint if the run was killed after model_best.pth, which is saved first."""
    resume, epoch = trainer.config.resume, trainer.start_epoch - 1
    ended_epoch = epoch > 0 and trainer.batches_done == 0
    if resume is None or not (trainer.config.continues and ended_epoch and is_main()):
        return
    path = trainer.checkpoint_dir / checkpoint_name(epoch)
    due = epoch % trainer.save_period == 0 or epoch >= trainer.epochs or trainer.stop_reason
    if due and not path.exists() and not load_checkpoint(resume, shards=False).get("batch"):
        copy_checkpoint(resume, path)
        trainer.saver.newest = path


def set_later_epochs_aside(trainer: "BaseTrainer") -> None:
    """Rename checkpoints later than the one resumed from; restore model_best.pth from those that are left."""
    if not (trainer.config.continues and is_main()):
        return
    folder, logger = trainer.checkpoint_dir, trainer.logger
    if names := set_aside_overtaken(folder, trainer.start_epoch - 1, trainer.batches_done):
        logger.info("renamed to overtaken-...: %s", ", ".join(names))
    lost = not (folder / BEST_MODEL).exists()  # renamed just now, or by a run killed before restoring it
    if lost and trainer.monitor != "off" and math.isfinite(trainer.mnt_best):
        path = find_logged(folder, trainer.mnt_metric, trainer.mnt_best)
        if path is not None:
            copy_checkpoint(path, folder / BEST_MODEL)
            logger.info("model_best.pth is a copy of %s again", path.name)
        else:
            logger.info("no model_best.pth: the checkpoint of its epoch is gone")


def prepare_rollback(trainer: "BaseTrainer", error: "NonFiniteError") -> set[tuple[int, int]]:
    """Check that a rollback to the newest checkpoint is possible and prepare it; else raise the error as a UserError.

    Returns the batches to skip from now on, {(epoch, batch_idx)}.
    """
    saver = trainer.saver
    saver.wait()
    if trainer.settings.on_nonfinite != "rollback" or not error.batches:
        last = f"the last checkpoint is {saver.newest}" if saver.newest else "no checkpoint was saved yet"
        remedy = '; trainer.on_nonfinite "skip" or "rollback" would skip the batch' if error.batches else ""
        raise UserError(f"{error}; {last}{remedy}") from error
    skipped = trainer.skipped_batches | {(trainer.epoch, batch_idx) for batch_idx in error.batches}
    if len([batch for batch in skipped if batch[0] == trainer.epoch]) > MAX_SKIPPED:
        raise UserError(f"{error}; {MAX_SKIPPED} batches of this epoch have been skipped already") from error
    barrier()  # until the first process has written it
    saver.forget_asked()
    trainer.logger.warning("%s: rolling back to %s and skipping the batch", error, saver.newest)
    return skipped
