"""What goes wrong in one process of several ends all, soon and with its cause; nothing makes the others wait."""

import contextlib
import logging
import math
import os
import signal
import sys
import threading
import time

import pytest
import torch
from killed import set_trap
from worlds import PATIENCE, in_served_world, in_world, lines_of, results, small_job, statuses, train

import utils.runs.saver as checkpoint_saver
from base import BaseCallback, BaseDataLoader
from base.base_callback import CallbackList
from base.training.callbacks import TimeLimit
from helpers import TinyData, tiny_config, tiny_model, tiny_trainer
from logger import setup_logging
from utils import UserError
from utils.distributed import process_group
from utils.distributed.messages import Agreement
from utils.distributed.parallel import ddp
from utils.distributed.world import gather, gather_to_main, joined, process_device, rank
from utils.runs.checkpoint import CheckpointError

pytestmark = pytest.mark.slow  # they start processes

# A process that is gone


def killed_at(config, victim, kind, count):
    if rank() == victim:
        set_trap(kind, count)
    train("-c", config)


@pytest.mark.parametrize(
    ("size", "victim", "kind", "count"), [(2, 1, "step", 5), (3, 2, "valid", 2), (2, 1, "step", 1)]
)
def test_when_a_process_is_killed_one_line_names_it_and_where_the_first_process_was(
    tmp_path, size, victim, kind, count
):
    ends = in_world(size, killed_at, small_job(tmp_path), victim, kind, count, patience=PATIENCE, flushes=True)
    assert ends[victim].status == -signal.SIGKILL
    assert all(end.status == 1 for end in ends if end is not ends[victim])
    (line,) = lines_of(ends[0])
    assert f"lost contact with rank {victim}; rank 0 was " in line and "-r auto" in line
    assert "batch" in line or count == 1
    assert not any("Traceback" in end.output for end in ends)
    assert not any(lines_of(end) for end in ends[1:])


def test_the_others_say_where_they_were_when_the_first_process_is_killed(tmp_path):
    ends = in_world(2, killed_at, small_job(tmp_path), 0, "step", 5, patience=PATIENCE)
    assert statuses(ends) == [-signal.SIGKILL, 1]
    (line,) = lines_of(ends[1])
    assert line.startswith("error: rank 1: lost contact with the others: ") and "in epoch 2 after batch 1" in line


def sleeps(config):
    import base.training.optim_step

    step, calls = base.training.optim_step.OptimStep.step, []

    def slow(*args, **kwargs):
        calls.append(1)
        if len(calls) == 5 and rank() == 1:
            time.sleep(6)
        return step(*args, **kwargs)

    base.training.optim_step.OptimStep.step = slow
    train("-c", config)


def test_a_time_out_names_who_is_missing_and_where_the_waiting_process_was(tmp_path):
    ends = in_world(2, sleeps, small_job(tmp_path, parallel={"timeout_seconds": 3}), patience=PATIENCE)
    assert statuses(ends) == [1, 1]
    (line,) = lines_of(ends[0])
    told = "waited 3 seconds (parallel.timeout_seconds) in vain for rank 1; rank 0 was in epoch 2 after batch 1; resume"
    assert told in line
    assert not any("Traceback" in end.output for end in ends)


def ends_elsewhere(how):
    """Rank 2, and rank 1 too if it is killed, end in epoch 1; rank 0 has begun epoch 2 and waits for them."""
    with joined({"device": "cpu"}):
        agreement = Agreement()
        for batches_done in range(1, 4):
            agreement(0, place=(1, batches_done))
        if rank() == 0:
            for batches_done in range(1, 31):  # between two rounds
                agreement._steps_left = 9
                agreement(0, place=(2, batches_done))
        elif how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif rank() == 2:
            raise ZeroDivisionError("of rank 2")
        gather(None)


def test_the_place_of_a_killed_process_is_not_known_so_the_reporter_s_is_named(tmp_path):
    ends = in_served_world(3, ends_elsewhere, "killed")
    (line,) = lines_of(ends[0])
    told = "error: lost contact with rank 1 and rank 2; rank 0 was in epoch 2 after batch 30; resume"
    assert line.startswith(told)


def test_a_process_that_ends_with_an_error_is_named_with_its_own_place(tmp_path):
    ends = in_served_world(3, ends_elsewhere, "error")
    (line,) = lines_of(ends[0])
    assert line.startswith("error: rank 2 has ended in epoch 1 after batch 3 (ZeroDivisionError: of rank 2), and with")


