"""What several tests need: tiny jobs that train in milliseconds, and commands run as a user types them."""

import contextlib
import csv
import gc
import io
import os
import re
import runpy
import shutil
import subprocess
import sys
import unittest.mock
from importlib import metadata
from pathlib import Path

import pytest
import torch

from base import BaseDataLoader
from parse_config import ConfigParser
from trainer import Trainer
from utils.runs.checkpoint import load_checkpoint
from utils.seed import seed_everything

_PINNED = dict(re.findall(r"^([\w-]+)==(\S+)$", (Path(__file__).parents[1] / "constraints.txt").read_text(), re.M))
AS_PINNED = pytest.mark.skipif(
    any(metadata.version(name) != _PINNED[name] for name in ("torch", "pydantic")),
    reason="is of the versions in constraints.txt",
)
SHARDS = pytest.mark.skipif(torch.__version__ < "2.9", reason="sharded models are saved with torch 2.9 or newer")
PROJECT = Path(__file__).resolve().parent.parent


def tiny_config(save_dir, **trainer):
    """A config whose trainer section is given by keywords; the parts are built by tiny_trainer."""
    settings = {"epochs": 2, "save_dir": str(save_dir), "verbosity": 0, "tensorboard": False, **trainer}
    optimizer = {"type": "SGD", "args": {"lr": 0.1, "momentum": 0.9}}
    return {"name": "tiny", "seed": 5, "optimizer": optimizer, "trainer": settings}


def changed(config):
    """The config with another description: a run that was stopped is only trained on with another config."""
    return config | {"description": "goes on"}


class TinyData(torch.utils.data.Dataset):
    """50 samples of 4 features, three classes; the features are jittered anew whenever a sample is read."""

    def __init__(self, jitter=0.01):
        generator = torch.Generator().manual_seed(1)
        self.features = torch.randn(50, 4, generator=generator)
        self.labels = torch.randint(3, (50,), generator=generator)
        self.jitter = jitter

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.features[index] + self.jitter * torch.randn(4), self.labels[index]


def tiny_model():
    """Everything that has a state or draws random numbers: batch norm and dropout."""
    return torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 3)
    )


class Recorder(torch.optim.SGD):
    """An optimizer that changes nothing and keeps the gradients that it was given."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.0)
        self.seen = []

    def step(self, closure=None):
        self.seen.append([parameter.grad.clone() for parameter in self.param_groups[0]["params"]])


def accuracy(output, target):
    return (output.argmax(1) == target).double().mean()


def tiny_trainer(
    config,
    resume=None,
    trainer_class=Trainer,
    schedule=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9),
    model=None,
    loader_class=BaseDataLoader,
    validation_split=0.2,
    num_workers=0,
    new_run=False,
    criterion=None,
    optimizer=None,
    metrics=(accuracy,),
    valid_data_loader=None,
    **kwargs,
):
    """A trainer of the tiny job, built as train.py builds one."""
    config = ConfigParser(config, resume=resume, new_run=new_run)
    seed_everything(config.settings.seed)
    model = model or tiny_model()
    section = config["optimizer"]
    optimizer = optimizer or getattr(torch.optim, section["type"])(model.parameters(), **section["args"])
    data_loader = loader_class(TinyData(), 8, True, validation_split, num_workers)
    return trainer_class(
        model,
        criterion or torch.nn.CrossEntropyLoss(),
        list(metrics),
        optimizer,
        config,
        torch.device("cpu"),
        data_loader,
        valid_data_loader=valid_data_loader or _validation_of(data_loader),
        lr_scheduler=schedule(optimizer) if schedule else None,
        **kwargs,
    )


def _validation_of(loader):
    return loader.split_validation() if isinstance(loader, BaseDataLoader) else None


def scripted(values, **logged):
    """A Trainer class whose epochs train nothing and log the listed values as val_loss."""

    class Scripted(Trainer):
        def _train_epoch(self, epoch):
            return {"loss": 0.5, "val_loss": values[epoch - 1], **logged}

    return Scripted


def ran(folder, values, **changes):
    """A run whose epochs came to these validation losses."""
    config = tiny_config(folder, **{"epochs": len(values), "monitor": "min val_loss", "verbosity": 1, **changes})
    trainer = tiny_trainer(config, trainer_class=scripted(values))
    trainer.train()
    return config, trainer


def checkpoint_names(trainer):
    """Names of all files of weights in the run's folder."""
    return sorted(path.name for path in trainer.checkpoint_dir.glob("*.pth"))


