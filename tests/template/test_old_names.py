"""--check in a project with a script of its own: what its config names is looked up in its code and in torch."""

import sys

import pytest

from utils.errors import UserError
from utils.old_forms.config import in_todays_terms
from utils.old_forms.named import wrong_names_of_script

SCRIPT = """import argparse
import torch
import torch.optim as rates
import data.loaders as module_data
import model as module_arch
import net.loss as module_loss
import net.metric as module_metric
from parse_config import ConfigParser


def main(config):
    data = config.init_obj('data_loader', module_data)
    model = config.init_obj('arch', module_arch)
    loss = getattr(module_loss, config['loss'])
    metrics = [getattr(module_metric, met) for met in config['metrics']]
    optimizer = config.init_obj('optimizer', torch.optim, model.parameters())
    config.init_obj('lr_scheduler', torch.optim.lr_scheduler, optimizer)
    config.init_obj('second', rates, model.parameters())


if __name__ == '__main__':
    args = argparse.ArgumentParser()
    args.add_argument('-c', '--config')
    args.add_argument('-r', '--resume')
    args.add_argument('-d', '--device')
    main(ConfigParser.from_args(args))
"""
CONFIG = {
    "name": "n",
    "data_loader": {"type": "Lines", "args": {"batch_siz": 3}},
    "arch": {"type": "Anything", "args": {}},
    "loss": "mse_los",
    "metrics": ["accuracy", "recal"],
    "optimizer": {"type": "Adagrd", "args": {"lr": 1}},
    "lr_scheduler": {"type": "StepLR", "args": {"step_sizes": 3}},
    "second": {"type": "SGD", "args": {"lr": 1, "momentun": 0}},
    "trainer": {"epochs": 1, "save_dir": "saved"},
}
LINES = [
    "data_loader.args.batch_siz: Lines takes no such argument; did you mean 'batch_size'?",
    "loss: got 'mse_los'; net.loss has no such name; did you mean 'mse_loss'?",
    "lr_scheduler.args.step_sizes: StepLR takes no such argument; did you mean 'step_size'?",
    "metrics: got 'recal'; net.metric has no such name; did you mean 'recall'?",
    "optimizer.type: got 'Adagrd'; torch.optim has no such name; did you mean 'Adagrad'?",
    "second.args.momentun: SGD takes no such argument; did you mean 'momentum'?",
]


@pytest.fixture
def project(tmp_path):
    files = {
        "train.py": SCRIPT,
        "data/loaders.py": "class Lines:\n    def __init__(self, batch_size):\n        pass\n",
        "model/__init__.py": "from .net import *\n",
        "model/net.py": "",
        "net/loss.py": "def mse_loss(output, target):\n    return 0\n",
        "net/metric.py": "def accuracy(output, target):\n    return 0\n\n\ndef recall(output, target):\n    return 0\n",
    }
    for place, text in files.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(text)
    return tmp_path


def test_every_name_that_the_code_does_not_have_is_a_line(project, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(project / "train.py"), "-c", "config.json"])
    assert sorted(wrong_names_of_script(CONFIG)) == LINES
    right = CONFIG | {"loss": "mse_loss", "metrics": [], "data_loader": {"type": "Lines", "args": {"batch_size": 1}}}
    right |= {part: {"type": "SGD", "args": {"lr": 1}} for part in ("optimizer", "second")} | {"lr_scheduler": {}}
    assert wrong_names_of_script(right) == []
    monkeypatch.setattr(sys, "argv", ["-c"])
    assert wrong_names_of_script(CONFIG) == []


def test_check_refuses_them_all_at_once(project):
    from parse_config import ConfigParser

    config = ConfigParser(CONFIG)
    config.adapt_to_script()  # without --check the script finds them itself
    with pytest.MonkeyPatch.context() as patched, pytest.raises(UserError) as caught:
        patched.setattr(sys, "argv", [str(project / "train.py")])
        config.adapt_to_script(check=True)
    assert sorted(str(caught.value).splitlines()) == LINES


def test_a_list_as_monitor_is_left_to_a_trainer_of_the_projects_own():
    todays, lines = in_todays_terms({"name": "n", "trainer": {"monitor": ["min val_loss", "max acc"], "epochs": 2}})
    assert todays["trainer"] == {"epochs": 2} and len(lines) == 1
    assert lines[0].startswith("trainer.monitor: ") and lines[0].endswith("its value is left to this project's trainer")
