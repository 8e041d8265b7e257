"""A run's checkpoints: what they hold, how a trainer is put back to one, and how it goes back to one."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.training.nonfinite import MAX_LEFT_OUT
from utils.config.changes import optimizer_types, order_of_data
from utils.config.plain import require_savable
from utils.distributed.shards import mesh_of
from utils.distributed.world import barrier, gather_to_main, is_main, rank, world_size
from utils.errors import UserError, shortened
from utils.json_io import differences
from utils.runs.checkpoint import (
    BEST_MODEL,
    CheckpointError,
    checkpoint_name,
    copy_checkpoint,
    find_logged,
    load_checkpoint,
    plain,
    set_aside_overtaken,
    with_shards,
)
from utils.runs.run_folder import refuse_other_batch
from utils.runs.weights import class_name, load_optimizer, load_state, load_weights, unwrapped
from utils.seed import derive_seed, rng_state, seed_everything, set_rng_state
from utils.untrusted import as_count

if TYPE_CHECKING:
    import torch

    from base.base_trainer import BaseTrainer
    from base.training.nonfinite import NonFiniteError

# ---- what a checkpoint holds

_SAVED_APART = ("model", "optimizer", "averaged_model", "_trackers")  # these in the state of the writer


def stateful_attributes(trainer: "BaseTrainer") -> dict[str, Any]:
    """{name: attribute} of the attributes with state_dict and load_state_dict, except the models and the optimizer."""
    return {
        name: unwrapped(value)
        for name, value in vars(trainer).items()
        if name not in _SAVED_APART and hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
    }


def measured_model(trainer: "BaseTrainer") -> "torch.nn.Module":
    """The model that validation measures and checkpoints hold: the average that a callback like EMA makes, if any."""
    return unwrapped(trainer.model) if trainer.averaged_model is None else trainer.averaged_model


def find_unsavable(trainer: "BaseTrainer") -> set[str]:
    """Names of the attributes whose state cannot be saved without pickling code; a warning names each."""
    names = set()
    for name, value in stateful_attributes(trainer).items():
        try:
            plain(value.state_dict(), name)
        except CheckpointError as error:
            trainer.logger.warning("self.%s will not survive a restart: %s", name, error)
            names.add(name)
    return names


def gather_state(trainer: "BaseTrainer", epoch: int, unsavable: Collection[str] = ()) -> dict[str, Any]:
    """Everything that must survive a restart, {name: state}, in the first process. epoch: the last complete one.

    unsavable: names of attributes to leave out.
    """
    model, measured = unwrapped(trainer.model), measured_model(trainer)
    own, *of_others = gather_to_main(_own_state(trainer, unsavable))  # with the gradients of a window
    return {
        "arch": class_name(model),
        "epoch": epoch,
        "batch": trainer.batches_done,
        "step": trainer.step,
        "validated_step": trainer.validated_step,
        "left_out": sorted(trainer.left_out),
        "state_dict": measured.state_dict(),
        **({} if measured is model else {"trained_state_dict": model.state_dict()}),
        "optimizer": trainer.optimizer.state_dict(),
        "monitor_best": trainer.mnt_best,
        "best_epoch": trainer.best_epoch,
        "not_improved_count": trainer.not_improved_count,
        **({} if trainer.stop_reason is None else {"stop_reason": trainer.stop_reason}),
        "attributes": own["attributes"]  # pyright: ignore[reportOptionalSubscript]
        | {
            key: value.state_dict()
            for key, value in stateful_attributes(trainer).items()
            if key not in unsavable and key not in own["attributes"]  # pyright: ignore[reportOptionalSubscript]
        },
        "rng": own["rng"],  # pyright: ignore[reportOptionalSubscript]
        **({"of_other_processes": of_others} if of_others else {}),
        "log": trainer.saved_log,
        "config": trainer.config.config,
    }


def _own_state(trainer, unsavable):
    """What differs from process to process: random numbers, and attributes that say so with own_by_process."""
    own = {
        name: value.state_dict()
        for name, value in stateful_attributes(trainer).items()
        if getattr(value, "own_by_process", False) and name not in unsavable
    }
    return {"rng": trainer.resume_rng or rng_state(), "attributes": own}


# ---- putting it back


def restore(trainer: "BaseTrainer", path: Path) -> dict[str, Any]:
    """Restore model, optimizer, progress and random generators; returns the states of the attributes, {name: state}.

    What the config has changed since wins over the checkpoint: an optimizer of another type starts afresh, a changed
    optimizer or lr_scheduler section resets the learning rate and the schedule, a changed loss its own state. A new
    run that starts from a checkpoint has no best value yet.
    """
    config = trainer.config
    if config.continues and path == config.resume:
        refuse_other_batch(path.parent, config.config)
    mesh = mesh_of(trainer.model)
    if path == config.resume:
        checkpoint = config.load_checkpoint(mesh)
    else:
        checkpoint = with_shards(load_checkpoint(path, shards=False), path, mesh)
    before, now = checkpoint.get("config", {}), config.config
    require_savable(before, path)
    changed = {key for key in {**before, **now} if before.get(key) != now.get(key)}
    load_weights(trainer.model, checkpoint.get("trained_state_dict", checkpoint["state_dict"]))
    if "optimizer" not in checkpoint or optimizer_types(before) != optimizer_types(now):
        trainer.logger.warning("the checkpoint holds no state of an optimizer of this type: it starts afresh")
    else:
        load_optimizer(trainer.optimizer, checkpoint["optimizer"], bool(changed & {"optimizer", "lr_scheduler"}))
    _restore_progress(trainer, checkpoint, order_of_data(before) == order_of_data(now))
    if trainer.batches_done and changed & {"loss", "metrics"}:
        trainer.logger.warning("epoch %d: its averages are partly of the loss and metrics before", trainer.start_epoch)
    if config.continues or path != config.resume:  # the same run
        _restore_best(trainer, checkpoint, before)
        if checkpoint.get("stop_reason") and before == now:
            other = "to train on, give a larger trainer.epochs, or change the config otherwise"
            trainer.stop(f"{shortened(checkpoint['stop_reason'])}; {other}")
    else:
        trainer.saved_log = {}
    if "rng" in checkpoint:
        trainer.resume_rng = _rng_of_this_process(trainer, checkpoint)
        set_rng_state(trainer.resume_rng)
    if not config.continues and trainer.start_epoch > trainer.epochs:
        raise UserError(
            f"trainer.epochs: it is {trainer.epochs}, and the checkpoint is of epoch {trainer.start_epoch - 1} "
            "already; raise it, since the count goes on"
        )
    within = f"after {trainer.batches_done} batches of epoch {trainer.start_epoch}"
    place = within if trainer.batches_done else f"epoch {trainer.start_epoch - 1}"
    trainer.logger.info("resumed from %s, %s", path, place)
    for line in differences(before, now):
        trainer.logger.info("changed since: %s", line)
    repeats = checkpoint.get("batch") and not trainer.batches_done
    reset = {"data_loader", "stream"} if repeats else set()
    reset |= {name for name, sections in _RESET_BY.items() if changed & sections}
    return {name: state for name, state in _attribute_states(checkpoint).items() if name not in reset}


# Attributes that start afresh when one of these sections of the config has changed since the checkpoint.
_RESET_BY = {"lr_scheduler": {"optimizer", "lr_scheduler"}, "criterion": {"loss"}}


def restore_attributes(trainer: "BaseTrainer", states: dict[str, Any]) -> None:
    """Give the attributes the states that a checkpoint holds, {name: state}. Raises UserError if one does not fit."""
    stateful = stateful_attributes(trainer)
    for name, state in states.items():
        if name in stateful:
            load_state(name, stateful[name], _of_this_process(name, stateful[name], state))
        else:
            trainer.logger.warning("the checkpoint holds a state of %r, which this trainer does not have", name)


def _restore_progress(trainer, checkpoint, same_data):
    """Set the place to resume at: behind the checkpoint's batch, or its epoch's beginning if the batches changed."""
    trainer.start_epoch = checkpoint.get("epoch", 0) + 1
    trainer.batches_done = checkpoint.get("batch", 0)
    trainer.step = checkpoint.get("step", 0)
    trainer.validated_step = checkpoint.get("validated_step", 0)
    try:
        left_out = {(as_count(epoch), as_count(batch_idx)) for epoch, batch_idx in checkpoint.get("left_out", ())}
    except (TypeError, ValueError):
        raise UserError("the checkpoint's 'left_out' is no list of pairs of numbers") from None
    trainer.left_out = left_out
    if trainer.batches_done and not (trainer.resumes_within_epochs and same_data):
        trained = f"its batches are no longer the same ones, and {trainer.batches_done} of them have been trained on"
        trainer.logger.warning("epoch %d starts over: %s", trainer.start_epoch, trained)
        trainer.batches_done = 0


def _restore_best(trainer, checkpoint, before):
    """Restore the last log, and the best value so far if the config before monitored the same one."""
    trainer.saved_log = checkpoint.get("log", {})
    section = before.get("trainer")
    if isinstance(section, dict) and section.get("monitor", "off") == trainer.monitor:
        trainer.mnt_best = checkpoint.get("monitor_best", trainer.mnt_best)
        trainer.best_epoch = checkpoint.get("best_epoch", 0)
        trainer.not_improved_count = checkpoint.get("not_improved_count", 0)


class _OfProcesses(list):
    """The states of an attribute that each process has its own of, by rank."""


def _attribute_states(checkpoint):
    """{name: state} of the attributes; of those that each process has its own of, an _OfProcesses."""
    of_main = _of_today(checkpoint.get("attributes", {}))
    others = [_of_today(other["attributes"], of_main) for other in _of_other_processes(checkpoint)]
    own = {name for other in others for name in other}
    states = {name: _OfProcesses([of_main.get(name, {}), *(other.get(name, {}) for other in others)]) for name in own}
    return of_main | states


def _of_today(states, of_main=None):
    """The states by today's names: earlier versions kept that of "nonfinite" in two parts."""
    states = dict(states)
    if isinstance(step_log := states.pop("step_log", None), dict) and "last_update" in step_log:
        found = states.pop("gradient_watch", (of_main or {}).get("nonfinite", {"found": []}))
        states["nonfinite"] = {**step_log, "found": found["found"]}
        if isinstance(states.get("optim_step"), dict):
            states["optim_step"] = {"lr": step_log.get("lr"), **states["optim_step"]}
    elif step_log is not None:
        states["step_log"] = step_log
    return states


