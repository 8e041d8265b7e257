"""What of a trainer survives a restart: gathered for a checkpoint, and put back."""

from utils.config.files import differences, names_several
from utils.config.plain import require_savable
from utils.distributed.messages import gather_to_main
from utils.distributed.shards import mesh_of
from utils.distributed.world import rank, world_size
from utils.errors import UserError, shortened
from utils.runs.checkpoint import CheckpointError, load_checkpoint, plain, with_shards
from utils.runs.run_folder import refuse_other_batch
from utils.runs.weights import class_name, load_optimizer, load_state, load_weights, unwrapped
from utils.seed import derive_seed, rng_state, seed_everything, set_rng_state
from utils.stop_signal import unhurried
from utils.untrusted import as_count

_SAVED_APART = ("model", "optimizer", "averaged_model")


def stateful_attributes(trainer):
    """{name: attribute} of all that have state_dict and load_state_dict, besides the models and the optimizer."""
    return {
        name: unwrapped(value)
        for name, value in vars(trainer).items()
        if name not in _SAVED_APART and hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
    }


def measured_model(trainer):
    """The model that validation measures and checkpoints hold: the average that a callback like EMA makes, if any."""
    return unwrapped(trainer.model) if trainer.averaged_model is None else trainer.averaged_model


def find_unsavable(trainer, logger):
    """Names of the attributes whose state no safe file can hold; the log tells of them."""
    names = set()
    for name, value in stateful_attributes(trainer).items():
        try:
            plain(value.state_dict(), name)
        except CheckpointError as error:
            logger.warning("self.%s will not survive a restart: %s", name, error)
            names.add(name)
    return names


def restore_attributes(trainer, states, logger):
    """Give the attributes the states that a checkpoint holds, {name: state}. Raises UserError if one does not fit."""
    stateful = stateful_attributes(trainer)
    for name, state in states.items():
        if name in stateful:
            load_state(name, stateful[name], _of_this_process(name, stateful[name], state))
        else:
            logger.warning("the checkpoint holds a state of %r, which this trainer does not have", name)


@unhurried()  # the others wait here for one that still writes
def trainer_state(trainer, epoch, unsavable=()):
    """All that must survive a restart after an epoch, but for the attributes that are named unsavable."""
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
        "attributes": own["attributes"]
        | {
            key: value.state_dict()
            for key, value in stateful_attributes(trainer).items()
            if key not in unsavable and key not in own["attributes"]
        },
        "rng": own["rng"],
        **({"of_other_processes": of_others} if of_others else {}),
        "log": trainer._log,
        "config": trainer.config.config,
    }


def restore_trainer(trainer, path):
    """Restore model, optimizer, progress and random generators; attributes follow when train() starts.

    What the config has changed since wins over the checkpoint: an optimizer of another type starts anew, a
    changed optimizer or lr_scheduler section starts the learning rate and the schedule anew, a changed loss
    its own state. A run of its own starts with no best value yet.
    """
    if trainer.config.continues and path == trainer.config.resume:
        refuse_other_batch(path.parent, trainer.config.config)
    mesh = mesh_of(trainer.model)
    if path == trainer.config.resume:
        checkpoint = trainer.config.load_checkpoint(mesh)
    else:
        checkpoint = with_shards(load_checkpoint(path, shards=False), path, mesh)
    before, now = checkpoint.get("config", {}), trainer.config.config
    require_savable(before, path)
    changed = {key for key in {**before, **now} if before.get(key) != now.get(key)}
    load_weights(trainer.model, checkpoint.get("trained_state_dict", checkpoint["state_dict"]))
    if "optimizer" not in checkpoint or _type_of(before) != _type_of(now):
        trainer.logger.warning("the checkpoint holds no state of an optimizer of this type: it starts anew")
    else:
        load_optimizer(trainer.optimizer, checkpoint["optimizer"], bool(changed & {"optimizer", "lr_scheduler"}))
    _restore_progress(trainer, checkpoint, _order_of_data(before) == _order_of_data(now))
    if trainer.batches_done and changed & {"loss", "metrics"}:
        trainer.logger.warning("epoch %d: its averages are partly of the loss and metrics before", trainer.start_epoch)
    same_run = trainer.config.continues or path != trainer.config.resume
    if same_run and _section(before, "trainer").get("monitor", "off") == trainer.monitor:
        trainer.mnt_best = checkpoint.get("monitor_best", trainer.mnt_best)
        trainer.best_epoch = checkpoint.get("best_epoch", 0)
        trainer.not_improved_count = checkpoint.get("not_improved_count", 0)
    trainer._log = checkpoint.get("log", {}) if same_run else {}
    if same_run and checkpoint.get("stop_reason") and before == now:
        other = "to train on, give a larger trainer.epochs, or change the config otherwise"
        trainer.stop(f"{shortened(checkpoint['stop_reason'])}; {other}")
    trainer._to_restore = dict(checkpoint.get("attributes", {}))
    for name in {name for other in _of_other_processes(checkpoint) for name in other["attributes"]}:
        others = [other["attributes"].get(name, {}) for other in _of_other_processes(checkpoint)]
        trainer._to_restore[name] = _OfProcesses([trainer._to_restore.get(name, {}), *others])
    if checkpoint.get("batch") and not trainer.batches_done:
        trainer._to_restore = {k: v for k, v in trainer._to_restore.items() if k not in ("data_loader", "stream")}
    for name, sections in _STARTS_ANEW.items():
        if changed & sections:
            trainer._to_restore.pop(name, None)
    if "rng" in checkpoint:
        trainer._rng = _rng_of_this_process(trainer, checkpoint)
        set_rng_state(trainer._rng)
    if not trainer.config.continues and trainer.start_epoch > trainer.epochs:
        raise UserError(
            f"trainer.epochs: it is {trainer.epochs}, and the checkpoint is of epoch {trainer.start_epoch - 1} "
            "already; raise it, since the count goes on"
        )
    within = f"after {trainer.batches_done} batches of epoch {trainer.start_epoch}"
    place = within if trainer.batches_done else f"epoch {trainer.start_epoch - 1}"
    trainer.logger.info("resumed from %s, %s", path, place)
    for line in differences(before, now):
        trainer.logger.info("changed since: %s", line)