def signalled_within_a_save(folder):
    """Train; the first process's first save takes some seconds, and a signal comes to all within it."""
    save, saver, timers = checkpoint_saver.save_checkpoint, checkpoint_saver.CheckpointSaver.save, []

    def slow(state, path):
        time.sleep(4)
        checkpoint_saver.save_checkpoint = save
        return save(state, path)

    def signalled(self, state, names):
        if not timers:
            timers.append(threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)))
            timers[0].start()
        return saver(self, state, names)

    checkpoint_saver.save_checkpoint, checkpoint_saver.CheckpointSaver.save = slow, signalled
    with pytest.raises(SystemExit) as ended:
        tiny_run(folder, save_every_steps=2)
    return ended.value.code


def test_a_signal_within_a_long_save_waits_for_it(tmp_path):
    assert results(in_served_world(2, signalled_within_a_save, tmp_path, flushes=True)) == [143, 143]
    assert list(tmp_path.rglob("*.pth"))


def signalled_after_the_last_step(folder):
    act = OnlyThere("on_train_end", 1, lambda trainer: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(3)))
    return tiny_run(folder, [act])[0]


def test_a_signal_after_the_last_step_lets_the_run_end(tmp_path):
    assert results(in_served_world(2, signalled_after_the_last_step, tmp_path)) == [15, 15]


# What one process alone meets


class OnlyThere(BaseCallback):
    """At the hook of this name, at the count-th call, the process of rank 1 alone does what is asked for."""

    def __init__(self, hook, count, act):
        self.count, self.act = count, act
        setattr(type(self), hook, type(self)._called)  # hooks are found by class

    def _called(self, trainer, log=None):
        self.count -= 1
        if rank() == 1 and self.count == 0:
            self.act(trainer)


def _raise(error):
    raise error


ACTS = {
    "stops after a step": ("on_step_end", 3, lambda trainer: trainer.stop("of a step")),
    "stops at an epoch's end": ("on_epoch_end", 1, lambda trainer: trainer.stop("of an epoch")),
    "stops before the first batch": ("on_train_start", 1, lambda trainer: trainer.stop("of nothing")),
    "stops after a validation": ("on_valid_end", 1, lambda trainer: trainer.stop("of a validation")),
    "saves by a name": ("on_epoch_end", 1, lambda trainer: trainer.save_as("mine.pth")),
    "is told to end": ("on_step_end", 3, lambda trainer: os.kill(os.getpid(), signal.SIGTERM)),
    "is told to end too early": ("on_train_start", 1, lambda trainer: os.kill(os.getpid(), signal.SIGTERM)),
    "has an error": ("on_step_end", 3, lambda trainer: _raise(ZeroDivisionError("of rank 1"))),
    "leaves": ("on_step_end", 3, lambda trainer: sys.exit()),
    "meets a mistake": ("on_step_end", 3, lambda trainer: _raise(UserError("here: a mistake of the user's"))),
    "meets a mistake at an epoch's end": ("on_epoch_end", 1, lambda trainer: _raise(UserError("here: a mistake"))),
}


def tiny_run(folder, callbacks=(), dataset=None, batch_size=8, joins=True, model=None, **settings):
    """Train the tiny job in this world; (steps, why it stopped, names of what it saved)."""
    config = tiny_config(folder, **{"epochs": 3, "save_period": 5, **settings}) | {"device": "cpu"}
    with joined(config) if joins else contextlib.nullcontext():
        trainer = tiny_trainer(
            config,
            model=ddp(model or tiny_model(), torch.device("cpu")),
            loader_class=lambda data, _, *others: BaseDataLoader(dataset or data, batch_size, *others),
        )
        trainer._callbacks = CallbackList([*callbacks, *trainer._callbacks.callbacks])
        saved, save = [], trainer.saver.save
        trainer.saver.save = lambda state, names: (saved.extend(names), save(state, names))[1]
        trainer.train()
        return trainer.step, trainer.stop_reason, saved


def acting(folder, act):
    return tiny_run(folder, [OnlyThere(*ACTS[act])])


@pytest.mark.parametrize("act", [act for act in ACTS if act.startswith(("stops", "saves"))])
def test_what_one_process_decides_all_do(tmp_path, act):
    ends = results(in_served_world(2, acting, tmp_path, act))
    assert ends[0] == ends[1]
    step, reason, files = ends[0]
    if act.startswith("stops"):
        assert reason.startswith("of ") and step < 15
        assert files or step == 0
    else:
        assert step == 15 and files == ["checkpoint-epoch3.pth"]  # the first process alone says what is saved


