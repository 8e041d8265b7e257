"""Signals that ask a run to stop: remembered once, obeyed at once the second time."""

import signal

import pytest
import torch.distributed

from helpers import PROJECT, run
from utils.distributed import messages
from utils.stop_signal import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_first_signal_is_remembered(number):
    with StopSignal() as stop:
        assert stop.asks() == 0
        signal.raise_signal(number)
        assert stop.asks() == number and stop.by == f" by {number.name}"


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.asks() == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_what_follows_ctrl_c_ends_the_run_at_once_and_by_ctrl_c(second):
    """A launcher passes a second Ctrl-C on as SIGTERM."""
    with StopSignal() as stop:
        stop.asks()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)
        assert stop.by == " by Ctrl-C"


def test_sigterm_twice_leaves_time_to_save():
    with StopSignal() as stop:
        stop.asks()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.asks() == signal.SIGTERM


def test_ctrl_c_and_a_launcher_that_is_killed_then_leave_time_to_save(monkeypatch):
    monkeypatch.setattr(messages, "world_size", lambda: 2)
    monkeypatch.setattr(messages, "_launcher", -1)
    sent = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda answers, *args, **kwargs: sent.append(answers.tolist()))
    with StopSignal() as stop:
        stop.asks()
        signal.raise_signal(signal.SIGINT)
        messages.Agreement()(stop.asks())
        assert [asked for asked, _ in sent] == [signal.SIGINT]


SCRIPT = """
import multiprocessing, os, sys
import utils.stop_signal

def groups(_):
    return os.getpgid(0), os.getpgid(os.getppid())

if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["utils.stop_signal"])  # Python 3.14 preloads all that the script imports
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        worker, parent = pool.map(groups, [0])[0]
    print([worker == os.getpgid(0), parent == os.getpgid(0)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [None, "0"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_several_processes_are_not_in_the_group_that_a_launcher_signals(method, rank, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run("script.py", method, cwd=tmp_path)
    stay = rank is None
    assert done.stdout == f"{[stay, stay or method != 'forkserver']}\n"


TRACKED = """
import os, signal
from base.data.seeded import SeededLoader
from utils.stop_signal import StopSignal

if __name__ == "__main__":
    os.setpgid(0, 0)
    with StopSignal() as stop:
        stop.asks()
        batches = iter(SeededLoader(list(range(9)), num_workers=1, multiprocessing_context="spawn"))
        next(batches)
        os.killpg(0, signal.SIGUSR1)
        print(len(list(batches)), stop.by)
"""


@pytest.mark.slow
def test_a_signal_to_the_group_ends_neither_spawned_workers_nor_the_tracker_of_resources(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("RANK", "0")
    (tmp_path / "script.py").write_text(TRACKED)
    done = run("script.py", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("8  by SIGUSR1\n", "")
