"""--adopt keeps a class of the template as a whole where the project's does something else in its place."""

import ast
import json
from pathlib import Path

import pytest
import torch
from forked import run_forked
from old_ages import AFTER, BEFORE, MIDDLE, files_of, repository, stock  # noqa: F401 (a fixture)

from parse_config import ConfigParser as FrameworkConfigParser
from scaffold.adopt import adopt
from scaffold.adopting import kept_classes
from scaffold.adopting.loading import load_bare_weights
from scaffold.adopting.reading import Source
from scaffold.adopting.whole import differs, repaired
from utils.old_forms.own_config import OwnConfigParser
from utils.runs.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("stock", "unchecked")

PARSER = """
import json
from pathlib import Path
from logger import setup_logging
from utils import read_json


class ConfigParser:
    def __init__(self, config, fold, resume=None):
        self._config, self.resume = config, resume
        self._save_dir = Path(config['trainer']['save_dir']) / f'fold{fold}'
        self._save_dir.mkdir(parents=True, exist_ok=True)
        setup_logging(self._save_dir)

    @classmethod
    def from_args(cls, args, fold, options=''):
        args = args.parse_args()
        return cls(read_json(args.config), fold, args.resume)

    def init_obj(self, name, module, *args):
        return getattr(module, self.config[name]['type'])(*args, **self.config[name]['args'])

    def __getitem__(self, name):
        return self.config[name]

    @property
    def config(self):
        return self._config

    @property
    def save_dir(self):
        return self._save_dir

    @property
    def log_dir(self):
        return self._save_dir
"""
MODEL = """
import os

import torch


class Net(torch.nn.Linear):
    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.register_buffer('only', torch.tensor(int.from_bytes(os.urandom(4), 'big')))  # another in each process
"""
TRAIN = """
    def train(self):
        for number in range(self.start_epoch, self.epochs + 1):
            found, more = self._train_epoch(number, self.epochs)
            self._save_checkpoint(number)

    def _resume_checkpoint(self, path):
        checkpoint = torch.load(path)
        self.start_epoch = checkpoint['epoch'] + 1
        assert checkpoint['config']['name'] == 'Lines'
        self.model.load_state_dict(checkpoint['weights'])

    def _save_checkpoint(self, epoch):
        state = {'epoch': epoch, 'weights': self.model.state_dict(), 'config': self.config}
        torch.save(state, str(self.config.save_dir / f'checkpoint-epoch{epoch}.pth'))

    def _prepare_device"""


def adopted(tmp_path, capsys, files):
    """(the project, the report) of a move."""
    project = repository(tmp_path / "old", files)
    adopt(project)
    return project, capsys.readouterr().out


def own_loop(text):
    """A BaseTrainer whose train() gives an epoch two arguments and takes two results."""
    text = text.replace("TensorboardWriter(config.log_dir)", "None")
    head, _, rest = text.partition("    def train(self):")
    ready = "        self.start_epoch = 1\n        if config.resume is not None:\n"
    ready += "            self._resume_checkpoint(config.resume)\n"
    return head.rstrip() + "\n" + ready + TRAIN.rstrip() + rest.partition("    def _prepare_device")[2]