def test_one_process_that_is_told_to_end_ends_all_with_a_checkpoint(tmp_path):
    ends = in_served_world(2, acting, tmp_path, "is told to end", flushes=True)
    assert statuses(ends) == [143, 143]
    assert "resume with: python train.py -r" in ends[0].output
    assert list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize(
    ("act", "status", "told"),
    [
        ("has an error", 1, "(ZeroDivisionError: of rank 1), and with it the run"),
        ("meets a mistake", 2, "error: rank 1: callbacks.0: here: a mistake of the user's"),
        ("meets a mistake at an epoch's end", 2, "error: rank 1: callbacks.0: here: a mistake"),
    ],
)
def test_an_error_of_one_process_ends_all_and_is_told_once(tmp_path, act, status, told):
    ends = in_served_world(2, acting, tmp_path, act)
    assert statuses(ends) == [status, status]
    output = "".join(end.output for end in ends)
    assert output.count(told) == 1
    assert output.count("Traceback") == ("error" in act)
    (log,) = tmp_path.rglob("info.log")
    assert ("ERROR run: rank 1: Traceback" in log.read_text()) == ("error" in act)
    assert log.read_text().count(told.removeprefix("error: ")) == 1


def test_a_run_that_one_process_leaves_has_not_ended_well(tmp_path):
    ends = in_served_world(2, acting, tmp_path, "leaves")
    assert statuses(ends) == [1, 0]
    assert lines_of(ends[0])[0].startswith("error: rank 1 has ended in epoch 1 after batch")


def test_a_signal_to_one_process_before_the_first_batch_is_told_too(tmp_path):
    ends = in_served_world(2, acting, tmp_path, "is told to end too early")
    assert statuses(ends) == [143, 143]
    (line,) = [line for end in ends for line in lines_of(end)]
    assert line.startswith("error: rank 1 has ended before the first epoch (status 143), and with it the run; ")


def on_the_device_of_the_command_line():
    with joined({"device": "cuda"}, device="cpu"):
        return rank()


def test_the_command_line_s_device_wins_over_the_config_s():
    assert results(in_world(2, on_the_device_of_the_command_line)) == [0, 1]


def on_another_kind():
    process_group.process_device = lambda n_gpu, name: torch.device(("cpu", "meta")[rank()])
    try:
        with joined({}):
            pass
    except UserError as error:
        return str(error)


def test_processes_on_other_kinds_of_devices_do_not_wait_for_each_other():
    first, second = results(in_served_world(2, on_another_kind))
    assert first == "device: rank 1 is on meta, and rank 0 on cpu; use one kind for all"
    assert second == "device: rank 0 is on cpu, and rank 1 on meta; use one kind for all"


def warned(folder):
    with joined({}):
        setup_logging(folder)
        logger = logging.getLogger("a test")
        logger.warning("it is so")
        gather(None)
        if rank() == 1:
            logger.warning("it is so")


def test_what_the_first_process_has_warned_of_once_another_one_may_warn_of_again(tmp_path):
    results(in_world(2, warned, tmp_path))
    lines = (tmp_path / "info.log").read_text().splitlines()
    assert [line.partition("a test: ")[2] for line in lines] == ["it is so", "rank 1: it is so"]


class Spoilt(TinyData):
    """A sample that is nan, or that cannot be read."""

    def __init__(self, index, error=None):
        super().__init__()
        self.index, self.error = index, error

    def __getitem__(self, index):
        if index == self.index and self.error:
            raise self.error
        features, label = super().__getitem__(index)
        return features * float("nan") if index == self.index else features, label


def spoilt(folder, error=None, **settings):
    return tiny_run(folder, dataset=Spoilt(7, error), **settings)


def test_a_sample_that_one_process_cannot_read_ends_all(tmp_path):
    ends = in_served_world(2, spoilt, tmp_path, OSError("no such picture"))
    assert statuses(ends) == [2, 2]
    assert "".join(end.output for end in ends).count("error: ") == 1
    assert sum("sample 7: OSError: no such picture" in end.output for end in ends) == 1


def nonfinite(folder, how):
    return spoilt(folder, on_nonfinite=how, log_step=1)


@pytest.mark.parametrize(("how", "steps"), [("skip", 15), ("rollback", 12)])
def test_a_nan_in_one_process_is_left_out_by_all(tmp_path, how, steps):
    ends = results(in_served_world(2, nonfinite, tmp_path, how))
    assert ends[0] == ends[1] and ends[0][0] == steps
    assert "checkpoint-epoch3.pth" in ends[0][2]


def test_a_nan_in_one_process_stops_all_and_is_told_once(tmp_path):
    ends = in_served_world(2, nonfinite, tmp_path, "stop")
    assert statuses(ends) == [2, 2]
    output = "".join(end.output for end in ends)
    assert output.count("error: ") == 1 and "the loss is nan; samples" in output


