"""Miniature projects in the forms of the old template's three ages, in a git repository each, for test_adopt.py.

Their framework has the names of the template's, in words of its own; it need not run, since it is replaced. `stock`
makes it count as the template's, so that what a test adds to it is the project's.
"""

import ast
import json
import subprocess

import pytest

from scaffold.adopting import stock as fingerprinted

BEFORE, MIDDLE, AFTER = "before 2019-09", "from 2019-09 to 2020-11", "after 2020-11"

TRAINER = """
import torch
from logger import {writer}


class BaseTrainer:
    def __init__(self, model, {criterion}, {metrics}, optimizer, config):
        self.config = config
{device}        self.{criterion}, self.{metrics} = {criterion}, {metrics}
        self.optimizer = optimizer
        section = config['trainer']
        self.epochs = section['epochs']
        self.writer = {writer}(config.log_dir)
{own_init}
    def train(self):
        for number in range(self.epochs):
            found = self._train_epoch(number + 1)
{own_train}
    def _save_checkpoint(self, epoch):
        state = {{
            'epoch': epoch,
            'weights': self.model.state_dict(),
{own_state}        }}
        torch.save(state, 'x.pth')

{prepare}{own_methods}"""
PREPARE = """    def _prepare_device(self, wanted):
        return torch.device('cuda:0' if wanted else 'cpu')
"""
LOADER = """
import numpy as np
from torch.utils.data import DataLoader


class BaseDataLoader(DataLoader):
    def __init__(self, dataset, batch_size, shuffle, validation_split, num_workers):
        self.given = dataset, batch_size, shuffle, validation_split, num_workers

    def _split_sampler(self, split):
        order = np.arange(len(self.given[0]))
        np.random.seed(0)
        np.random.shuffle(order)
        return order[split:]

    def split_validation(self):
        return None
"""
PARSER = """
import logging
from logger import setup_logging
from utils import read_json


class ConfigParser:
    def __init__(self, {given}):
        self._log_dir = setup_logging()
{own_init}
{from_args}    def {build}(self, name, module, *args):
        return getattr(module, self.config[name]['type'])(*args)

    @property
    def log_dir(self):
        return self._log_dir
{own_methods}"""
FROM_ARGS = """    @classmethod
    def from_args(cls, args, options=''):
        return cls(args.parse_args())

"""
UTIL = """
import json
from pathlib import Path


def ensure_dir(folder):
    Path(folder).mkdir()


def read_json(path):
    return json.load(open(path))


def inf_loop(data_loader):
    while True:
        yield from data_loader


def prepare_device(wanted):
    return 'cuda:0' if wanted else 'cpu', []

"""
WRITER = """
class {name}:
    def __init__(self, folder):
        self.folder = folder

    def set_step(self, step):
        self.step = step
"""
SETUP = """
import logging


def setup_logging(folder=None):
    logging.basicConfig()
"""
SCRIPT = """import argparse
import collections

import torch

import data_loader.data_loaders as module_data
import model.model as module_arch
from parse_config import ConfigParser
from trainer import Trainer
{imports}

def main(config):
    torch.manual_seed(1)
    loader = config.{build}('data_loader', module_data)
    model = config.{build}('arch', module_arch)
{device}    optimizer = config.{build}('optimizer', torch.optim, model.parameters())
    trainer = Trainer(model, torch.nn.functional.mse_loss, [], optimizer, config, loader{more})
    trainer.train()


if __name__ == '__main__':
    args = argparse.ArgumentParser()
    args.add_argument('-c', '--config', default=None, type=str)
    args.add_argument('-r', '--resume', default=None, type=str)
    args.add_argument('-d', '--device', default=None, type=str)
    CustomArgs = collections.namedtuple('CustomArgs', 'flags type target')
    options = [CustomArgs(['--lr'], type=float, target={target})]
    main(ConfigParser{from_args}(args, options))
"""
LOOP = """from base import BaseTrainer
from utils import inf_loop


class Trainer(BaseTrainer):
    def __init__(self, model, loss, metrics, optimizer, config, data_loader{parameter}):
        super().__init__(model, loss, metrics, optimizer, config)
        self.data_loader = data_loader
        self.loss_fn = loss
        {device}

    def _train_epoch(self, epoch):
        for data, target in self.data_loader:
            self.optimizer.zero_grad()
            loss = self.loss_fn(self.model(data.to(self.device)), target.to(self.device))
            loss.backward()
            self.optimizer.step()
        return {{'loss': loss.item()}}
"""
JOB = {
    ".gitignore": "saved/\n__pycache__/\n",
    "model/model.py": "from torch import nn\n\n\nclass Net(nn.Linear):\n    pass\n",
    "data_loader/data_loaders.py": "import torch\nfrom base import BaseDataLoader\n\n\n"
    "class Lines(BaseDataLoader):\n    def __init__(self, batch_size):\n"
    "        x = torch.arange(40.0).view(20, 2) / 40\n"
    "        super().__init__(torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True)), batch_size, True, 0.0, 0)\n",
    "trainer/__init__.py": "from .trainer import *\n",
    "utils/__init__.py": "from .util import *\n",
    "base/__init__.py": "from .base_data_loader import *\nfrom .base_trainer import *\n",
    "logger/__init__.py": "from .logger import *\nfrom .visualization import *\n",
    "logger/logger.py": SETUP.lstrip(),
    "base/base_data_loader.py": LOADER.lstrip(),
}
CONFIG = {
    "name": "Lines",
    "n_gpu": 0,
    "arch": {"type": "Net", "args": {"in_features": 2, "out_features": 1}},
    "data_loader": {"type": "Lines", "args": {"batch_size": 5}},
    "optimizer": {"type": "SGD", "args": {"lr": 0.1}},
    "trainer": {"epochs": 2, "save_dir": "saved/", "save_period": 1, "verbosity": 2, "monitor": "off"},
}
WHOLE = {"BaseDataLoader._split_sampler", "BaseTrainer.train", "BaseTrainer._save_checkpoint", "MetricTracker.update"}
OWN = {"own_init": "", "own_train": "", "own_state": "", "own_methods": "", "parser_methods": "", "parser_init": ""}


