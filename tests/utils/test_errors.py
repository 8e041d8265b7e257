"""How a command ends on a user's mistake."""

import time

import pytest

from utils.errors import UserError, clean_exit


@pytest.mark.parametrize(("local_rank", "told", "waits"), [("0", "error: here: it is wrong\n", 0), ("1", "", 1)])
def test_of_several_processes_the_first_tells_and_the_others_let_it(monkeypatch, capsys, local_rank, told, waits):
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with pytest.raises(SystemExit) as end, clean_exit():
        raise UserError("here: it is wrong")
    assert end.value.code == 2 and capsys.readouterr().err == told
    assert len(waited) == waits and all(seconds >= 2 for seconds in waited)
