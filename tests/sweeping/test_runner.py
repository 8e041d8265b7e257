"""The loop of a sweep, with a study and trials that are made up."""

import os
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from sweeping import runner
from sweeping.plan import Plan
from sweeping.runner import LiveLine, Sweep
from sweeping.shared_study import Counts
from sweeping.space import Space, parse_dimension

CONFIG = {"trainer": {"epochs": 10}}


@pytest.fixture
def study():
    made = Mock(patiently=lambda function, *args: function(*args), best_so_far=lambda plan: [])
    made.counts.return_value = Counts(1, 0, 0, 1)
    made.get.return_value = SimpleNamespace(intermediate_values={})
    return made


def make_sweep(study, **settings):
    settings = settings or {"trials": 3}
    plan = Plan.model_validate({"space": {"a": "0..1"}, "objectives": ["max score"], **settings})
    return Sweep(study, plan, Space({"a": parse_dimension("a", "0..1")}), CONFIG, Mock(), 1, LiveLine())


def make_run(rows, epochs=10, overs=(True,)):
    overs = iter(overs)
    return Mock(settings={"trainer.epochs": epochs}, is_stopping=False, rows=lambda: rows, is_over=lambda: next(overs))


def test_an_epoch_without_the_objective_is_not_reported(study):
    sweep, trial = make_sweep(study), Mock(number=0)
    sweep._runs[0] = trial, make_run([{"epoch": 1.0, "loss": 3.0}, {"epoch": 2.0, "score": 0.5}]), 0
    sweep._report(0)
    assert [call.args for call in trial.report.call_args_list] == [(0.5, 2)]


def test_a_trial_at_the_end_of_its_own_epochs_is_not_pruned(study):
    sweep, trial = make_sweep(study), Mock(number=0)
    trial.should_prune.return_value = True
    for epochs, prunes in ((3, True), (2, False)):
        sweep._runs[0] = trial, make_run([{"epoch": 2.0, "score": 0.5}], epochs), 0
        assert sweep._report(0) is prunes


def test_an_idle_sweep_does_not_ask_for_all_trials_at_each_turn(study):
    sweep = make_sweep(study)
    assert not any(sweep._is_over() for _ in range(20))
    assert study.counts.call_count == 1


def test_trials_are_kept_while_they_save(study, monkeypatch, capsys):
    monkeypatch.setattr(runner, "BEAT_SECONDS", 0.0)
    sweep = make_sweep(study)
    sweep._runs[0] = Mock(number=7), make_run([], overs=(False, False, True)), 0
    sweep._keep_all()
    assert [call.args for call in study.keep.call_args_list] == [(7,), (7,)]
    study.let_go.assert_called_once_with(7)
    told = capsys.readouterr()
    assert told.err == "stopping 1 trial, each of which saves first; repeat the command to continue\n" and not told.out


def test_a_log_gets_a_line_when_more_than_the_time_has_changed(study, capsys):
    sweep = make_sweep(study, budget="1:00:00")
    for used in (1.0, 2.0, 3.0, 4000.0):
        study.seconds_used.return_value = used
        sweep.line.show(sweep._line)
    told = capsys.readouterr()
    assert told.err == "1 trial done, 1 running, 0 pruned; about 0:59:59 left\n" and not told.out


def test_a_sweep_whose_trials_are_all_done_tells_no_time_that_is_left(study):
    sweep = make_sweep(study, trials=2)
    sweep._ended_here, sweep._began = 2, 0.0
    for ended, is_told in ((1, True), (2, False)):
        study.counts.return_value = SimpleNamespace(ended=ended, running=2 - ended, pruned=0, failed=0)
        assert (" left" in sweep._line()) == is_told


def test_a_line_is_cut_to_the_width_of_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 2)
    monkeypatch.setattr(os, "get_terminal_size", lambda descriptor: os.terminal_size((20, 5)))
    LiveLine().show(lambda: "x" * 50)
    assert capsys.readouterr().err == "\r\033[K" + "x" * 19