def full_disk(folder, async_save):
    def refuse(state, path, note=b""):
        raise CheckpointError(f"{path}: cannot save the checkpoint: No space left on device")

    checkpoint_saver.save_checkpoint = refuse
    return tiny_run(folder, save_period=1, async_save=async_save)


@pytest.mark.parametrize("async_save", [False, True])
def test_a_save_that_fails_ends_all(tmp_path, async_save):
    ends = in_served_world(2, full_disk, tmp_path, async_save, flushes=True)
    assert statuses(ends) == [2, 2]
    output = "".join(end.output for end in ends)
    assert output.count("error: ") == 1 and "No space left on device" in output


def limited(folder, settings, max_time):
    return tiny_run(folder, [TimeLimit(max_time)] if max_time else [], **settings)


@pytest.mark.parametrize(
    ("settings", "max_time", "saves"),
    [
        ({"epochs": 10**6, "save_period": 10**6}, "00:00:01", 1),
        ({"save_every_minutes": 1e-6}, None, 3),
        ({"validate_every_steps": 2, "monitor": "min val_loss"}, None, 1),
        ({"save_every_steps": 2, "async_save": True}, None, 7),
    ],
)
def test_what_goes_by_time_or_by_steps_is_done_by_all_together(tmp_path, settings, max_time, saves):
    ends = results(in_served_world(2, limited, tmp_path, settings, max_time))
    assert ends[0] == ends[1]
    assert len(ends[0][2]) >= saves


SIZES = range(5, 55)


def uneven(folder):
    """Steps of a run on each number of samples; the last batches have fewer samples than there are processes."""
    steps = []
    with joined(tiny_config(folder) | {"device": "cpu"}):
        for size in SIZES:
            dataset = torch.utils.data.Subset(TinyData(), [i % 50 for i in range(size)])
            settings = {"epochs": 1, "save_period": 1, "monitor": "min val_loss", "model": torch.nn.Linear(4, 3)}
            steps.append(tiny_run(folder / str(size), dataset=dataset, batch_size=3, joins=False, **settings)[0])
    return steps


@pytest.mark.parametrize("size", [2, 3])
def test_no_number_of_samples_makes_processes_wait(tmp_path, size):
    ends = results(in_world(size, uneven, tmp_path, patience=90))
    assert len(ends[0]) == 50
    assert ends == [[math.ceil((samples - int(0.2 * samples)) / 3) for samples in SIZES]] * size


ENDS = {
    "a mistake": (UserError("here: a mistake"), 2, "error: rank 1: here: a mistake"),
    "an error": (ZeroDivisionError("of rank 1"), 1, "ZeroDivisionError: of rank 1"),
    "Ctrl-C": (KeyboardInterrupt(), 130, "buffered"),
    "a status": (SystemExit(7), 7, "buffered"),
    "a text": (SystemExit("goodbye"), 1, "goodbye"),
}


def ends_as_on_a_gpu(output, what):
    """An end in the second process where to leave the group never ends; output: a file for what it writes."""
    process_group._on_gpu = lambda: True
    torch.distributed.destroy_process_group = lambda: time.sleep(60)
    with (
        open(f"{output}{rank()}", "w") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
        joined({"device": "cpu"}),
    ):
        print("buffered")
        if rank() == 1:
            raise ENDS[what][0]
        torch.distributed.all_reduce(torch.ones(1))


@pytest.mark.parametrize("what", ENDS)
def test_an_end_with_gpus_waits_for_no_kernel_and_loses_no_text(tmp_path, what):
    _, status, told = ENDS[what]
    ends = in_served_world(2, ends_as_on_a_gpu, tmp_path / "output", what)
    assert statuses(ends) == [status, status]
    output = (tmp_path / "output1").read_text()
    assert output.startswith("buffered\n") and told in output
    assert (tmp_path / "output0").read_text().startswith("buffered\n")


def device_of_process():
    torch.cuda.device_count = lambda: 2
    os.environ.pop("LOCAL_RANK")
    with pytest.raises(UserError) as raised:
        process_device(1, "cuda")
    return str(raised.value)


def test_a_process_that_does_not_know_its_gpu_says_so_in_one_line():
    (line, _) = results(in_world(2, device_of_process))
    assert line == "LOCAL_RANK: not set, and it says which GPU is whose; start with torchrun, which sets it"


def gathered():
    with joined({"device": "cpu"}):
        return gather_to_main({"of": rank(), "tensor": torch.full((2,), rank())})


def test_what_the_first_process_gathers_it_alone_has():
    first, *others = results(in_world(3, gathered))
    assert [one["of"] for one in first] == [int(one["tensor"][0]) for one in first] == [0, 1, 2]
    assert [[one["of"] for one in other] for other in others] == [[1], [2]]
