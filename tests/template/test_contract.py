"""Names and call forms that projects made from the old template use: each is there, and does what it did.

A whole project in that style is in test_old_project.py; here are the names that it does not use.
"""

import argparse
import inspect
import logging

import numpy as np
import pytest
import torch

import utils
from base import BaseDataLoader, BaseModel, BaseTrainer
from helpers import TinyData, run_here, tiny_config, tiny_trainer
from logger import TensorboardWriter, setup_logging
from parse_config import ConfigParser, CustomArgs
from trainer import Trainer
from utils import MetricTracker, ensure_dir, inf_loop, prepare_device, read_json, write_json


def parameters(function):
    """[(name, default)] of what a function takes, without self; a parameter without a default has `...`."""
    empty = inspect.Parameter.empty
    found = inspect.signature(function).parameters.values()
    return [(p.name, ... if p.default is empty else p.default) for p in found if p.name != "self"]


SIGNATURES = [
    (ConfigParser, [("config", ...), ("resume", None), ("modification", None), ("run_id", None)]),
    (ConfigParser.get_logger, [("name", ...), ("verbosity", 2)]),
    (BaseTrainer, [(name, ...) for name in ("model", "criterion", "metric_ftns", "optimizer", "config")]),
    (BaseTrainer._train_epoch, [("epoch", ...)]),
    (BaseTrainer._save_checkpoint, [("epoch", ...), ("save_best", False)]),
    (
        Trainer,
        [
            *((name, ...) for name in ("model", "criterion", "metric_ftns", "optimizer", "config", "device")),
            ("data_loader", ...),
            ("valid_data_loader", None),
            ("lr_scheduler", None),
            ("len_epoch", None),
        ],
    ),
    (Trainer._train_epoch, [("epoch", ...)]),
    (Trainer._valid_epoch, [("epoch", ...)]),
    (Trainer._progress, [("batch_idx", ...)]),
    (MetricTracker.update, [("key", ...), ("value", ...), ("n", 1)]),
    (MetricTracker.avg, [("key", ...)]),
]


@pytest.mark.parametrize(("function", "expected"), SIGNATURES, ids=lambda value: getattr(value, "__qualname__", ""))
def test_parameters_stand_in_their_old_order_with_their_old_defaults(function, expected):
    assert parameters(function)[: len(expected)] == expected
    assert all(default is not ... for _, default in parameters(function)[len(expected) :])


def test_other_parameters_have_their_old_names():
    loader = parameters(BaseDataLoader)
    names = ["dataset", "batch_size", "shuffle", "validation_split", "num_workers", "collate_fn"]
    assert [name for name, _ in loader[:6]] == names and loader[5][1] is not ...
    assert [name for name, _ in parameters(setup_logging)[:2]] == ["save_dir", "log_config"]
    assert [name for name, _ in parameters(TensorboardWriter)[:3]] == ["log_dir", "logger", "enabled"]
    assert [name for name, _ in parameters(ConfigParser.from_args)[:2]] == ["args", "options"]
    for function in (ConfigParser.init_obj, ConfigParser.init_ftn):
        assert [name for name, _ in parameters(function)] == ["name", "module", "args", "kwargs"]
    assert parameters(TensorboardWriter.set_step)[:2] == [("step", ...), ("mode", "train")]


@pytest.mark.parametrize("target", ["optimizer;args;lr", "optimizer.args.lr", ("optimizer", "args", "lr")])
def test_a_config_is_modified_and_read_as_before(target, tmp_path):
    config = ConfigParser(tiny_config(tmp_path) | {"n_gpu": 0}, modification={target: 0.25}, run_id="mine")
    assert config["optimizer"]["args"]["lr"] == config.config["optimizer"]["args"]["lr"] == 0.25
    assert "optimizer" in config and "arch" not in config and config.get("arch", 3) == 3 and config.resume is None
    assert config["n_gpu"] == 0 and type(config["optimizer"]) is dict
    assert (config.save_dir, config.log_dir) == (tmp_path / "models/tiny/mine", tmp_path / "log/tiny/mine")
    assert config.save_dir.is_dir() and config.log_dir.is_dir()
    weight = torch.nn.Parameter(torch.zeros(2))
    config["optimizer"]["args"]["momentum"] = 0.5  # sections are plain dicts, which a script may change
    optimizer = config.init_obj("optimizer", torch.optim, [weight], nesterov=True)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"]) == (0.25, 0.5, True)
    assert config.init_ftn("optimizer", torch.optim)([weight]).param_groups[0]["momentum"] == 0.5
    levels = [config.get_logger(f"level{verbosity}", verbosity).level for verbosity in (0, 1, 2)]
    assert levels == [logging.WARNING, logging.INFO, logging.DEBUG]
    assert config.get_logger("train").name == "train"


@pytest.mark.parametrize("target", ["optimizer;args;lr", "optimizer.args.lr", ("optimizer", "args", "lr")])
def test_a_flag_of_a_scripts_own_sets_its_target(target, tmp_path, monkeypatch):
    write_json(tiny_config(tmp_path), tmp_path / "job.json")
    monkeypatch.setattr("sys.argv", ["train.py", "-c", str(tmp_path / "job.json"), "--lr", "0.5", "-d", "cpu"])
    parser = argparse.ArgumentParser()
    for flag, name in (("-c", "--config"), ("-r", "--resume"), ("-d", "--device")):
        parser.add_argument(flag, name, default=None, type=str)
    config = ConfigParser.from_args(parser, [CustomArgs(["--lr", "--learning_rate"], type=float, target=target)])
    assert config["optimizer"]["args"]["lr"] == 0.5 and config["name"] == "tiny"
    assert not list(tmp_path.glob("models"))  # reading makes no folder of a run


def test_a_loader_splits_as_before():
    loader = BaseDataLoader(TinyData(), 8, True, 0.2, 0, collate_fn=torch.utils.data.default_collate)
    order = np.random.RandomState(0).permutation(50)
    before = np.random.get_state()[1].tolist()
    whole = BaseDataLoader(TinyData(), 8, True, 0.0, 0)
    assert whole._split_sampler(0.0) == (None, None) and whole.split_validation() is None
    train, valid = whole._split_sampler(0.2)
    assert sorted(train) == sorted(order[10:]) and sorted(valid) == sorted(order[:10])
    assert np.random.get_state()[1].tolist() == before
    assert loader.n_samples == 40 and sum(len(labels) for _, labels in loader) == 40
    assert sum(len(labels) for _, labels in loader.split_validation()) == 10
    assert loader.batch_size == 8 and len(loader.sampler) == 40 and loader.valid_sampler is not None


ATTRIBUTES = [
    *("config", "logger", "model", "criterion", "metric_ftns", "optimizer", "epochs", "save_period", "monitor"),
    *("mnt_mode", "mnt_metric", "mnt_best", "early_stop", "start_epoch", "checkpoint_dir", "writer"),
]


class Own(BaseTrainer):
    """As an old project has it: its own loop, and methods of the base that it extends."""

    def __init__(self, *args, **keywords):
        self.calls = []
        super().__init__(*args)
        self.built_with = {name: getattr(self, name) for name in ATTRIBUTES}
        self.data_loader = keywords.get("data_loader") or args[-1]

    def _train_epoch(self, epoch):
        self.model.train()
        found = {name: getattr(self, name) for name in ATTRIBUTES}
        same = [name for name in ATTRIBUTES if found[name] is self.built_with[name]]
        assert {*ATTRIBUTES} - {*same} <= {"mnt_best"}
        self.writer.set_step(epoch)
        self.writer.add_scalar("loss", 1.0 / epoch)
        self.logger.debug("epoch %d", epoch)
        return {"loss": 1.0 / epoch, "val_loss": 2.0 / epoch}

    def _save_checkpoint(self, epoch, save_best=False):
        self.calls.append(("save", epoch, save_best))
        super()._save_checkpoint(epoch, save_best=save_best)

    def _resume_checkpoint(self, resume_path):
        self.calls.append(("resume", resume_path.name))
        super()._resume_checkpoint(resume_path)


def own_trainer(folder, resume=None, **settings):
    config = ConfigParser(tiny_config(folder, monitor="min val_loss", early_stop=7, **settings), resume)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Own(model, torch.nn.functional.cross_entropy, [], optimizer, config)


def test_a_trainer_with_its_own_loop_has_its_attributes_and_its_methods_are_called(tmp_path):
    trainer = own_trainer(tmp_path, epochs=3, save_period=2)
    assert (trainer.epochs, trainer.save_period, trainer.start_epoch, trainer.early_stop) == (3, 2, 1, 7)
    assert (trainer.mnt_mode, trainer.mnt_metric, trainer.mnt_best) == ("min", "val_loss", float("inf"))
    assert isinstance(trainer.logger, logging.Logger) and isinstance(trainer.writer, TensorboardWriter)
    assert trainer.checkpoint_dir == trainer.config.save_dir
    trainer.train()
    assert trainer.mnt_best == pytest.approx(2 / 3)
    assert [call for call in trainer.calls if call[1] == 2] == [("save", 2, True)]
    assert [call[0] for call in trainer.calls] == ["save"] * len(trainer.calls)
    trainer._save_checkpoint(3)
    trainer._save_checkpoint(3, save_best=True)
    state = torch.load(trainer.checkpoint_dir / "checkpoint-epoch3.pth", weights_only=True)
    assert {"arch", "epoch", "state_dict", "optimizer", "monitor_best", "config"} <= state.keys()
    assert (state["arch"], state["epoch"], state["config"]["name"]) == ("Linear", 3, "tiny")
    torch.nn.Linear(4, 3).load_state_dict(state["state_dict"])
    assert (trainer.checkpoint_dir / "model_best.pth").is_file()

    resumed = own_trainer(tmp_path, trainer.checkpoint_dir / "checkpoint-epoch2.pth", epochs=4)
    resumed.train()
    assert resumed.calls[0] == ("resume", "checkpoint-epoch2.pth")
    assert [call[1] for call in resumed.calls[1:]] == [3, 4] and resumed.mnt_best == 0.5