def test_a_parser_and_a_loop_with_other_arguments_train_and_resume_as_they_did(tmp_path, capsys):
    files = files_of(MIDDLE)
    files["parse_config.py"] = PARSER.lstrip()
    files["base/base_trainer.py"] = own_loop(files["base/base_trainer.py"])
    files["train.py"] = files["train.py"].replace("from_args(args, options)", "from_args(args, 3, options)")
    loop = files["trainer/trainer.py"].replace("(self, epoch)", "(self, epoch, epochs)")
    files["trainer/trainer.py"] = loop.replace("return {'loss': loss.item()}", "return {'loss': loss.item()}, epochs")
    files["model/model.py"] = MODEL
    project, report = adopted(tmp_path, capsys, files)
    assert "ConfigParser takes other arguments in __init__ than the framework's, so it is kept as a whole" in report
    assert "BaseTrainer runs an epoch by `self._train_epoch(number, self.epochs)`, so it is kept as a whole" in report
    run_forked("train.py", "-c", "config.json", cwd=project)
    checkpoint = project / "saved/fold3/checkpoint-epoch1.pth"
    end = load_checkpoint(project / "saved/fold3/checkpoint-epoch2.pth")["weights"]
    (project / "saved/fold3/checkpoint-epoch2.pth").unlink()
    run_forked("train.py", "-c", "config.json", "-r", checkpoint, cwd=project)
    again = load_checkpoint(project / "saved/fold3/checkpoint-epoch2.pth")["weights"]
    assert not checkpoint.with_name("checkpoint-epoch3.pth").exists() and again["only"] == end["only"]


def test_a_parser_of_its_own_gives_the_frameworks_trainer_what_it_needs(tmp_path, capsys):
    files = files_of(AFTER)
    files["parse_config.py"] = PARSER.lstrip()
    files["train.py"] = files["train.py"].replace("from_args(args, options)", "from_args(args, 3, options)")
    project, _ = adopted(tmp_path, capsys, files)
    run_forked("train.py", "-c", "config.json", cwd=project)
    run_forked("train.py", "-c", "config.json", "-r", "saved/fold3/checkpoint-epoch1.pth", cwd=project)
    assert json.loads((project / "config.json").read_text())["name"] == "Lines"
    assert sorted(path.name for path in (project / "saved/fold3").glob("*.pth")) == [
        "checkpoint-epoch1.pth",
        "checkpoint-epoch2.pth",
    ]


def made(text, **names):
    """What repaired() makes of a class, executed."""
    (node,) = ast.parse(text).body
    exec(repaired(Source("x.py", ast.parse(text), text.split("\n")), node).code, names)  # of this test
    return names[node.name]


def test_a_parser_that_is_one_object_for_all_can_be_built():
    text = """class ConfigParser:
    one = None

    def __new__(cls, args):
        raise NotImplementedError

    @classmethod
    def get_instance(cls, args=None):
        if not cls.one:
            cls.one = super().__new__(cls)
            cls.one.__init__(args)
        return cls.one

    def __init__(self, args):
        self.resume, self._config, self._save_dir = None, {'a': args}, 'here'
"""
    parser = made(text, OwnConfigParser=OwnConfigParser, FrameworkConfigParser=FrameworkConfigParser)
    config = parser.get_instance(3)
    assert parser.get_instance() is config and not config.has_ended
    assert (config._config, config._save_dir, config._log_dir, config.own_keys) == ({"a": 3}, "here", "here", ["a"])


def test_a_trainer_of_2018_gets_its_own_logger_from_its_checkpoints():
    text = """class BaseTrainer:
    def _resume_checkpoint(self, path):
        checkpoint = torch.load(path)
        {}
"""
    source = text.format("self.train_logger = checkpoint['logger']")
    (node,) = ast.parse(source).body
    code, imports, *_ = repaired(Source("x.py", ast.parse(source), source.split("\n")), node)
    assert "checkpoint = torch_load(path)\n" in code and len(imports) == 1
    source = text.format("self.best = checkpoint['monitor_best']")
    (node,) = ast.parse(source).body
    code, imports, *_ = repaired(Source("x.py", ast.parse(source), source.split("\n")), node)
    assert "checkpoint = load_checkpoint(path)\n" in code and len(imports) == 1
    before = torch.serialization.get_safe_globals()
    try:
        logger = made("class Logger:\n    pass", torch=torch)
        assert logger in torch.serialization.get_safe_globals()
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def kept_parser(text):
    """(work, code) of the ConfigParser in a file."""
    source = Source("parse_config.py", ast.parse(text), text.split("\n"))
    classes = kept_classes.Classes(source, set(), set())
    code = classes.keep(source.definitions()["ConfigParser"])
    return [item.reason for item in classes.work], code or ""


