"""Checkpoints of 2018 hold a Logger: our loading, and torch.load of the project, read it without running code."""

import sys
import types

import numpy as np
import pytest
import torch

from utils.old_forms.checkpoint import torch_load
from utils.old_forms.names import Logger, old_name
from utils.runs.checkpoint import load_checkpoint


@pytest.fixture(autouse=True)
def allowed():
    """Forgets what a test lets torch.load read."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


def written(monkeypatch, path, module):
    """(the path of a checkpoint that holds a Logger of a module, that class)."""
    kind = type("Logger", (), {"__module__": module})
    made = types.ModuleType(module)
    made.__dict__["Logger"] = kind
    logger = kind()
    logger.__dict__["entries"] = {1: {"loss": np.float64(0.5)}}
    state = {"arch": "Net", "epoch": 1, "logger": logger, "state_dict": {}, "optimizer": {}, "monitor_best": 0.5}
    with monkeypatch.context() as patched:
        for name in (module.partition(".")[0], module):
            patched.setitem(sys.modules, name, made)
        torch.save(state | {"config": {"name": "n"}}, path)
    return path, kind


@pytest.mark.parametrize("module", ["logger.logger", "utils.logger", "mine.log", "utils.old_forms.names"])
def test_a_logger_comes_back_with_its_entries(tmp_path, monkeypatch, module):
    path, _ = written(monkeypatch, tmp_path / "x.pth", module)
    for state in (load_checkpoint(path), torch_load(path)):
        assert type(state["logger"]) is Logger and state["logger"].entries == {1: {"loss": 0.5}}
        state["logger"].add_entry(2)
        assert state["logger"].entries[2] == 2


def test_a_script_that_imports_logger_reads_what_this_framework_has_pickled(tmp_path):
    torch.save({"logger": Logger()}, tmp_path / "x.pth")
    old_name("utils", "Logger")
    assert torch.load(tmp_path / "x.pth")["logger"].entries == {}


def test_a_class_that_the_script_has_allowed_is_its_own_and_never_ours(tmp_path, monkeypatch):
    path, kind = written(monkeypatch, tmp_path / "x.pth", "own.logger")
    torch.serialization.add_safe_globals([kind])
    assert type(load_checkpoint(path)["logger"]) is Logger
    assert kind in torch.serialization.get_safe_globals()
    assert type(torch_load(path)["logger"]) is kind
    assert type(load_checkpoint(path)["logger"]) is Logger and type(torch.load(path)["logger"]) is kind


def test_no_variable_of_the_environment_lets_a_checkpoint_import_a_module(tmp_path, monkeypatch):
    path, _ = written(monkeypatch, tmp_path / "x.pth", "evilmod")
    (tmp_path / "evilmod.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nclass Logger: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert type(torch_load(path)["logger"]) is Logger and type(load_checkpoint(path)["logger"]) is Logger
    assert not (tmp_path / "ran").exists()