def files_of(age, **own):
    """The files of a project of an age, {path: text}; own: what is the project's in base_trainer.py, as in OWN."""
    old, after, own = age == BEFORE, age == AFTER, {**OWN, **own}
    writer = "WriterTensorboardX" if old else "TensorboardWriter"
    trainer = (
        {"criterion": "loss", "metrics": "metrics"} if old else {"criterion": "criterion", "metrics": "metric_ftns"}
    )
    trainer |= {"writer": writer, "prepare": "" if after else PREPARE}
    trainer["device"] = f"        self.model = model\n{'' if after else DEVICE}"
    parser = {"given": "args, options=''" if old else "config, resume=None", "from_args": "" if old else FROM_ARGS}
    build = "initialize" if old else "init_obj"
    script = {
        "build": build,
        "imports": "from utils import prepare_device\n" if after else "",
        "device": "    device, _ = prepare_device(config['n_gpu'])\n" if after else "",
        "more": ", device" if after else "",
        "target": "('optimizer', 'args', 'lr')" if old else "'optimizer;args;lr'",
        "from_args": "" if old else ".from_args",
    }
    device = ", device" if after else ""
    loop = {"parameter": device, "device": "self.device = device" if after else "self.model.train()"}
    return JOB | {
        "base/base_trainer.py": TRAINER.format(**trainer, **own).lstrip(),
        "logger/visualization.py": WRITER.format(name=writer).lstrip(),
        "parse_config.py": PARSER.format(
            build=build, own_methods=own["parser_methods"], own_init=own["parser_init"], **parser
        ).lstrip(),
        "utils/util.py": UTIL.lstrip(),
        "train.py": SCRIPT.format(**script),
        "trainer/trainer.py": LOOP.format(**loop),
        "config.json": json.dumps(CONFIG),
    }


DEVICE = "        self.device = self._prepare_device(config['n_gpu'])\n"


def fingerprints_of(trees):
    """The content of fingerprints.json for files of the template, in any number of versions."""
    found = {}
    for node in (node for tree in trees for node in tree.body):
        parts = node.body if isinstance(node, ast.ClassDef) else [node]
        for part in parts:
            if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
                name = f"{node.name}.{part.name}" if isinstance(node, ast.ClassDef) else part.name
                digests = " ".join(unit.digest for unit in fingerprinted.units(name, part))
                found.setdefault(name, set()).add(digests)
    statements = {name: " ".join(sorted(set(" ".join(digests).split()))) for name, digests in sorted(found.items())}
    return {"statements": statements, "versions": {name: sorted(found[name]) for name in WHOLE & found.keys()}}


@pytest.fixture
def stock(tmp_path, monkeypatch):
    """Takes the framework files of the three miniatures for the old template's."""
    framework = ("base/", "logger/", "utils/", "parse_config.py")
    texts = [
        text for age in (BEFORE, MIDDLE, AFTER) for place, text in files_of(age).items() if place.startswith(framework)
    ]
    path = tmp_path / "fingerprints.json"
    path.write_text(json.dumps(fingerprints_of([ast.parse(text) for text in texts])))
    monkeypatch.setattr(fingerprinted, "_FINGERPRINTS", path)
    for cached in (fingerprinted.versions, fingerprinted.fingerprints, fingerprinted.stock_names):
        cached.cache_clear()
    yield
    for cached in (fingerprinted.versions, fingerprinted.fingerprints, fingerprinted.stock_names):
        cached.cache_clear()


def repository(folder, files):
    """A git repository in the folder with one commit that holds the files."""
    for place, text in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(text.encode())
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "as it was"]):
        git(folder, *command)
    return folder


def git(folder, *arguments):
    """What git prints."""
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout
