"""Single forms that old projects use: each works as it did in the old template, or is refused in one line."""

import argparse
import collections
import inspect
import logging
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import run_forked
from torch.utils.data import DataLoader

import utils.old_forms.trainer
from base import BaseDataLoader, BaseTrainer
from helpers import PROJECT, TinyData, metrics_rows, tiny_config
from parse_config import ConfigParser, CustomArgs
from utils import MetricTracker, UserError, read_json, write_json
from utils.config.check import check_config
from utils.errors import CheckpointError
from utils.runs.checkpoint import load_checkpoint


class Old(BaseTrainer):
    """A trainer of before November 2020: its constructor takes no device."""

    def __init__(self, model, criterion, metric_ftns, optimizer, config, data_loader, log=None):
        super().__init__(model, criterion, metric_ftns, optimizer, config)
        self.config = config
        self.data_loader = data_loader
        self.log = log or {}

    def _train_epoch(self, epoch):
        self.model.train()
        for data, target in self.data_loader:
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(data.to(self.device)), target.to(self.device))
            loss.backward()
            self.optimizer.step()
        return {"loss": loss.item(), "val_loss": 1.0 / epoch, **self.log}


def accuracy(output, target):
    return 0.0


def old_trainer(config, kind=Old, **more):
    torch.manual_seed(3)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = BaseDataLoader(TinyData(), 8, True, 0.2, 0)
    return kind(model, torch.nn.functional.cross_entropy, [accuracy], optimizer, config, loader, **more)


def parser_of(monkeypatch, *words, **default):
    monkeypatch.setattr("sys.argv", ["train.py", *map(str, words)])
    parser = argparse.ArgumentParser()
    for flag, name in (("-c", "config"), ("-r", "resume"), ("-d", "device")):
        parser.add_argument(flag, f"--{name}", default=default.get(name), type=str)
    return parser


@pytest.fixture(autouse=True)
def allowed_again():
    """Forget what a test has let torch.load read."""
    before = torch.serialization.get_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


@pytest.fixture
def job(tmp_path):
    """A config file of two epochs."""
    write_json(tiny_config(tmp_path / "saved", monitor="min val_loss"), tmp_path / "job.json")
    return tmp_path / "job.json"


# ---- A: the trainer and the parser


def test_a_model_is_put_on_the_device_unless_the_constructor_takes_one(tmp_path, monkeypatch):
    class Later(Old):
        def __init__(self, *args, device=None):
            super().__init__(*args)
            self.device = torch.device("cpu")

    meta = torch.device("meta")
    monkeypatch.setattr(utils.old_forms.trainer, "prepare_device", lambda n_gpu: (meta, []))
    old = old_trainer(ConfigParser(tiny_config(tmp_path)))
    assert old.device == meta and old.model.weight.is_meta and old._prepare_device(1) == (meta, [])
    later = old_trainer(ConfigParser(tiny_config(tmp_path)), Later)
    assert later.device.type == "cpu" and not later.model.weight.is_meta


def test_a_trainer_has_its_old_names(tmp_path):
    trainer = old_trainer(ConfigParser(tiny_config(tmp_path)))
    assert trainer.loss is trainer.criterion and trainer.metrics is trainer.metric_ftns and trainer.verbosity == 0
    trainer.loss = 5  # its own, for example a number
    assert trainer.loss == 5 and trainer.criterion is torch.nn.functional.cross_entropy


def test_lists_of_metrics_are_logged_by_name(tmp_path):
    log = {"metrics": [0.25], "val_metrics": np.array([0.5]), "test_metrics": torch.tensor([0.75]), 7: np.float32(2)}
    log |= {"val_loss": torch.tensor(0.125)}
    trainer = old_trainer(ConfigParser(tiny_config(tmp_path, monitor="min val_loss")), log=log)
    trainer.train()
    row = metrics_rows(trainer)[-1]
    expected = {"accuracy": 0.25, "val_accuracy": 0.5, "test_accuracy": 0.75, "7": 2.0, "val_loss": 0.125}
    assert {key: float(row[key]) for key in expected} == expected
    assert type(load_checkpoint(trainer.checkpoint_dir / "model_best.pth")["monitor_best"]) is float


