"""A ConfigParser of a project's own, kept as a whole by --adopt, gives the framework what it needs however it is."""

import argparse
import copy
import datetime
import multiprocessing.context
import pickle
from pathlib import Path

import pytest
import torch

from base import BaseTrainer
from helpers import tiny_config
from parse_config import ConfigParser as FrameworkConfigParser
from utils.old_forms.own_config import OwnConfigParser
from utils.runs.checkpoint import load_checkpoint

CONFIG = {"name": "n", "trainer": {"epochs": 1}}


class Folded(OwnConfigParser, FrameworkConfigParser):
    def __init__(self, args, fold=None):
        self._config, self.resume, self.fold = args.config, args.resume, fold
        self.started = datetime.datetime(2026, 1, 1)
        self._save_dir = Path(args.root) / f"fold{fold}"
        self._save_dir.mkdir()

    @classmethod
    def from_args(cls, args):
        raise NotImplementedError  # only the script calls it


def given(tmp_path, **changes):
    return argparse.Namespace(**{"config": CONFIG, "resume": None, "root": str(tmp_path)} | changes)


def test_plain_attributes_are_what_the_framework_reads():
    class Plain(OwnConfigParser, FrameworkConfigParser):
        def __init__(self, config):
            self.config, self.save_dir = config, "here"  # and no resume

    config = Plain(CONFIG)
    assert (config.config, config["name"], config.save_dir, config.log_dir) == (CONFIG, "n", "here", "here")
    assert config.resume is None and config.get("trainer") == CONFIG["trainer"]
    config.save_dir = "there"
    assert config.save_dir == "there"


def test_properties_that_cannot_be_set_stay():
    class Guarded(OwnConfigParser, FrameworkConfigParser):
        def __init__(self, args):
            self._args, self._config = args, args["config"]

        @property
        def resume(self):
            return self._args["resume"]

    assert Guarded({"config": CONFIG, "resume": None}).resume is None
    assert Guarded({"config": CONFIG, "resume": "x.pth"}).resume == "x.pth"


@pytest.mark.parametrize("value", ["${DATA_DIR}/x", "${name}/x"])
def test_a_config_that_the_framework_refuses_still_trains(tmp_path, value):
    config = Folded(given(tmp_path, config=CONFIG | {"data": value}))
    assert (config["data"], config.keeps_nothing, config.own_limit, config.variants) == (value, False, None, [])
    other = copy.deepcopy(config)
    assert other["data"] == value and other.config is not config.config


def test_a_pickled_one_holds_its_attributes_and_builds_nothing(tmp_path):
    config = Folded(given(tmp_path), fold=3)
    again = pickle.loads(pickle.dumps(config))
    assert (again.fold, again.config, again.save_dir) == (3, CONFIG, tmp_path / "fold3")
    assert [path.name for path in tmp_path.iterdir()] == ["fold3"]


def test_a_checkpoint_that_holds_one_can_be_read(tmp_path, monkeypatch):
    kept = type("ConfigParser", (Folded,), {"__module__": __name__})
    monkeypatch.setitem(globals(), "ConfigParser", kept)  # where pickle looks it up
    torch.save({"epoch": 1, "config": kept(given(tmp_path))}, tmp_path / "x.pth")
    assert load_checkpoint(tmp_path / "x.pth")["config"] == CONFIG


def test_a_namespace_as_its_config_calls_nothing_of_the_projects():
    class Flags(OwnConfigParser, FrameworkConfigParser):
        def __init__(self, args):
            self._config = args

        @classmethod
        def from_args(cls, args, options=()):
            raise NotImplementedError

    assert Flags(argparse.Namespace(lr=1)).config.lr == 1


def test_copies_of_it_are_separate_objects_with_the_same_folders(tmp_path):
    config = Folded(given(tmp_path), fold=3)
    for other in (copy.copy(config), copy.deepcopy(config)):
        assert other is not config and (other.save_dir, other.fold, other.config) == (config.save_dir, 3, CONFIG)
    assert copy.copy(config).config is config.config and copy.deepcopy(config).config is not config.config


def in_a_spawned_worker(config):
    """The config as a worker process that is spawned gets it."""
    multiprocessing.context.set_spawning_popen(object())
    try:
        content = pickle.dumps(config)
    finally:
        multiprocessing.context.set_spawning_popen(None)
    return pickle.loads(content)


