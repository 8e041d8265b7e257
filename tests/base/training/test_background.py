import threading

import pytest

from base.training.background import BackgroundWriter


def test_jobs_run_in_order_one_at_a_time_and_beside_the_caller():
    done, gate = [], threading.Event()
    writer = BackgroundWriter()
    writer.submit(lambda: (gate.wait(10), done.append(1)))
    writer.check()
    assert done == []  # it has not waited
    gate.set()
    writer.submit(lambda: done.append(2))
    writer.wait()
    assert done == [1, 2] and writer.close() is None


def fail():
    raise OSError("disk full")


def test_an_error_is_raised_once_by_whatever_is_called_next():
    writer = BackgroundWriter()
    for ask in (writer.wait, lambda: writer.submit(print)):
        writer.submit(fail)
        with pytest.raises(OSError, match="disk full"):
            ask()
        writer.wait()
    writer.submit(fail)
    with pytest.raises(OSError, match="disk full"):
        for _ in range(10**7):
            writer.check()
    writer.submit(fail)
    assert str(writer.close()) == "disk full"


def test_without_a_thread_jobs_run_where_they_are_submitted():
    writer, done = BackgroundWriter(enabled=False), []
    writer.submit(lambda: done.append(threading.current_thread()))
    assert done == [threading.current_thread()]
    with pytest.raises(OSError):
        writer.submit(fail)
    writer.check()
    writer.wait()
    assert writer.close() is None


def test_an_interrupted_wait_forgets_nothing(monkeypatch):
    writer, gate = BackgroundWriter(), threading.Event()
    writer.submit(lambda: (gate.wait(10), fail()))
    result = writer._job.result

    def interrupted():
        monkeypatch.setattr(writer._job, "result", result)
        raise KeyboardInterrupt

    monkeypatch.setattr(writer._job, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.wait()
    gate.set()
    with pytest.raises(OSError, match="disk full"):
        writer.wait()


def test_after_close_jobs_run_where_they_are_submitted():
    writer, done = BackgroundWriter(), []
    assert writer.close() is None
    writer.submit(lambda: done.append(1))
    assert done == [1]
