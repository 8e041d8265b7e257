"""How a run ends, and what an end keeps: stops, errors, kills at the end, damaged files beside the checkpoints."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
import torch
from forked import run_forked

from base import BaseCallback
from base.training.weight_averaging import SWA
from helpers import (
    PROJECT,
    changed,
    checkpoint_names,
    metrics_rows,
    newest_state,
    run_here,
    same,
    scripted,
    tiny_config,
    tiny_trainer,
)
from parse_config import PARTS
from trainer import Trainer
from utils import UserError, read_json
from utils.runs.checkpoint import find_checkpoint, load_checkpoint


class StopsAt(BaseCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, trainer):
        if trainer.step == self.step:
            trainer.stop("enough")


class Fails(BaseCallback):
    """Fails once, at the hook of this name."""

    def __init__(self, hook, epoch, error=None):
        self.epoch, self.error = epoch, error or ZeroDivisionError("no picture")
        setattr(type(self), hook, type(self)._fail)  # hooks are found by class

    def _fail(self, trainer, log=None):
        if trainer.epoch == self.epoch and self.error:
            error, self.error = self.error, None
            raise error


def failing(hook, epoch, error=None):
    return type("Fails", (Fails,), {})(hook, epoch, error)


def resumed(trainer, config=None, **changes):
    newest, passed_over = find_checkpoint(trainer.checkpoint_dir)
    assert not passed_over
    return tiny_trainer(config or trainer.config.config, resume=newest, **changes)


# A stop is final


@pytest.mark.parametrize("step", [3, 5, 7])
def test_a_stopped_run_is_not_trained_on_by_the_same_command(tmp_path, step):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=4, verbosity=1))
    trainer._callbacks.add(StopsAt(step))
    trainer.train()
    again = resumed(trainer)
    again.train()
    assert again.stop_reason.startswith("enough; ") and again.step == trainer.step == step
    assert "nothing left to train: enough; " in (again.config.log_dir / "info.log").read_text()


@pytest.mark.parametrize("reason", ["", None, ValueError("full")])
def test_a_stop_is_one_whatever_its_reason(tmp_path, reason):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=4))
    trainer._callbacks._called["on_epoch_end"].append(("", lambda trainer, log: trainer.stop(reason)))
    trainer.train()
    again = resumed(trainer)
    again.train()
    assert trainer.epoch == 2 and again.step == trainer.step == 5


def test_a_stopped_run_goes_on_with_another_config_to_the_same_bits(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path / "a"))
    trainer._callbacks.add(StopsAt(7))
    trainer.train()
    on = resumed(trainer, config=changed(tiny_config(tmp_path / "a")))
    on.train()
    straight = tiny_trainer(tiny_config(tmp_path / "b"))
    straight.train()
    assert same(newest_state(on)["state_dict"], newest_state(straight)["state_dict"]) and on.stop_reason is None


def test_a_run_that_a_signal_ended_goes_on(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path))
    trainer._callbacks.add(failing("on_step_end", 1, SystemExit(143)))
    trainer._callbacks._called["on_step_end"] = [("", lambda t: setattr(t.stop_signal, "received", signal.SIGTERM))]
    with pytest.raises(SystemExit):
        trainer.train()
    on = resumed(trainer)
    on.train()
    assert on.step == 10


# What is done at the end is part of the run


def test_the_end_is_done_again_by_a_run_that_was_killed_in_it(tmp_path):
    def with_swa(folder):
        trainer = tiny_trainer(tiny_config(folder, epochs=3))
        trainer._callbacks.add(SWA(start="1 epoch"))
        return trainer

    straight = with_swa(tmp_path / "a")
    straight.train()
    killed = with_swa(tmp_path / "b")
    killed._callbacks._called["on_train_end"] = [("", failing("on_train_end", 4)._fail)]
    with pytest.raises(ZeroDivisionError):
        killed.train()
    on = resumed(killed, new_run=False)
    on._callbacks.add(SWA(start="1 epoch"))
    on.train()
    left, right = (load_checkpoint(t.checkpoint_dir / "swa.pth") for t in (straight, on))
    differ = {key for key in left if not same(left[key], right[key])}
    assert differ <= {"config", "attributes"}
    assert on.step == killed.step


def test_an_end_that_is_done_is_not_done_again(tmp_path):
    ends = []

    class Counts(BaseCallback):
        def on_train_end(self, trainer):
            ends.append(trainer.step)

    def counted(trainer):
        trainer._callbacks.add(Counts())
        trainer.train()
        return trainer

    first = counted(tiny_trainer(tiny_config(tmp_path)))
    for _ in range(2):
        counted(resumed(first))
    assert ends == [10] and len(read_json(first.checkpoint_dir / "environment.json")) == 3
    counted(resumed(first, config=tiny_config(tmp_path, epochs=3)))
    assert ends == [10, 15]


def test_a_start_that_dies_before_it_trains_does_not_bring_the_end_back(tmp_path):
    first = tiny_trainer(tiny_config(tmp_path))
    first.train()
    for _ in range(2):
        assert resumed(first).config.has_ended  # of starts that end here, as if killed
    longer = resumed(first, config=tiny_config(tmp_path, epochs=3))
    longer._callbacks.add(failing("on_step_end", 3))
    with pytest.raises(ZeroDivisionError):
        longer.train()
    assert not resumed(first, config=tiny_config(tmp_path, epochs=3)).config.has_ended


def test_an_error_at_the_end_of_a_stopped_run_overwrites_no_checkpoint(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=3))
    for callback in (StopsAt(8), SWA(start=0), failing("on_train_end", 2)):
        trainer._callbacks.add(callback)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    newest, _ = find_checkpoint(trainer.checkpoint_dir)
    state = load_checkpoint(newest)
    assert newest.name == "checkpoint-epoch2-batch3.pth"
    assert same(state["state_dict"], dict(trainer.model.state_dict()))  # and not the average
    assert state["stop_reason"] == "enough"


# An error loses nothing that is whole


@pytest.mark.parametrize("hook", ["on_epoch_end", "on_valid_end", "on_step_end"])
@pytest.mark.parametrize("error", [ZeroDivisionError("no picture"), UserError("a full disk of logs"), SystemExit("7")])
def test_a_run_resumes_behind_an_error_of_a_callback_to_the_same_bits(tmp_path, hook, error):
    straight = tiny_trainer(tiny_config(tmp_path / "a", epochs=3, monitor="min val_loss"))
    straight.train()
    failed = tiny_trainer(tiny_config(tmp_path / "b", epochs=3, monitor="min val_loss"))
    failed._callbacks.add(failing(hook, 2, error))
    with pytest.raises(type(error), match=str(error)):
        failed.train()
    place = "epoch2-batch1" if hook == "on_step_end" else "epoch2-batch5" if hook == "on_valid_end" else "epoch2"
    assert f"checkpoint-{place}.pth" in checkpoint_names(failed)
    on = resumed(failed)
    on.train()
    left, right = newest_state(straight), newest_state(on)
    assert all(same(left[key], right[key]) for key in ("state_dict", "optimizer", "monitor_best", "log", "step"))
    assert same(metrics_rows(straight), metrics_rows(on))
    assert same(*(load_checkpoint(t.checkpoint_dir / "model_best.pth")["state_dict"] for t in (straight, on)))


def test_an_error_of_a_callback_after_a_validation_within_an_epoch_resumes_to_the_same_bits(tmp_path):
    class NoisyLoss(torch.nn.CrossEntropyLoss):
        def forward(self, output, target):
            return super().forward(output, target) + 0 * torch.rand(1).squeeze()  # draws in validation, too

    def trainer(folder, resume=None):
        config = tiny_config(folder, validate_every_steps=2)
        return tiny_trainer(config, resume=resume, criterion=NoisyLoss())

    straight = trainer(tmp_path / "a")
    straight.train()
    failed = trainer(tmp_path / "b")
    failed._callbacks.add(failing("on_valid_end", 2))
    with pytest.raises(ZeroDivisionError):
        failed.train()
    assert failed.saver.newest.name == "checkpoint-epoch2-batch1.pth"
    on = trainer(tmp_path / "b", resume=failed.saver.newest)
    on.train()
    assert same(newest_state(straight)["state_dict"], newest_state(on)["state_dict"])


def test_an_error_that_cannot_be_followed_by_a_save_is_the_one_that_is_raised(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path))
    trainer._callbacks.add(failing("on_step_end", 2, UserError("the true reason")))
    trainer.save_points.save_within_epoch = lambda: 1 / 0
    with pytest.raises(UserError, match="the true reason"):
        trainer.train()


def test_all_errors_at_an_epoch_s_end_are_told(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, verbosity=1))
    for error in (UserError("the first"), ValueError("the second")):
        trainer._callbacks.add(failing("on_epoch_end", 1, error))
    with pytest.raises(UserError, match="the first"):
        trainer.train()
    assert "at the end of epoch 1: ValueError: the second" in (trainer.config.log_dir / "info.log").read_text()


def test_the_other_callbacks_have_their_part_in_an_epoch_whose_end_fails(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, monitor="min val_loss", save_period=5))
    trainer._callbacks._called["on_epoch_end"].insert(0, ("callbacks.0", failing("on_epoch_end", 1)._fail))
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert checkpoint_names(trainer) == ["checkpoint-epoch1.pth", "model_best.pth"]
    assert newest_state(trainer)["best_epoch"] == 1 and len(metrics_rows(trainer)) == 1


def test_an_error_in_the_midst_of_a_batch_saves_nothing_half_done(tmp_path):
    def fail_in(trainer_class):
        class Fails(trainer_class):
            def _train_batch(self, batch_idx, data, target):
                result = super()._train_batch(batch_idx, data, target)
                if self.step == 6:
                    raise ZeroDivisionError("after the update, before it is counted")
                return result

        return Fails

    trainer = tiny_trainer(tiny_config(tmp_path), trainer_class=fail_in(Trainer))
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert checkpoint_names(trainer) == ["checkpoint-epoch1.pth"]


def test_an_error_in_a_project_s_own_loop_saves_nothing_half_done(tmp_path):
    class Own(Trainer):
        def _train_epoch(self, epoch):
            if epoch == 2:
                raise ZeroDivisionError("somewhere")
            return {"loss": 0.5}

    trainer = tiny_trainer(tiny_config(tmp_path), trainer_class=Own)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert checkpoint_names(trainer) == ["checkpoint-epoch1.pth"]


def test_a_log_that_cannot_be_written_ends_the_run_once_the_epoch_is_saved(tmp_path, monkeypatch):
    trainer = tiny_trainer(tiny_config(tmp_path, verbosity=1))
    assert trainer.checkpoint_dir.exists()  # the run is open, and so is its log
    handler = next(h for h in trainer.logger.root.handlers if hasattr(h, "baseFilename"))
    handler.acquire()
    handler.stream.close()
    handler.stream = open("/dev/full", "a")  # noqa: SIM115
    handler.release()
    with pytest.raises(UserError, match=r"info.log: cannot write the log: No space left.*; epoch 1 is saved"):
        trainer.train()
    assert "checkpoint-epoch1.pth" in checkpoint_names(trainer) and len(metrics_rows(trainer)) == 1
    with contextlib.suppress(OSError):
        handler.stream.close()
    handler.stream = None


# A save that is killed between two of its files


@pytest.mark.parametrize(
    "lost", [("checkpoint-epoch2", "top-val_loss-epoch2"), ("checkpoint-epoch2",), ("top-val",), ()]
)
def test_a_save_killed_between_its_files_is_completed_when_the_run_resumes(tmp_path, lost):
    def job(folder, epochs):
        top = {"type": "SaveTopK", "args": {"monitor": "min val_loss", "k": 1}}
        return tiny_config(folder, epochs=epochs, monitor="min val_loss", keep_last=2) | {"callbacks": [top]}

    falling = scripted([0.5, 0.4, 0.3])
    straight = tiny_trainer(job(tmp_path / "a", 3), trainer_class=falling)
    straight.train()
    first = tiny_trainer(job(tmp_path / "b", 2), trainer_class=falling)
    first.train()
    assert first.best_epoch == 2
    (first.checkpoint_dir / "top-val_loss-epoch1.pth").write_bytes(b"of a save that was killed before it was deleted")
    for path in first.checkpoint_dir.glob("*.pth"):
        if path.name.startswith(lost):
            path.unlink()
    if "checkpoint-epoch2" in lost:  # and the one before, as where it was the first
        (first.checkpoint_dir / "checkpoint-epoch1.pth").unlink()
    newest, _ = find_checkpoint(first.checkpoint_dir)
    on = tiny_trainer(job(tmp_path / "b", 3), resume=newest, trainer_class=falling)
    on.train()
    assert set(checkpoint_names(on)) | {"checkpoint-epoch1.pth"} == set(checkpoint_names(straight)) | {
        "checkpoint-epoch1.pth"
    }
    left, right = newest_state(straight), newest_state(on)
    assert same(left["attributes"]["_callbacks"], right["attributes"]["_callbacks"])
    assert same(left["state_dict"], right["state_dict"])


# Files beside the checkpoints


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "epoch,loss\nx,1\n", "\0" * 10])
@pytest.mark.parametrize("file", ["metrics.csv", "config.json", "environment.json"])
def test_a_damaged_file_beside_checkpoints_keeps_no_run_from_resuming(tmp_path, file, content):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=2))
    trainer.train()
    folder = trainer.config.log_dir if file == "metrics.csv" else trainer.checkpoint_dir
    (folder / file).write_text(content)
    on = resumed(trainer, config=tiny_config(tmp_path, epochs=3))
    on.train()
    assert on.step == 15 and metrics_rows(on)[-1]["epoch"] == "3"
    assert isinstance(read_json(trainer.checkpoint_dir / "config.json"), dict)
    assert read_json(trainer.checkpoint_dir / "environment.json")[-1]["ended"]


def test_a_run_without_its_environment_json_is_still_a_run(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, epochs=2))
    trainer.train()
    (trainer.checkpoint_dir / "environment.json").unlink()
    on = resumed(trainer, config=tiny_config(tmp_path, epochs=3))
    assert on.config.continues and on.checkpoint_dir == trainer.checkpoint_dir


# As a user types it


@pytest.mark.slow
def test_a_script_that_builds_its_own_loader_ends_well(tmp_path):
    parts = {name: part for name, part in PARTS.items() if name != "data_loader"}
    trainer = tiny_trainer(tiny_config(tmp_path, verbosity=1))
    trainer.config.parts = parts
    trainer.train()
    assert "test   python test.py" in (trainer.config.log_dir / "info.log").read_text()


def unprintable(where):
    """An open file that takes nothing: of a full disk, or a pipe that nobody reads."""
    if where == "> /dev/full":
        return open("/dev/full", "w")
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


@pytest.mark.slow
@pytest.mark.parametrize("where", [">&-", "> /dev/full", "| true"])
def test_training_goes_on_where_nothing_can_be_printed_and_says_so_once(tmp_path, where):
    job = "train.py -c config.json --set trainer.epochs=2 --set trainer.len_epoch=2 --set trainer.tensorboard=false"
    job += f" --set trainer.save_dir={tmp_path}"
    if where == ">&-":  # python itself begins without it
        done = subprocess.run(f"{sys.executable} {job} >&-", shell=True, cwd=PROJECT, capture_output=True, text=True)
    else:
        with unprintable(where) as output:
            done = run_forked(*job.split(), output=output)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("nothing more is printed on standard output") == 1
    (log,) = tmp_path.glob("log/*/*/info.log")
    text = log.read_text()
    assert text.count("nothing more is printed") == 1 and "done: 2 epochs" in text


@pytest.mark.command
def test_auto_says_that_a_stopped_run_is_done_and_ends_with_0(tmp_path):
    config = {"trainer.save_dir": str(tmp_path), "trainer.epochs": 3, "trainer.len_epoch": 2}
    stops = '[{"type": "EarlyStopping", "args": {"monitor": "min val_loss", "patience": 9, "target": 99.0}}]'
    sets = [part for key, value in config.items() for part in ("--set", f"{key}={value}")]
    job = ["train.py", "-c", "config.json", "-r", "auto", *sets, "--set", f"callbacks={stops}"]
    run_forked(*job)
    told = run_here(*job).stdout
    assert "nothing left to train: val_loss is" in told and "raise trainer.epochs" in told
    told = run_here(*job[:-2], "--set", "trainer.epochs=2").stdout
    assert "done: 2 epochs" in told


def test_what_torch_draws_at_the_end_continues_the_last_epoch_s_numbers(tmp_path):
    drawn = []

    class Draws(BaseCallback):
        def on_train_end(self, trainer):
            drawn.append(torch.rand(1).item())
            if len(drawn) == 1:
                raise ZeroDivisionError

    trainer = tiny_trainer(tiny_config(tmp_path))
    trainer._callbacks.add(Draws())
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    again = resumed(trainer)
    again._callbacks.add(Draws())
    again.train()
    assert drawn[0] == drawn[1]


def test_a_trainer_that_has_trained_is_not_trained_again_and_keeps_its_files(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path))
    trainer.train()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    again = "^this trainer has trained already, until epoch 2; build another one; ConfigParser.from_file"
    with pytest.raises(UserError, match=again + rf'.*resume="{trainer.checkpoint_dir}"\) continues its run$'):
        trainer.train()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}


def test_a_trainer_stopped_in_a_notebook_is_continued_from_its_file(tmp_path):
    class Interrupts(BaseCallback):
        def on_step_end(self, trainer):
            if trainer.step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    straight = tiny_trainer(tiny_config(tmp_path / "a"))
    straight.train()
    stopped = tiny_trainer(tiny_config(tmp_path / "b"))
    stopped.add_callback(Interrupts())
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    with pytest.raises(UserError, match="until 3 batches of epoch 1; build another one; "):
        stopped.train()
    resumed_trainer = tiny_trainer(tiny_config(tmp_path / "b"), resume=find_checkpoint(stopped.checkpoint_dir)[0])
    resumed_trainer.train()
    assert same(newest_state(resumed_trainer)["state_dict"], newest_state(straight)["state_dict"])