def _of_other_processes(checkpoint):
    others = checkpoint.get("of_other_processes", [])
    if not all(isinstance(other, dict) and isinstance(other.get("attributes"), dict) for other in others):
        raise UserError("the checkpoint's 'of_other_processes' is no list of states")
    return others


def _of_this_process(name, target, state):
    """The state to resume this process from, given the states saved by all processes."""
    own = getattr(target, "own_by_process", False)
    if not own and not isinstance(state, _OfProcesses):
        return state
    states = state if isinstance(state, _OfProcesses) else [state]
    if own and len(states) == world_size():
        return states[rank()]
    try:
        return target.merged(states)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"the checkpoint does not fit {name!r}: {' '.join(str(error).split())}") from None


def _rng_of_this_process(trainer, checkpoint):
    """The state of the generators: what this process had, or for one that is new, seeds of its own."""
    states = [checkpoint["rng"], *(other.get("rng") for other in _of_other_processes(checkpoint))]
    if rank() < len(states):
        return states[rank()]
    seed_everything(derive_seed(trainer.torch_seed, trainer.start_epoch, trainer.batches_done, rank()))
    return rng_state()


# ---- the files of a run that resumes, and going back


def complete_last_save(trainer: "BaseTrainer") -> None:
    """Write the checkpoint of the last epoch, if a kill came between its best model and the checkpoint itself."""
    resume, epoch = trainer.config.resume, trainer.start_epoch - 1
    if not (is_main() and trainer.config.continues and epoch) or trainer.batches_done:
        return
    path = trainer.checkpoint_dir / checkpoint_name(epoch)
    due = epoch % trainer.save_period == 0 or epoch >= trainer.epochs or trainer.stop_reason
    if due and not path.exists() and not load_checkpoint(resume, shards=False).get("batch"):
        copy_checkpoint(resume, path)
        trainer.saver.newest = path


