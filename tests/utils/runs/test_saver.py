"""CheckpointSaver in the background: one save at a time, beside the caller, whose error is raised once."""

import logging
import threading

import pytest

import utils.runs.saver
from utils.runs.saver import CheckpointSaver

STATE = {"epoch": 1, "batch": 0, "state_dict": {}, "config": {}}


@pytest.fixture
def written(monkeypatch):
    """Names of the files written, while the event `gate` is set; the write of a name in `failing` fails."""

    class Written(list):
        gate, failing = threading.Event(), set()

    names = Written()

    def write(state, path):
        names.gate.wait(10)
        if path.name in names.failing:
            raise OSError("disk full")
        names.append(path.name)

    monkeypatch.setattr(utils.runs.saver, "save_checkpoint", write)
    names.gate.set()
    return names


def test_saves_run_in_order_one_at_a_time_and_beside_the_caller(tmp_path, written):
    saver = CheckpointSaver(tmp_path, in_background=True)
    written.gate.clear()
    saver.save(STATE, ["a.pth"])
    saver.check()
    assert written == []  # it has not waited
    written.gate.set()
    saver.save(STATE, ["b.pth"])
    saver.wait()
    assert written == ["a.pth", "b.pth"]


def test_an_error_is_raised_once_by_whatever_is_called_next(tmp_path, written):
    saver = CheckpointSaver(tmp_path, in_background=True)
    written.failing = {"bad.pth"}
    for ask in (saver.wait, lambda: saver.save(STATE, ["good.pth"])):
        saver.save(STATE, ["bad.pth"])
        with pytest.raises(OSError, match="disk full"):
            ask()
        saver.wait()
    saver.save(STATE, ["bad.pth"])
    with pytest.raises(OSError, match="disk full"):
        for _ in range(10**7):
            saver.check()


def test_an_error_that_was_not_raised_is_logged_at_the_end(tmp_path, written, caplog):
    saver = CheckpointSaver(tmp_path, in_background=True)
    written.failing = {"bad.pth"}
    saver.save(STATE, ["bad.pth"])
    saver.close(logging.getLogger("saver"))
    assert "disk full" in caplog.text


def test_without_a_thread_and_after_close_saves_are_written_where_they_are_asked_for(tmp_path, written):
    saver = CheckpointSaver(tmp_path)
    saver.save(STATE, ["a.pth"])
    assert written == ["a.pth"]
    written.failing = {"bad.pth"}
    with pytest.raises(OSError, match="disk full"):
        saver.save(STATE, ["bad.pth"])
    saver.wait()
    closed = CheckpointSaver(tmp_path, in_background=True)
    closed.close(None)
    closed.save(STATE, ["b.pth"])
    assert written == ["a.pth", "b.pth"]


def test_an_interrupted_wait_forgets_nothing(tmp_path, written, monkeypatch):
    saver = CheckpointSaver(tmp_path, in_background=True)
    written.failing = {"bad.pth"}
    written.gate.clear()
    saver.save(STATE, ["bad.pth"])
    result = saver._job.result

    def interrupted():
        monkeypatch.setattr(saver._job, "result", result)
        raise KeyboardInterrupt

    monkeypatch.setattr(saver._job, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        saver.wait()
    written.gate.set()
    with pytest.raises(OSError, match="disk full"):
        saver.wait()
