"""Signals that ask a run to stop: remembered once, obeyed at once the second time."""

import signal

import pytest

from utils.stop_signal import StopSignal


def test_a_first_signal_is_remembered():
    with StopSignal() as stop:
        assert stop.asks() == 0
        signal.raise_signal(signal.SIGTERM)
        assert stop.asks() == signal.SIGTERM and stop.by == " by SIGTERM"


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