def set_later_epochs_aside(trainer: "BaseTrainer") -> None:
    """Set aside what a resumed run has saved after the place where it resumes, and bring back the best model before."""
    if not (trainer.config.continues and is_main()):
        return
    folder, logger = trainer.checkpoint_dir, trainer.logger
    names = set_aside_overtaken(folder, trainer.start_epoch - 1, trainer.batches_done)
    if names:
        logger.info("set aside as overtaken-...: %s", ", ".join(names))
    lost = not (folder / BEST_MODEL).exists()  # now, or by a run killed before it was brought back
    if lost and trainer.monitor != "off" and math.isfinite(trainer.mnt_best):
        path = find_logged(folder, trainer.mnt_metric, trainer.mnt_best)
        if path is not None:
            copy_checkpoint(path, folder / BEST_MODEL)
        logger.info(f"model_best.pth is {path.name} again" if path else "there is no model_best.pth: its epoch is gone")


def require_rollback(trainer: "BaseTrainer", error: "NonFiniteError") -> set[tuple[int, int]]:
    """Raise the error as a UserError unless the trainer may go back to its newest checkpoint, which is whole then.

    Returns the batches to leave out from now on, {(epoch, batch_idx)}.
    """
    saver = trainer.saver
    if trainer.settings.on_nonfinite != "rollback" or not error.batches:
        last = f"the last checkpoint is {saver.newest}" if saver.newest else "no checkpoint was saved yet"
        other = 'trainer.on_nonfinite: "skip" and "rollback" go on without it'
        raise UserError(f"{error}; {last}; {other}") from error
    left_out = trainer.left_out | {(trainer.epoch, batch_idx) for batch_idx in error.batches}
    if len([batch for batch in left_out if batch[0] == trainer.epoch]) > MAX_LEFT_OUT:
        raise UserError(f"{error}; {MAX_LEFT_OUT} batches of this epoch have been left out already") from error
    saver.wait()
    barrier()  # for the process that writes
    saver.forget_asked()
    trainer.logger.warning("%s: back to %s, to train on without it", error, saver.newest)
    return left_out