@pytest.mark.parametrize("named", [False, True])
def test_a_config_is_made_of_a_parser(job, monkeypatch, named):
    options = [CustomArgs(["--lr"], type=float, target=("optimizer", "args", "lr"))]
    parser = parser_of(monkeypatch, "-c", job, "--lr", "0.5")
    config = ConfigParser(args=parser, options=options) if named else ConfigParser(parser, options, True)
    optimizer = config.initialize("optimizer", torch.optim, [torch.nn.Parameter(torch.zeros(1))], nesterov=True)
    assert optimizer.param_groups[0]["lr"] == 0.5 and optimizer.param_groups[0]["nesterov"]
    parsed = parser_of(monkeypatch, "-c", job).parse_args()
    assert ConfigParser(parsed)["name"] == "tiny" and ConfigParser(parsed, timestamp=False).resume is None


def test_a_trainer_of_2018_takes_a_dict_and_a_path(tmp_path):
    class Of2018(Old):
        def __init__(self, model, loss, metrics, optimizer, config, data_loader, resume=None):
            BaseTrainer.__init__(self, model, loss, metrics, optimizer, resume, config, None)
            self.config = config
            self.data_loader, self.log = data_loader, {}

    settings = {"save_freq": 2, "monitor": "val_loss", "monitor_mode": "min"}
    config = tiny_config(tmp_path, **settings) | {"visualization": {"tensorboardX": False}}
    trainer = old_trainer(config, Of2018)
    assert trainer.config["trainer"]["save_freq"] == trainer.save_period == 2 and trainer.mnt_mode == "min"
    trainer.train()
    resumed = old_trainer(config, Of2018, resume=str(trainer.checkpoint_dir / "checkpoint-epoch2.pth"))
    assert resumed.start_epoch == 3 and torch.equal(resumed.model.weight, trainer.model.weight)


# ---- B and G: the loader


class Labelled(TinyData):
    classes = ("a", "b", "c")


def test_the_dataset_of_a_loader_is_the_projects_own():
    dataset = Labelled()
    loader = BaseDataLoader(dataset, 8, True, 0.2, 0)
    assert loader.dataset is dataset and loader.split_validation().dataset is dataset
    assert not hasattr(loader.dataset, "seeder") and loader.dataset.labels is dataset.labels
    own = DataLoader(sampler=loader.valid_sampler, **loader.init_kwargs)  # an old split_validation
    assert own.dataset.labels is dataset.labels and not hasattr(own.dataset, "targets")


@pytest.mark.parametrize("workers", [0, 2])
def test_it_is_read_with_the_random_numbers_of_each_sample_all_the_same(workers):
    def batches(epoch):
        loader = BaseDataLoader(TinyData(), 8, True, 0.2, workers)
        loader.set_epoch(epoch)
        torch.rand(1)  # draws between do not count
        return torch.cat([data for data, _ in loader])

    torch.manual_seed(3)
    assert torch.equal(batches(1), batches(1)) and not torch.equal(batches(1), batches(2))


def test_a_sixth_argument_that_is_no_function_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"^collate_fn: got True, no function; give further arguments by name$"):
        BaseDataLoader(TinyData(), 8, True, 0.2, 0, True)
    assert len(BaseDataLoader(TinyData(), 8, True, 0.2, 0, None)) == 5


# ---- C: keys and values of a project's own


