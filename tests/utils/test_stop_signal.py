"""Signals that ask a run to stop: remembered once, obeyed at once the second time."""

import signal

import pytest
import torch.distributed

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