def test_a_checkpoint_can_be_resumed_by_hand(tmp_path):
    first = own_trainer(tmp_path / "a")
    first.train()
    second = own_trainer(tmp_path / "b", epochs=3)
    second._resume_checkpoint(first.checkpoint_dir / "checkpoint-epoch2.pth")
    assert second.start_epoch == 3 and torch.equal(second.model.weight, first.model.weight)


def test_trainer_has_its_attributes_and_its_methods_can_be_called_and_extended(tmp_path):
    class Extended(Trainer):
        def _train_epoch(self, epoch):
            assert self.do_validation and self.len_epoch == 5 and self.log_step == 2
            assert self.data_loader.n_samples == 40 and self.device.type == "cpu" and self.lr_scheduler is not None
            assert isinstance(self.train_metrics, MetricTracker) and isinstance(self.valid_metrics, MetricTracker)
            assert self._progress(1).startswith("[2/5")
            return super()._train_epoch(epoch) | {"own": 1.0}

        def _valid_epoch(self, epoch):
            return {"twice": 2 * super()._valid_epoch(epoch)["accuracy"]}

    trainer = tiny_trainer(tiny_config(tmp_path, log_step=2, monitor="max val_twice"), trainer_class=Extended)
    log = trainer._train_epoch(1)
    assert {"loss", "accuracy", "val_twice", "own"} <= log.keys() and 0 <= log["val_twice"] <= 2
    assert trainer.valid_data_loader is not None
    trainer = tiny_trainer(tiny_config(tmp_path), len_epoch=3)
    assert trainer.len_epoch == 3 and trainer._valid_epoch(1).keys() == {"loss", "accuracy"}
    assert tiny_trainer(tiny_config(tmp_path, len_epoch=7)).len_epoch == 7


def test_metrics_may_be_empty_the_schedule_absent_and_nothing_monitored(tmp_path):
    config = tiny_config(tmp_path, monitor="off", epochs=1, seq_len=3)
    config["train_loader"] = {"type": "Own", "args": {}}  # sections and keys of the project's own are kept
    trainer = tiny_trainer(config, metrics=(), schedule=None, validation_split=0.0)
    trainer.train()
    assert trainer.mnt_mode == "off" and trainer.mnt_best == 0 and trainer.lr_scheduler is None
    assert trainer.config["trainer"]["seq_len"] == 3 and trainer.config["train_loader"]["type"] == "Own"
    assert [path.name for path in trainer.checkpoint_dir.glob("*.pth")] == ["checkpoint-epoch1.pth"]


def test_trackers_of_metrics_count_as_before(tmp_path):
    tracker = MetricTracker("loss", "accuracy", writer=None)
    tracker.update("loss", 2.0)
    tracker.update("loss", 5.0, n=2)
    tracker.update("accuracy", 0.5)
    assert tracker.avg("loss") == 4.0 and tracker.result() == {"loss": 4.0, "accuracy": 0.5}
    tracker.reset()
    tracker.update("loss", 1.0)
    assert tracker.avg("loss") == 1.0


def test_helpers_do_what_they_did(tmp_path):
    ensure_dir(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    write_json({"b": 1, "a": [2]}, tmp_path / "x.json")
    assert list(read_json(tmp_path / "x.json").items()) == [("b", 1), ("a", [2])]
    endless = inf_loop([1, 2])
    assert [next(endless) for _ in range(5)] == [1, 2, 1, 2, 1]
    assert prepare_device(0) == (torch.device("cpu"), [])
    assert utils.MetricTracker is MetricTracker
    setup_logging(tmp_path)
    logging.getLogger("x").warning("told")
    assert "told" in (tmp_path / "info.log").read_text()


def test_a_writer_takes_a_tag_and_data_and_can_be_off(tmp_path):
    writer = TensorboardWriter(tmp_path, logging.getLogger("x"), False)
    writer.set_step(3, "valid")
    for kind in ["scalar", "scalars", "image", "images", "audio", "text", "histogram", "pr_curve", "embedding"]:
        getattr(writer, f"add_{kind}")("tag", None)
    assert writer.step == 3 and writer.mode == "valid" and not list(tmp_path.iterdir())


def test_a_model_prints_its_number_of_parameters():
    class Net(BaseModel):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, rows):
            return self.layer(rows)

    assert str(Net()).endswith("Trainable parameters: 8")


@pytest.mark.parametrize(
    "arguments",
    ["-c config.json --lr 0.01 --bs 128", "--config config.json --learning_rate 0.01 --batch_size 128 --device cpu"],
)
def test_flags_have_their_old_names(arguments):
    assert "no mistakes found" in run_here("train.py", *arguments.split(), "--check").stdout