def test_own_keys_that_resemble_ours_are_kept_with_a_warning(job, monkeypatch, capsys):
    own = {"data_loaders": {}, "optimizers": [], "num_gpu": 4, "test_loader": {}}
    config = read_json(job) | own
    config["trainer"] |= {"val_epoch": 3, "saved": "x", "precision": 16}
    write_json(config, job)
    parsed = ConfigParser.from_args(parser_of(monkeypatch, "-c", job))
    assert {*own, "trainer.val_epoch", "trainer.saved"} <= {*parsed.own_keys}
    told = capsys.readouterr().out
    assert "num_gpu: is kept as a key of this project's own; the framework's is called 'n_gpu'" in told
    assert "trainer.precision: got 16; it should be" in told and "left to this project's trainer" in told
    assert "test_loader: is kept" not in told
    assert parsed["trainer"]["precision"] == 16 and parsed.trainer_settings.precision == "fp32"
    with pytest.raises(UserError, match=r"trainer.val_epoch: not a key of this framework"):
        check_config(config | {"strict": True}, {})


def test_a_missing_value_is_one_line(tmp_path):
    config = tiny_config(tmp_path)
    config["trainer"]["epocs"] = config["trainer"].pop("epochs")
    with pytest.raises(UserError, match=r"^trainer.epochs: missing; is 'epocs' meant to be it\?$"):
        old_trainer(ConfigParser(config))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"early_stop": -1}, {"early_stop": float("inf")}),
        ({"early_stop": None}, {"early_stop": float("inf")}),
        ({"verbosity": 2000}, {}),
        ({"early_stop": 3.0, "epochs": 4.0}, {"early_stop": 3, "epochs": 4}),
        ({"monitor": "max  val_accuracy "}, {"monitor": "max val_accuracy", "mnt_mode": "max"}),
        ({"monitor": "val_loss", "monitor_mode": "off"}, {"monitor": "off", "mnt_mode": "off"}),
        ({"save_freq": 5}, {"save_period": 5}),
    ],
)
def test_old_values_mean_what_they_meant(tmp_path, given, expected):
    trainer = old_trainer(ConfigParser(tiny_config(tmp_path, **given)))
    assert {name: getattr(trainer, name) for name in expected} == expected


def test_a_run_whose_name_has_a_slash_has_a_folder(tmp_path):
    trainer = old_trainer(ConfigParser(tiny_config(tmp_path) | {"name": "group/job"}))
    trainer.train()
    assert trainer.checkpoint_dir.parent == tmp_path / "models/group-job" and trainer.config["name"] == "group/job"
    resumed = ConfigParser(trainer.config.config, trainer.checkpoint_dir / "checkpoint-epoch2.pth")
    assert resumed.continues and resumed.save_dir == trainer.checkpoint_dir


# ---- D and E: what a script writes into the config, and its own checkpoints


class Saving(Old):
    """Saves and resumes by itself, as one in ten projects does."""

    def _save_checkpoint(self, epoch, save_best=False):
        state = {"arch": type(self.model).__name__, "epoch": epoch, "state_dict": self.model.state_dict()}
        state |= {"optimizer": self.optimizer.state_dict(), "monitor_best": self.mnt_best, "config": self.config}
        torch.save(state | {"netD": self.model.state_dict()}, str(self.checkpoint_dir / f"checkpoint-epoch{epoch}.pth"))

    def _resume_checkpoint(self, resume_path):
        checkpoint = torch.load(str(resume_path))
        self.start_epoch = checkpoint["epoch"] + 1
        self.mnt_best = checkpoint["monitor_best"]
        assert checkpoint["config"]["optimizer"]["type"] == self.config["optimizer"]["type"]
        self.model.load_state_dict(checkpoint["state_dict"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])


def written_into(config):
    """As a script does after it has built its data: a number, a tensor and a logger."""
    config["optimizer"]["args"]["weight_decay"] = np.float64(0.0)
    config["trainer"]["num_classes"] = np.int64(3)
    config.config["weights"] = torch.ones(3)
    config.config["logger"] = logging.getLogger("own")
    return config


