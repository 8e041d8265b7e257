import argparse
import collections
import pathlib
import pickle
import sys
import types

import numpy as np
import pytest
import torch

from utils.runs.checkpoint import CheckpointError, load_checkpoint


class ConfigParser:
    """Pickled under the name that the old template's class had."""

    __module__ = "parse_config"


@pytest.fixture
def old_file(tmp_path, monkeypatch):
    """Writes a checkpoint as the old template does: its ConfigParser, ordered dicts and NumPy numbers pickled."""
    module = types.ModuleType("parse_config")
    module.ConfigParser = ConfigParser

    def write(payload=None, best=None):
        config = ConfigParser()
        config._config = collections.OrderedDict(name="old", trainer=collections.OrderedDict(epochs=2))
        config.args = argparse.Namespace(resume=None)
        config.resume = payload
        config._save_dir = pathlib.Path("saved/models")
        state = {"arch": "M", "epoch": 1, "state_dict": collections.OrderedDict(w=torch.ones(2)), "optimizer": {}}
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "parse_config", module)
            torch.save(
                {**state, "monitor_best": np.float64(0.25) if best is None else best, "config": config},
                tmp_path / "old.pth",
            )
        return tmp_path / "old.pth"

    return write


@pytest.mark.old_defect(2)
@pytest.mark.parametrize("best", [None, torch.tensor(0.25)])
def test_old_checkpoint_loads_with_its_config_as_a_plain_dict(old_file, best):
    state = load_checkpoint(old_file(best=best))
    assert state["config"] == {"name": "old", "trainer": {"epochs": 2}} and type(state["config"]) is dict
    assert state["monitor_best"] == 0.25 and torch.equal(state["state_dict"]["w"], torch.ones(2))


class Payload:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of the file ran')",)


def test_old_checkpoint_with_a_payload_inside_is_refused(old_file):
    with pytest.raises(CheckpointError, match=r"refused: it refers to \S*exec"):
        load_checkpoint(old_file(Payload()))


def test_old_checkpoint_cut_short_is_refused(old_file):
    path = old_file()
    content = path.read_bytes()
    for length in range(0, len(content), 11):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"old\.pth"):
            load_checkpoint(path)


def test_bare_pickle_of_old_torch_loads(tmp_path):
    state = {"state_dict": {"w": torch.ones(2)}, "epoch": 1}
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert load_checkpoint(tmp_path / "a.pth")["epoch"] == 1
    (tmp_path / "b.pth").write_bytes(pickle.dumps(state["epoch"], 2))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "b.pth")
