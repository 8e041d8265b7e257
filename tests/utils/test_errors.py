"""How a command ends on a user's mistake."""

import argparse
import time

import pytest

from utils.errors import UserError, brief, clean_exit, in_one_line, shortened, shown

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