@pytest.mark.parametrize("kind", [Old, Saving])
def test_a_run_keeps_the_config_with_what_its_script_has_written(job, monkeypatch, kind):
    kept = read_json(job)
    kept["optimizer"]["args"]["weight_decay"], kept["trainer"]["num_classes"] = 0.0, 3
    config = written_into(ConfigParser.from_args(parser_of(monkeypatch, "-c", job)))
    trainer = old_trainer(config, kind)
    trainer.train()
    path = trainer.checkpoint_dir / "checkpoint-epoch2.pth"
    assert read_json(trainer.checkpoint_dir / "config.json") == kept == load_checkpoint(path)["config"]
    again = written_into(ConfigParser.from_args(parser_of(monkeypatch, "-r", path, "--set", "trainer.epochs=3")))
    resumed = old_trainer(again, kind)
    resumed.train()
    assert resumed.checkpoint_dir == trainer.checkpoint_dir and resumed.epoch == 4
    assert load_checkpoint(trainer.checkpoint_dir / "checkpoint-epoch3.pth")["epoch"] == 3


def test_a_file_of_its_own_is_read_without_running_code_and_tells_the_rest(job, monkeypatch, capsys):
    trainer = old_trainer(ConfigParser.from_args(parser_of(monkeypatch, "-c", job)), Saving)
    trainer.train()
    assert "checkpoint-epoch2.pth" in str(trainer.saver.newest)  # which the report names
    path = trainer.saver.newest
    config = ConfigParser.from_args(parser_of(monkeypatch, "-r", path, "--set", "trainer.epochs=3"))
    resumed = old_trainer(config)
    assert resumed.start_epoch == 3 and torch.equal(resumed.model.weight, trainer.model.weight)
    assert "the checkpoint also holds 'netD', which this trainer does not restore" in capsys.readouterr().out


# ---- F, H, I: the command line


def test_a_flag_of_the_script_may_add_a_key(job, monkeypatch):
    options = [CustomArgs(["--warmup"], type=int, target="trainer;warm"), CustomArgs(["--tag"], type=str, target="tag")]
    words = "-c", job, "--warmup", "4", "--tag", "x"
    config = ConfigParser.from_args(parser_of(monkeypatch, *words), options)
    assert config["trainer"]["warm"] == 4 and config["tag"] == "x"
    with pytest.raises(SystemExit):
        ConfigParser.from_args(parser_of(monkeypatch, "-c", job, "--set", "tagg=x"))


def test_a_section_that_is_not_there_is_a_key_error(tmp_path):
    with pytest.raises(KeyError) as raised:
        ConfigParser(tiny_config(tmp_path)).init_obj("lr_scheduler", torch.optim.lr_scheduler)
    assert isinstance(raised.value, UserError) and str(raised.value).startswith("lr_scheduler: got None; it should be")


@pytest.mark.parametrize("parsed", [False, True])
def test_a_default_of_c_does_not_count_as_given(job, monkeypatch, parsed):
    def config_of(*words):
        parser = parser_of(monkeypatch, *words, config=str(job), resume="" if parsed else None)
        return ConfigParser.from_args(parser.parse_args() if parsed else parser)

    trainer = old_trainer(config_of())
    trainer.train()
    path = trainer.checkpoint_dir / "checkpoint-epoch2.pth"
    resumed = config_of("-r", path)
    assert resumed.continues and resumed.save_dir == trainer.checkpoint_dir
    assert not config_of("-r", path, "-c", job).continues


# ---- J: checkpoints that the old template wrote


@pytest.fixture
def old_file(tmp_path, monkeypatch):
    """Writes a checkpoint in which a class of this name, of this module, is pickled."""

    def write(module="hw_asr.utils.parse_config", name="ConfigParser", **more):
        made = types.ModuleType(module)
        kind = type(name, (), {"__module__": module})
        setattr(made, name, kind)
        content = kind()
        content._config = collections.OrderedDict(name="old", arch={"type": "Net"}, trainer={"epochs": 2})
        if name == "ConfigParser":
            content.log = logging.getLogger("old")
        state = {"arch": "Net", "epoch": 1, "state_dict": torch.nn.Linear(4, 3).state_dict(), "optimizer": {}}
        with monkeypatch.context() as patch:
            for depth in range(1, module.count(".") + 1):
                patch.setitem(sys.modules, module.rsplit(".", depth)[0], made)
            patch.setitem(sys.modules, module, made)
            torch.save({**state, "monitor_best": np.float64(0.25), "config": content, **more}, tmp_path / "old.pth")
        return tmp_path / "old.pth"

    return write