def test_a_config_in_a_worker_has_the_folders_of_the_run(tmp_path):
    config = FrameworkConfigParser({"name": "n", "trainer": {"save_dir": str(tmp_path)}})
    folders = config.save_dir, config.log_dir
    assert copy.copy(config).save_dir == copy.deepcopy(config).save_dir == folders[0]
    assert "folders" not in config.__getstate__()  # in a file it is a config alone
    other = in_a_spawned_worker(config)
    assert (other.save_dir, other.log_dir) == folders and len(list((tmp_path / "models/n").iterdir())) == 1


def test_the_folders_have_the_names_of_the_old_attributes(tmp_path):
    config = FrameworkConfigParser({"name": "n", "trainer": {"save_dir": str(tmp_path)}})
    assert config._save_dir.is_dir() and (config._save_dir, config._log_dir) == (config.save_dir, config.log_dir)
    assert Folded(given(tmp_path), fold=3)._save_dir == tmp_path / "fold3"


class Placed(FrameworkConfigParser):
    """A subclass whose constructor sets the folders after the framework's, as the old template's did."""

    def __init__(self, config, resume=None, **folders):
        super().__init__(config, resume)
        for name, folder in folders.items():
            setattr(self, name, folder)
            folder.mkdir(parents=True)


@pytest.mark.parametrize(
    ("names", "log_place"),
    [(["_save_dir", "_log_dir"], "_log_dir"), (["_save_dir"], "_save_dir"), (["_log_dir"], "_log_dir")],
)
def test_folders_that_a_subclass_sets_are_those_of_the_run(tmp_path, names, log_place):
    config = Placed(
        {"name": "n", "trainer": {"save_dir": str(tmp_path)}}, **{name: tmp_path / f"fold{name}" for name in names}
    )
    assert not config.has_ended  # opens the run
    assert (config.save_dir, config.log_dir) == (config._save_dir, config._log_dir)
    assert config.log_dir == tmp_path / f"fold{log_place}" and (config.save_dir / "config.json").is_file()
    assert (tmp_path / "models").exists() == ("_save_dir" not in names)
    config._save_dir = tmp_path / "later"
    assert (config.save_dir, config.log_dir) == (tmp_path / "later", tmp_path / f"fold{log_place}")


def test_a_subclass_that_resumes_in_another_folder_starts_a_new_run(tmp_path):
    settings = {"name": "n", "trainer": {"save_dir": str(tmp_path)}}
    before = FrameworkConfigParser(settings)
    resume = before.save_dir / "checkpoint-epoch1.pth"
    config = Placed(settings, resume, _save_dir=tmp_path / "models/n/fold3")
    assert FrameworkConfigParser(settings, resume).continues and not config.continues and not config.has_ended
    assert (config.save_dir, config.log_dir) == (tmp_path / "models/n/fold3", tmp_path / "log/n/fold3")


def test_plain_folders_have_the_names_with_an_underscore_too():
    class Plain(OwnConfigParser, FrameworkConfigParser):
        def __init__(self, config):
            self.config, self.save_dir = config, "here"

    config = Plain(CONFIG)
    assert (config._save_dir, config._log_dir) == ("here", "here")
    config.save_dir = "there"
    assert (config.save_dir, config._save_dir) == ("there", "there")


def test_a_config_of_2018_keeps_its_folders_in_a_worker_and_is_a_dict_in_a_file(tmp_path):
    config = FrameworkConfigParser({"name": "n", "trainer": {"save_dir": str(tmp_path)}})
    config.given_as_dict = True
    folders = config.save_dir, config.log_dir
    assert pickle.loads(pickle.dumps(config)) == config.config
    other = in_a_spawned_worker(config)
    assert (other.save_dir, other.log_dir) == folders


def test_a_run_in_folders_that_a_subclass_has_set_is_recorded(tmp_path):
    class Apart(FrameworkConfigParser):
        def __init__(self, config):
            super().__init__(config)
            self._save_dir, self._log_dir = tmp_path / "made/checkpoints", tmp_path / "made/log"

    class Once(BaseTrainer):
        def _train_epoch(self, epoch):
            return {"loss": 1.0}

    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Once(model, None, [], optimizer, Apart(tiny_config(tmp_path, epochs=1))).train()
    assert {"config.json", "environment.json", "checkpoint-epoch1.pth"} <= {
        path.name for path in (tmp_path / "made/checkpoints").iterdir()
    }
    assert (tmp_path / "made/log/metrics.csv").is_file() and not (tmp_path / "models").exists()
