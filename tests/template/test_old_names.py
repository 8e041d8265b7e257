"""--check in a project with a script of its own: what its config names is looked up in its code and in torch."""

import ast
import sys

import pytest
import torch

from helpers import tiny_config
from logger import TensorboardWriter
from parse_config import ConfigParser
from utils import read_json
from utils.config.components import OWN_SECTION
from utils.config.types import resolve
from utils.errors import UserError
from utils.old_forms.config import in_todays_terms
from utils.old_forms.named import wrong_names, wrong_names_of_script
from utils.old_forms.names import old_name

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
    several = CONFIG["second"] | {"args": {"momentun": 0, "lrr": 1, "nesterof": 1, "dampenin": 1, "weigt_decay": 0}}
    lines = wrong_names_of_script({"second": several})
    assert [line.split(":")[0].rpartition(".")[2] for line in lines] == list(several["args"])
    right = CONFIG | {"loss": "mse_loss", "metrics": [], "data_loader": {"type": "Lines", "args": {"batch_size": 1}}}
    right |= {part: {"type": "SGD", "args": {"lr": 1}} for part in ("optimizer", "second")} | {"lr_scheduler": {}}
    assert wrong_names_of_script(right) == []
    monkeypatch.setattr(sys, "argv", ["-c"])
    assert wrong_names_of_script(CONFIG) == []


@pytest.mark.parametrize(
    "lookup",
    [
        "if config['big']:\n    config.init_obj('it', {0})\nelse:\n    config.init_obj('it', {1})",
        "it = getattr({0}, config['it'], None) or getattr({1}, config['it'])",
        "try:\n    import a.b as both\nexcept ImportError:\n    import net.loss as both\ngetattr(both, config['it'])",
        "config.init_obj('it', module={0})\nconfig.init_obj('it', {1})",
    ],
)
def test_what_is_looked_up_in_several_modules_is_passed_over(lookup):
    def read(module):
        names = {"net.loss": "mse_loss", "net.metric": "accuracy"}
        return ast.parse(f"{names[module]} = 1") if module in names else None

    for first, second in (("loss", "metric"), ("metric", "loss")):
        script = ast.parse(f"import net.loss as loss\nfrom net import metric\n{lookup.format(first, second)}")
        for name in ("mse_loss", "accuracy"):
            assert not list(wrong_names({"it": name}, script, read))
            assert not list(wrong_names({"it": {"type": name, "args": {}}}, script, read))


def test_types_with_a_dot_are_left_to_init_obj():
    import model.model

    def read(module):
        return ast.parse("class MnistModel:\n    pass") if module == "model.model" else None

    script = ast.parse("import torch\nimport model.model as arch\nc.init_obj('a', arch)\nc.init_obj('o', torch.optim)")
    for section, home, name in (
        ("a", model.model, "MnistModel"),
        ("a", model.model, "model.MnistModel"),
        ("a", model.model, "model.model.MnistModel"),
        ("o", torch.optim, "SGD"),
        ("o", torch.optim, "torch.optim.SGD"),
    ):
        assert callable(resolve(name, home, OWN_SECTION))
        assert list(wrong_names({section: {"type": name, "args": {}}}, script, read)) == []
    assert len(list(wrong_names({"o": {"type": "SDG"}, "a": {"type": "Mnist"}}, script, read))) == 2
    assert list(wrong_names({"o": {"type": ["SGD"]}}, script, read)) == []


def test_check_refuses_every_wrong_name_at_once_after_its_warnings(project, capsys):
    from parse_config import ConfigParser

    config = ConfigParser(CONFIG)
    config.adapt_to_script()  # without --check the script finds them itself
    config.own_keys.append("num_gpu")  # resembles n_gpu
    with pytest.MonkeyPatch.context() as patched, pytest.raises(UserError) as caught:
        patched.setattr(sys, "argv", [str(project / "train.py")])
        config.adapt_to_script(check=True)
    assert "num_gpu: is kept as a key of this project's own" in capsys.readouterr().out
    assert sorted(str(caught.value).splitlines()) == LINES


def test_a_list_as_monitor_is_left_to_a_trainer_of_the_projects_own():
    todays, lines = in_todays_terms({"name": "n", "trainer": {"monitor": ["min val_loss", "max acc"], "epochs": 2}})
    assert todays["trainer"] == {"epochs": 2} and len(lines) == 1
    assert lines[0].startswith("trainer.monitor: ") and lines[0].endswith("its value is left to this project's trainer")


def test_names_of_a_run_in_the_config_of_2019(tmp_path):
    config = ConfigParser(tiny_config(tmp_path))
    assert (config.exper_name, config.timestamp) == ("tiny", config.save_dir.name)
    assert read_json(config.cfg_fname) == config.config
    config.timestamp = "mine"  # as a constructor of a subclass did
    assert config.timestamp == "mine"


def test_the_writer_of_2018_takes_its_arguments_by_name(tmp_path):
    kind = old_name("logger", "WriterTensorboardX")
    for writer in (kind(writer_dir=tmp_path, logger=None, enable=False), kind(tmp_path, None, False)):
        assert isinstance(writer, TensorboardWriter) and writer.writer is None and writer.log_dir == tmp_path
