"""pace.csv: the time of each epoch, also of one that was trained in several parts."""

import types

from base import BaseCallback
from helpers import tiny_config, tiny_trainer
from logger.pace import EpochClock, read_pace


class Ticks(BaseCallback):
    """A clock that each optimizer step advances by a second; it stops the run at a step, and notes the steps."""

    def __init__(self, now, stop_at=None):
        self.now, self.stop_at = now, stop_at

    def on_step_end(self, trainer):
        self.now.append(self.now[-1] + 1.0)
        if trainer.step == self.stop_at:
            trainer.stop("for a test")


def lines_of(folder):
    return (folder / "pace.csv").read_text().splitlines()[1:]


def test_an_epoch_that_was_stopped_within_has_the_time_of_all_its_parts(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("logger.pace.time", types.SimpleNamespace(perf_counter=lambda: now[-1]))
    config, resume = tiny_config(tmp_path, verbosity=1), None
    for stop_at in (7, 9, None):  # of 2 epochs of 5 steps
        trainer = tiny_trainer(config, resume)
        trainer.add_callback(Ticks(now, stop_at))
        trainer.train()
        now.append(now[-1] + 1000)  # between the parts
        resume, config = trainer.saver.newest, config | {"description": f"after {stop_at}"}  # else it stays stopped
    log_dir = trainer.config.log_dir
    assert lines_of(log_dir) == ["1,5,5", "2,2,2", "2,4,4", "2,5,5"]
    assert read_pace(log_dir) == {1: (5.0, 5), 2: (5.0, 5)}
    assert "epoch 2/2  5.0 s" in capsys.readouterr().out


def test_a_part_that_is_trained_again_is_not_counted_twice(tmp_path, monkeypatch):
    now = [10.0]
    monkeypatch.setattr("logger.pace.time", types.SimpleNamespace(perf_counter=lambda: now[-1]))
    clock = EpochClock()
    clock.record(1.0, step=1)  # not started: nothing to record
    clock.start(tmp_path, 3, batches_done=0, step=100)
    for batches, seconds in ((2, 1.0), (4, 3.0)):
        clock.record(seconds, step=100 + batches)
    clock.start(tmp_path, 3, batches_done=3, step=103)  # a checkpoint between the two lines
    now.append(14.0)
    clock.record(clock.seconds, step=108)
    assert lines_of(tmp_path)[2:] == ["3,5,7"]
    clock.start(tmp_path, 3, batches_done=0, step=100)
    now.append(15.0)
    clock.record(clock.seconds, step=101)
    assert read_pace(tmp_path) == {3: (1.0, 1)}


def test_a_table_that_cannot_be_written_is_a_warning_and_the_run_ends_as_usual(tmp_path, capsys):
    config = tiny_config(tmp_path)
    trainer = tiny_trainer(config)
    (trainer.config.log_dir / "pace.csv").mkdir()
    trainer.add_callback(Ticks([0.0], stop_at=7))  # within the second epoch
    trainer.train()
    assert trainer.saver.newest.is_file() and trainer.step == 7
    assert capsys.readouterr().out.count("pace.csv: cannot be written: ") == 2
    assert (trainer.config.log_dir / "info.log").read_text().count("WARNING") == 2
