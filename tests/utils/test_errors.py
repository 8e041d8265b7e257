"""How a command ends on a user's mistake."""

import argparse
import sys
import time
from pathlib import Path

import pytest

from utils.errors import UserError, brief, clean_exit, in_one_line, quantity, shortened, shown

_TOLD = "error: here: it is wrong\n"


def test_what_is_shown_is_one_line_of_printable_text():
    assert shown("Größe 2/'a'") == "Größe 2/'a'"
    assert shown("a\nb\x1b[2J\x9b\u202e\u2028\udcff\0") == r"a\nb\x1b[2J\x9b\u202e\u2028\udcff\x00"
    assert brief({"a": "b\n"}) == r"{'a': 'b\n'}"
    for text in (brief("a" * 1_000), shortened("\n" * 1_000)):
        assert len(text) < 300 and " ... " in text and text.isprintable()


@pytest.mark.parametrize(
    ("environment", "told", "waits"),
    [
        ({"LOCAL_RANK": "0"}, _TOLD, 0),
        ({"LOCAL_RANK": "1"}, "", 1),
        ({"LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "x"}, _TOLD, 1),
    ],
)
def test_of_several_processes_the_first_tells_and_another_one_that_torchrun_lets_be(
    monkeypatch, capsys, environment, told, waits
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    waited = []
    monkeypatch.setattr(time, "sleep", lambda seconds: waited.append((seconds, capsys.readouterr().err)))
    with pytest.raises(SystemExit) as end, clean_exit():
        raise UserError("here: it is wrong")
    assert end.value.code == 2 and capsys.readouterr().err == told
    assert len(waited) == waits and all(seconds >= 2 and not before for seconds, before in waited)


def test_a_parser_that_tells_of_mistakes_itself_goes_on_doing_so():
    class Own(argparse.ArgumentParser):
        def error(self, message):
            raise SystemExit(7)

    with pytest.raises(SystemExit) as ended:
        in_one_line(Own()).parse_args(["--what"])
    assert ended.value.code == 7


def test_a_package_that_is_not_installed_is_one_line(capsys, monkeypatch):
    with pytest.raises(SystemExit) as ended, clean_exit():
        __import__("no_such_package.part")
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.count("\n") == 1
    assert f"{__file__}, line " in told
    assert told.endswith("the package no_such_package is not installed here; install it: pip install no_such_package\n")
    monkeypatch.setattr(sys, "prefix", "/usr")  # outside the project's environment
    monkeypatch.setattr(Path, "exists", lambda path: True)
    with pytest.raises(SystemExit), clean_exit():
        import no_such_package  # noqa: F401
    assert "activate the project's environment: source .venv/bin/activate\n" in capsys.readouterr().err


def test_a_module_that_an_installed_package_lacks_keeps_its_traceback():
    with pytest.raises(ModuleNotFoundError), clean_exit():
        import numpy.no_such_module  # noqa: F401


@pytest.mark.parametrize(
    ("kind", "typed", "told"),
    [
        (int, "many", "error: --lr: got 'many'; it should be an integer\n"),
        (float, "0,1", "error: --lr: got '0,1'; it should be a number\n"),
        (str, "", ""),
    ],
)
def test_a_value_of_the_wrong_type_is_told_without_pythons_words(capsys, kind, typed, told):
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=kind)
    if told:
        with pytest.raises(SystemExit):
            in_one_line(parser).parse_args(["--lr", typed])
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "sample", "1 sample"),
        (0, "sample", "0 samples"),
        (2, "epoch", "2 epochs"),
        (2, "batch", "2 batches"),
        (3000, "class", "3,000 classes"),
        (2, "process", "2 processes"),
        (1, "process", "1 process"),
    ],
)
def test_a_number_stands_with_its_noun(number, noun, text):
    assert quantity(number, noun) == text