def test_a_pickled_parser_of_any_module_has_its_stand_in(old_file):
    state = load_checkpoint(old_file())
    assert state["config"] == {"name": "old", "arch": {"type": "Net"}, "trainer": {"epochs": 2}}
    with pytest.raises(UserError, match=r"refused: it refers to somewhere.Payload"):
        load_checkpoint(old_file("somewhere", "Payload"))


def test_the_config_beside_an_old_checkpoint_is_used(old_file):
    path = old_file()
    write_json({"name": "beside", "trainer": {"epochs": 2}}, path.with_name("config.json"))
    assert load_checkpoint(path)["config"]["name"] == "beside"


def test_an_old_test_script_loads_an_old_checkpoint_by_itself(old_file, monkeypatch):
    path = old_file(module="mine.parse_config")
    with pytest.raises(Exception, match="Unsupported global"):
        torch.load(path)
    config = ConfigParser.from_args(parser_of(monkeypatch, "-r", path))
    state = torch.load(config.resume)
    torch.nn.Linear(4, 3).load_state_dict(state["state_dict"])
    assert state["config"]["arch"] == {"type": "Net"} and "name" in state["config"] and state["monitor_best"] == 0.25
    with pytest.raises(Exception, match="Payload"):
        torch.load(old_file("somewhere", "Payload"))


def test_reading_a_file_by_ourselves_leaves_what_the_script_may_read(old_file, monkeypatch):
    path = old_file()
    ConfigParser.from_args(parser_of(monkeypatch, "-r", path))
    allowed = set(torch.serialization.get_safe_globals())
    load_checkpoint(path)
    assert set(torch.serialization.get_safe_globals()) == allowed and torch.load(path)["monitor_best"] == 0.25


def test_a_file_that_torch_cannot_read_is_left_to_the_trainer_or_refused_in_one_line(tmp_path, old_file):
    config = ConfigParser(tiny_config(tmp_path), tmp_path / "weights.safetensors")
    config.resume.write_bytes(b"no archive")
    config.adapt_to_script()
    ConfigParser(tiny_config(tmp_path), tmp_path / "none.pth").adapt_to_script()
    damaged = old_file()
    damaged.write_bytes(damaged.read_bytes()[:-400])
    with pytest.raises(CheckpointError, match=r"old.pth: refused: its directory is not at its end; only"):
        ConfigParser(tiny_config(tmp_path), damaged).adapt_to_script()


def test_a_logger_of_2018_is_read_too(old_file):
    from utils import Logger  # as the train.py of that time does

    logger = Logger()
    logger.add_entry({"loss": 1.0})
    path = old_file("logger.logger", "Logger", monitor_best=0.25)
    assert "numpy" not in str(torch.serialization.get_safe_globals())
    assert torch.load(path)["epoch"] == 1 and str(logger) == '{\n    "1": {\n        "loss": 1.0\n    }\n}'


# ---- K


@pytest.mark.parametrize("name", ["val_loss", "val_extra"])
def test_a_name_that_is_never_updated_is_logged_as_zero_but_never_monitored_so(tmp_path, name):
    writer = types.SimpleNamespace(add_scalar=lambda name, value: None)
    tracker = MetricTracker(name, "own", writer=writer)
    assert np.isnan(tracker.avg(name)) and np.isnan(MetricTracker("own").avg("own"))
    trainer = old_trainer(ConfigParser(tiny_config(tmp_path, monitor="min val_loss")), log=tracker.result())
    trainer.train()
    row = metrics_rows(trainer)[-1]
    assert float(row["own"]) == 0.0
    assert trainer.mnt_best == (float("inf") if name == "val_loss" else 0.5)
    assert name == "val_loss" or float(row["val_extra"]) == 0.0


