"""--json: the errors of a config as objects, and one object alone on standard output."""

import argparse
import json
import math
import sys

import pytest

from helpers import PROJECT, run_here
from utils.config.json_flag import error_object, json_flag
from utils.errors import UserError, clean_exit


@pytest.mark.parametrize(
    ("line", "path", "given", "wanted"),
    [
        ("trainer.epochs: got 0; it should be at least 1", "trainer.epochs", "0", "at least 1"),
        ("name: got 'a; b: c'; it should have one line", "name", "'a; b: c'", "have one line"),
        ("optimizer.type: torch.optim has no 'Adm'; did you mean 'Adam'?", "optimizer.type", None, "Adam"),
        ("--epochz: no such flag; see --help", "--epochz", None, None),
        ("and more errors; fix these first", None, None, None),
    ],
)
def test_an_error_is_an_object_of_what_its_line_tells(line, path, given, wanted):
    message = line if path is None else line.removeprefix(f"{path}: ")
    assert error_object(line) == {"path": path, "given": given, "wanted": wanted, "message": message}


def errors_of(*arguments, script="train.py"):
    """({path: (given, wanted)} of the errors that --check --json prints, what it prints on standard error)."""
    done = run_here(script, *arguments, "--check", "--json", status=2)
    (line,) = done.stdout.splitlines()
    return {error["path"]: (error["given"], error["wanted"]) for error in json.loads(line)["errors"]}, done.stderr


def test_check_gives_all_errors_as_objects():
    wrong = ("--set", "trainer.epocs=1", "--set", "trainer.early_stop=x", "--set", "optimizer.type=Adm")
    errors, told = errors_of("-c", "config.json", *wrong)
    assert errors == {
        "trainer.epocs": (None, "epochs"),
        "trainer.early_stop": ("'x'", "an integer"),
        "optimizer.type": (None, "Adam"),
    }
    assert [line.split(": ")[1] for line in told.splitlines()] == list(errors)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["-c", "none.json"], {"none.json": (None, None)}),
        (["-c", "config.json", "--lr", "x"], {"--lr/--learning_rate": ("'x'", "a number")}),
        (["-c", "config.json", "--epochz"], {"--epochz": (None, None)}),
        ([], {None: (None, None)}),
    ],
)
def test_errors_of_the_command_line_and_of_files_are_objects_too(arguments, error):
    assert errors_of(*arguments)[0] == error


def test_errors_in_the_data_are_objects_too():
    errors, _ = errors_of("-c", "config.json", "--data", "--set", "data_loader.args.data_dir=none")
    assert list(errors) == ["data_loader.args.data_dir"]


@pytest.mark.parametrize("data", [(), ("--data",)])
def test_a_right_config_has_no_errors_and_nothing_else_is_printed(data, tmp_path):
    own = tmp_path / "own.json"  # with a key that is told, on standard error
    own.write_text(json.dumps({"base": str(PROJECT / "config.json"), "mine": 1}))
    done = run_here("train.py", "-c", own, "--check", *data, "--json")
    assert done.stdout == '{"errors": []}\n' and "own keys: mine" in done.stderr


def test_other_commands_are_not_changed_by_it():
    printed = run_here("train.py", "-c", "config.json", "--print-config", "--json").stdout
    assert json.loads(printed)["name"] == json.loads(printed.strip())["name"]
    assert run_here("train.py", "--check", "--json", "--help").stdout.startswith("usage: ")


@pytest.mark.parametrize("flag", [["--fast-dev-run"], ["--find-batch-size"], ["--show-batch", "batch.png"]])
def test_what_leaves_no_run_has_no_result(flag):
    done = run_here("train.py", "-c", "config.json", "--json", *flag, status=2)
    assert (
        done.stdout == "" and done.stderr == f"error: --json: does not go with {flag[0]}, which leaves no run behind\n"
    )


def within(monkeypatch, *arguments, alone=True):
    monkeypatch.setattr(sys, "argv", ["test.py", *arguments])
    return json_flag(argparse.ArgumentParser(), alone=alone)


def test_the_object_is_alone_on_standard_output(monkeypatch, capsys):
    with within(monkeypatch, "--json") as show:
        print("a word of a loader")
        assert show is not None
        show({"values": {"loss": math.nan, "accuracy": 0.1 + 0.2}, "tables": [[math.inf]]})
    printed = capsys.readouterr()
    assert printed.err == "a word of a loader\n"
    assert json.loads(printed.out) == {"values": {"loss": None, "accuracy": 0.1 + 0.2}, "tables": [[None]]}


def test_beside_other_output_it_is_a_line_of_its_own(monkeypatch, capsys):
    with within(monkeypatch, "--json", alone=False) as show:
        print("epoch 1")
        assert show is not None
        show({"epoch": 1})
    assert capsys.readouterr().out == 'epoch 1\n{"epoch": 1}\n'
    with within(monkeypatch) as show:
        assert show is None


def test_an_error_of_the_command_itself_is_a_line_and_no_object(monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended, within(monkeypatch, "--json"), clean_exit():
        raise UserError("here: it is wrong")
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out, printed.err) == (2, "", "error: here: it is wrong\n")