class _OfProcesses(list):
    """The states of an attribute that each process has its own of, by rank."""


def _own_state(trainer, unsavable):
    """What differs from process to process: random numbers, and attributes that say so with own_by_process."""
    own = {
        name: value.state_dict()
        for name, value in stateful_attributes(trainer).items()
        if getattr(value, "own_by_process", False) and name not in unsavable
    }
    return {"rng": trainer._rng or rng_state(), "attributes": own}


def _of_other_processes(checkpoint):
    others = checkpoint.get("of_other_processes", [])
    if not all(isinstance(other, dict) and isinstance(other.get("attributes"), dict) for other in others):
        raise UserError("the checkpoint's 'of_other_processes' is no list of states")
    return others


def _of_this_process(name, target, state):
    """The state that this process goes on with, of those of as many processes as there were."""
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
    seed_everything(derive_seed(trainer._seed, trainer.start_epoch, trainer.batches_done, rank()))
    return rng_state()


def _restore_progress(trainer, checkpoint, same_data):
    """Go on after the checkpoint's batch; or from the beginning of its epoch, if the epoch's batches are others now."""
    trainer.start_epoch = checkpoint.get("epoch", 0) + 1
    trainer.batches_done = checkpoint.get("batch", 0)
    trainer.step = checkpoint.get("step", 0)
    trainer.validated_step = checkpoint.get("validated_step", 0)
    trainer.left_out = _left_out_of(checkpoint)
    if trainer.batches_done and not (trainer.resumes_within_epochs and same_data):
        trained = f"its batches are no longer the same ones, and {trainer.batches_done} of them have been trained on"
        trainer.logger.warning("epoch %d starts over: %s", trainer.start_epoch, trained)
        trainer.batches_done = 0


# Attributes that start anew when one of these sections of the config has changed since the checkpoint.
_STARTS_ANEW = {"lr_scheduler": {"optimizer", "lr_scheduler"}, "criterion": {"loss"}}


def _left_out_of(checkpoint):
    try:
        return {(as_count(epoch), as_count(batch_idx)) for epoch, batch_idx in checkpoint.get("left_out", ())}
    except (TypeError, ValueError):
        raise UserError("the checkpoint's 'left_out' is no list of pairs of numbers") from None


def _section(config, name):
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _type_of(config):
    """The optimizer's type; {name: type} of several."""
    section = _section(config, "optimizer")
    return (
        {name: _section(section, name).get("type") for name in section}
        if names_several(section)
        else section.get("type")
    )


def _order_of_data(config):
    """What decides which samples a batch holds."""
    loader = _section(config, "data_loader")
    which = {key: value for key, value in _section(loader, "args").items() if key not in _HOW_DATA_ARE_READ}
    trainer = _section(config, "trainer")
    lengths = [trainer.get(key) for key in ("len_epoch", "limit_train_batches", "overfit_batches")]
    return config.get("seed"), lengths, loader.get("type"), which


_HOW_DATA_ARE_READ = {
    "device_resident",
    "num_workers",
    "persistent_workers",
    "pin_memory",
    "prefetch_factor",
    "timeout",
}