def newest_state(trainer):
    """What the checkpoint after an epoch that was written last holds."""
    return load_checkpoint(
        sorted(trainer.checkpoint_dir.glob("checkpoint-epoch*"), key=lambda path: path.stat().st_mtime)[-1]
    )


def metrics_rows(trainer):
    """The rows of metrics.csv, {column: text}."""
    with open(trainer.config.log_dir / "metrics.csv") as file:
        return list(csv.DictReader(file))


def same(left, right):
    """Whether two states are equal, tensors bit for bit."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def whole(loader):
    """All batches of a loader, put together."""
    return [torch.cat(parts) for parts in zip(*loader, strict=True)]


def reads_of_tensors(monkeypatch):
    """A list that grows by a word whenever python reads a tensor's values, for which it would wait for a GPU."""
    reads = []
    monkeypatch.setattr(torch.Tensor, "is_cpu", False, raising=False)  # those of the CPU are read without a wait
    for name in ("item", "tolist", "cpu", "numpy", "__float__", "__bool__", "__int__"):
        original = getattr(torch.Tensor, name)

        def counted(self, *args, _original=original, _name=name, **kwargs):
            reads.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    return reads


def run(*arguments, cwd=PROJECT, status=0, timeout=300):
    """Run `python *arguments`; the finished process, whose exit status must be the one named."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def run_here(script, *arguments, cwd=PROJECT, status=0):
    """As run, without the seconds that a process of its own takes, where it is not the process that is tested."""
    out, errors = io.StringIO(), io.StringIO()
    arguments = [script, *map(str, arguments)]
    with (
        contextlib.chdir(cwd),
        unittest.mock.patch.object(sys, "argv", arguments),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        try:
            runpy.run_path(str(PROJECT / script), run_name="__main__")
            ended = 0
        except SystemExit as exit:
            ended = exit.code
    gc.collect()  # a run's lock ends with its process, or with its config
    assert ended == status, f"exit status {ended}\n{out.getvalue()}\n{errors.getvalue()}"
    return subprocess.CompletedProcess(arguments, ended, out.getvalue(), errors.getvalue())


_SHORT = {"epochs": 1, "len_epoch": 5, "limit_valid_batches": 2, "verbosity": 1}
SHORT = tuple(word for key, value in _SHORT.items() for word in ("--set", f"trainer.{key}={value}"))


def copy_project(target, link_data=True):
    """A copy of the project's tracked parts in the folder target; the data is linked, since it is only read."""
    leave = shutil.ignore_patterns(".git", ".venv*", "saved", "__pycache__", ".*cache", ".hypothesis")
    data = PROJECT / "data"
    shutil.copytree(
        PROJECT, target, ignore=lambda at, names: {*leave(at, names), *({data.name} if Path(at) == PROJECT else ())}
    )
    (target / "data").symlink_to(data)
    return target


def named(parts):
    """[(name, raw example or the error for which it could not be read)] of Examples of base/data/inputs.py."""
    found = []
    for part in parts:
        rows = iter(part.raw)
        for place, name in enumerate(part.names):
            found.append((name, part.errors[place] if place in part.errors else next(rows)))
    return found


class InAList(torch.nn.Module):
    """A metric that keeps what it has seen where no state_dict finds it."""

    def __init__(self):
        super().__init__()
        self.hits = []

    def update(self, output, target):
        self.hits += (output.argmax(1) == target).tolist()

    def compute(self):
        return sum(self.hits) / len(self.hits)

    def reset(self):
        self.hits = []