def test_a_get_that_takes_no_default_does_not_replace_the_frameworks():
    text = files_of(AFTER)["parse_config.py"] + "\n    def get(self, name{}):\n        return self.config[name]\n"
    (reason,), code = kept_parser(text.format(""))
    assert reason.startswith("ConfigParser.get: the framework's ConfigParser has something of this name")
    assert "def get" not in code
    work, code = kept_parser(text.format(", default=None"))
    assert not work and "def get" in code
    work, code = kept_parser(PARSER + "\n    def get(self, name):\n        return self.config[name]\n")
    assert "def get" in code and "the framework calls get(name, default)" in work[-1]


@pytest.mark.parametrize(("decorator", "is_field"), [("@dataclass\n", True), ("", False)])
def test_a_type_alone_is_kept_where_it_is_a_field(decorator, is_field):
    text = files_of(AFTER)["parse_config.py"].replace(
        "class ConfigParser:", f"{decorator}class ConfigParser:\n    fold: int"
    )
    assert "fold: int" in text
    work, code = kept_parser(text)
    assert ("fold: int" in code) == is_field == any("loses dataclass" in line for line in work)


def test_a_parser_that_is_kept_as_a_whole_keeps_its_bases_and_its_metaclass(tmp_path):
    single = """
class Single(type):
    made = {}

    def __call__(cls, *args):
        if cls not in cls.made:
            cls.made[cls] = super().__call__(*args)
        return cls.made[cls]
"""
    text = single + PARSER.replace(
        "class ConfigParser:", "@whole\nclass ConfigParser(Named, object, metaclass=Single):"
    )
    work, code = kept_parser(text)
    assert "class ConfigParser(OwnConfigParser, Named, FrameworkConfigParser, metaclass=Single):\n" in code
    assert code.lstrip().startswith("@whole\n") and "ConfigParser is kept as a whole with @whole" in work[-1]
    given = {
        "OwnConfigParser": OwnConfigParser,
        "FrameworkConfigParser": FrameworkConfigParser,
        "whole": lambda kind: kind,
        "Path": Path,
    }
    given["Named"] = type("Named", (), {"get": lambda self, name: self._config[name]})
    exec(single + code.replace("setup_logging(self._save_dir)", "pass"), given)  # of this test
    content = {"name": "n", "trainer": {"save_dir": str(tmp_path)}}
    config = given["ConfigParser"](content, 1)
    assert given["ConfigParser"](content, 2) is config and config.get("name") == "n" and config.variants == []


def test_a_trainer_that_is_kept_as_a_whole_keeps_its_own_writer(tmp_path, capsys):
    files = files_of(BEFORE)
    loop = files["base/base_trainer.py"].replace("from logger import", "from logger.visualization import")
    loop = loop.replace("result = self._train_epoch(number)", "result, _ = self._train_epoch(number), 0")
    loop = loop.replace(
        "found = self._train_epoch(number + 1)",
        "self.writer.addGraph(number)\n            found, more = self._train_epoch(number + 1)",
    )
    files["base/base_trainer.py"] = loop
    files["logger/visualization.py"] += "\n    def addGraph(self, model):\n        self.graph = model\n"
    project, report = adopted(tmp_path, capsys, files)
    assert "kept in own/visualization.py, of logger/visualization.py: WriterTensorboardX as a whole" in report
    assert "def addGraph" in (project / "own/visualization.py").read_text()
    assert "from own.visualization import WriterTensorboardX" in (project / "own/base_trainer.py").read_text()


def test_a_changed_writer_that_nothing_kept_uses_is_listed(tmp_path, capsys):
    files = files_of(BEFORE)
    files["logger/visualization.py"] += "\n    def addGraph(self, model):\n        self.graph = model\n"
    project, report = adopted(tmp_path, capsys, files)
    assert "of WriterTensorboardX.addGraph: the framework's writer is used; what it lacks" in report
    assert not (project / "own/visualization.py").exists()


def test_a_trainer_that_calls_a_stock_epoch_and_logs_it_is_no_other():
    text = "class BaseTrainer:\n    def train(self):\n        for epoch in range(3):\n"
    text += "            {} = self._train_epoch(epoch{})\n            self._log_epoch(epoch, result)\n"
    for result, more, differing in (("result", "", False), ("result, more", "", True), ("result", ", 3", True)):
        (node,) = ast.parse(text.format(result, more)).body
        assert bool(differs(node, {})) == differing


def test_a_trainer_without_an_optimizer_is_kept(tmp_path, capsys):
    files = files_of(BEFORE)
    text = files["base/base_trainer.py"]
    files["base/base_trainer.py"] = text.replace(", optimizer, config", ", config").replace("= optimizer", "= None")
    project, report = adopted(tmp_path, capsys, files)
    assert "BaseTrainer is not given a model, an optimizer and a config, so it is kept as a whole" in report
    assert "class BaseTrainer:\n" in (project / "own/base_trainer.py").read_text()


def test_methods_of_a_parser_that_allow_more_than_the_templates_or_the_frameworks_are_kept(
    tmp_path, capsys, monkeypatch
):
    def gaps(function, node):  # the template's init_obj refused an argument that the config gives, too
        return [node.lineno] if function == "ConfigParser.init_obj" else []

    monkeypatch.setattr(kept_classes, "lines_of_gaps", gaps)
    files = files_of(AFTER)
    files["parse_config.py"] += (
        "\n    @classmethod\n    def from_file(cls, path):\n        return cls(read_json(path))\n"
    )
    project, report = adopted(tmp_path, capsys, files)
    assert "ConfigParser, a subclass with init_obj, from_file\n" in report
    assert "nothing is left to do by hand" in report
    assert "return cls(read_json(path))" in (project / "own/parse_config.py").read_text()


def test_a_file_of_the_project_within_a_room_is_no_missing_name(tmp_path, capsys):
    files = files_of(AFTER) | {"utils/rates.py": "def slow():\n    return 1\n"}
    files["train.py"] = files["train.py"].replace("import torch\n", "import torch\nfrom utils import rates\n", 1)
    project, report = adopted(tmp_path, capsys, files)
    assert "nothing is left to do by hand" in report
    assert "from utils import rates\n" in (project / "train.py").read_text()


def test_weights_are_loaded_into_the_bare_model_after_dataparallel():
    text = "import torch\n\n\ndef main(model, config, weights):\n    if config['n_gpu'] > 1:\n"
    text += "        model = torch.nn.DataParallel(model)\n    model.load_state_dict(weights)\n"
    text += "    other.load_state_dict(weights)\n"
    new, done = load_bare_weights("test.py", text)
    assert "    load_weights(model, weights)\n    other.load_state_dict(weights)\n" in new
    assert new.startswith("import torch\nfrom utils.runs.weights import load_weights\n")
    assert [(item.place, item.after) for item in done] == [("test.py:7", "load_weights(model, weights)")]
    quoted = text.replace("weights)\n    other", 'state["weights"])\n    other') + "\n\nmain(1, 2)\nimport later\n"
    new, done = load_bare_weights("test.py", f'#!/usr/bin/env python\n"""Tests."""\n{quoted}')
    assert '    load_weights(model, state["weights"])\n' in new and len(done) == 1
    assert '"""Tests."""\nimport torch\nfrom utils.runs.weights import load_weights\n' in new
    new, _ = load_bare_weights("test.py", "# coding: utf-8\n" + text.removeprefix("import torch\n\n\n"))
    assert new.startswith("# coding: utf-8\nfrom utils.runs.weights import load_weights\ndef main")
    bare = text.replace("torch.nn.DataParallel(model)", "model.cuda()")
    assert load_bare_weights("test.py", bare) == (bare, [])