def test_a_trainer_without_train_epoch_is_refused_before_anything_is_written(tmp_path):
    class Misspelt(BaseTrainer):
        def _train_epok(self, epoch):
            return {}

    class Evaluator(BaseTrainer):
        pass

    for kind, end in ((Misspelt, "; is '_train_epok' meant to be it?"), (Evaluator, "")):
        model = torch.nn.Linear(4, 3)
        trainer = kind(model, None, [], torch.optim.SGD(model.parameters()), ConfigParser(tiny_config(tmp_path)))
        with pytest.raises(UserError) as raised:
            trainer.train()
        assert str(raised.value) == f"{kind.__name__}: has no _train_epoch, so it cannot train{end}"
    assert not [*tmp_path.iterdir()]


def test_the_exported_trainer_describes_its_parameters():
    parameters = inspect.signature(BaseTrainer).parameters
    assert [*parameters][:5] == ["model", "criterion", "metric_ftns", "optimizer", "config"]
    assert "torch.nn.Module" in str(parameters["model"]) and "_train_epoch" in BaseTrainer.__doc__
    assert all(f"{name}" in BaseTrainer.__doc__ for name in parameters)


def test_an_evaluator_can_be_built_and_has_the_weights_of_the_checkpoint(tmp_path):
    class Evaluator(BaseTrainer):
        def __init__(self, model, criterion, metric_ftns, config):
            super().__init__(model, criterion, metric_ftns, None, config)

        def evaluate(self):
            return self.model.weight.to(self.device)

    trainer = old_trainer(ConfigParser(tiny_config(tmp_path)))
    trainer.train()
    config = ConfigParser(trainer.config.config, trainer.checkpoint_dir / "checkpoint-epoch2.pth")
    evaluator = Evaluator(torch.nn.Linear(4, 3), None, [], config)
    assert torch.equal(evaluator.evaluate(), trainer.model.weight)
    with pytest.raises(UserError, match=r"^Evaluator: has no _train_epoch, so it cannot train$"):
        evaluator._train_epoch(1)


_NESTED = """
import argparse
import torch
import hw_asr.utils as own
from hw_asr.base import BaseDataLoader, BaseTrainer
from hw_asr.base.base_trainer import BaseTrainer as Plain
from hw_asr.parse_config import ConfigParser
from hw_asr.trainer import Trainer
import base.base_trainer
import utils
assert Plain is base.base_trainer.BaseTrainer and issubclass(Trainer, Plain) and own is utils
parser = argparse.ArgumentParser()
parser.add_argument("-c", "--config")
parser.add_argument("-r", "--resume")
config = ConfigParser.from_args(parser)
model = torch.nn.Linear(4, 3)
optimizer = config.init_obj("optimizer", torch.optim, model.parameters())
data = torch.utils.data.TensorDataset(torch.randn(20, 4), torch.arange(20) % 3)
loader = BaseDataLoader(data, 4, True, 0.2, 0)
Trainer(model, torch.nn.functional.cross_entropy, [], optimizer, config, loader).train()
"""


def test_a_framework_within_a_package_is_found_from_the_top_and_from_the_package(tmp_path):
    package = tmp_path / "hw_asr"
    (package / "trainer").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for name in ("base", "logger", "utils", "parse_config.py"):
        (package / name).symlink_to(PROJECT / name)
    lines = Path(__file__).read_text()
    own = lines[lines.index("class Old(") : lines.index("def accuracy")]
    (package / "trainer/__init__.py").write_text("from .own import Old as Trainer\n")
    (package / "trainer/own.py").write_text(f"from ..base import BaseTrainer\nfrom ..utils import MetricTracker\n{own}")
    (tmp_path / "train.py").write_text(_NESTED)
    write_json(tiny_config(tmp_path / "saved", verbosity=1), tmp_path / "job.json")
    run_forked("train.py", "-c", "job.json", cwd=tmp_path)
    (path,) = (tmp_path / "saved/models").rglob("checkpoint-epoch2.pth")
    done = run_forked("train.py", "-r", path, "--set", "trainer.epochs=3", cwd=tmp_path)
    assert "epoch 3/3" in done.stdout
