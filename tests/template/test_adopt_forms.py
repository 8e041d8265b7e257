"""--adopt takes forms of the template that projects wrote in other words: imports, types, scripts of other names."""

import ast
import json

import pytest
from forked import run_forked
from old_ages import AFTER, BEFORE, CONFIG, files_of, repository, stock  # noqa: F401 (a fixture)

from scaffold.adopt import adopt
from scaffold.adopting import checking
from scaffold.adopting.checking import checked
from scaffold.adopting.reading import Source
from scaffold.adopting.stock import own_units
from scaffold.adopting.tree import Tree

pytestmark = pytest.mark.usefixtures("stock", "unchecked")

MODULES = """import base.base_trainer as first
from base import base_trainer as second
from base import base_trainer, base_data_loader
from base.base_trainer import BaseTrainer
from base.base_data_loader import *
import base.base_trainer
import logger.visualization as shown
from logger import visualization
from utils.visualization import WriterTensorboardX

import base as ours

trainers = [first.BaseTrainer, second.BaseTrainer, base_trainer.BaseTrainer, base.base_trainer.BaseTrainer, BaseTrainer]
assert set(trainers) == {ours.BaseTrainer}, trainers
assert BaseDataLoader is base_data_loader.BaseDataLoader is ours.BaseDataLoader
writers = [shown.WriterTensorboardX, visualization.WriterTensorboardX, WriterTensorboardX]
assert [writer.__base__.__name__ for writer in writers] == ["TensorboardWriter"] * 3, writers
"""


@pytest.mark.slow
def test_a_module_under_another_name_has_the_old_forms_too(tmp_path, capsys):
    files = files_of(BEFORE) | {"look.py": MODULES}
    files["utils/visualization.py"] = files["logger/visualization.py"]
    project = repository(tmp_path / "old", files)
    adopt(project)
    assert "nothing is left to do by hand" in capsys.readouterr().out
    run_forked("look.py", cwd=project)


def test_what_is_kept_elsewhere_is_work_for_a_module_under_another_name(tmp_path, capsys):
    files = files_of(AFTER, own_methods="    def mine(self):\n        return 1\n")
    files["look.py"] = "import base.base_trainer as first\n\nclass Mine(first.BaseTrainer):\n    pass\n"
    adopt(repository(tmp_path / "old", files))
    expected = (
        "look.py:3: base.base_trainer.BaseTrainer is the framework's there; yours is own.base_trainer.BaseTrainer"
    )
    assert expected in capsys.readouterr().out


def test_types_are_no_change(tmp_path, capsys):
    files = files_of(AFTER)
    plain = files["base/base_trainer.py"]
    text = plain.replace("    def __init__", "    model: object\n\n    def __init__", 1)
    text = text.replace("optimizer, config):", "optimizer: object, config: dict) -> None:").replace(
        "        self.epochs =", "        self.writer: object\n        self.epochs: int ="
    )
    text = text.replace("        state = {", "        state: dict = {").replace(
        "def train(self):", "def train(self) -> None:"
    )
    files["base/base_trainer.py"] = text
    adopt(repository(tmp_path / "old", files))
    report = capsys.readouterr().out
    assert "nothing is left to do by hand" in report and "kept in" not in report


def test_a_statement_with_a_type_of_its_own_is_found_at_its_place():
    (node,) = ast.parse("def train(self):\n    mine: int = 3\n    other: int\n").body
    (unit,) = [unit for unit in own_units("BaseTrainer.train", node) if unit.node is not node]
    assert unit.node is node.body[0] and unit.line == 2


def test_each_config_is_checked_with_the_script_that_takes_it(tmp_path, monkeypatch):
    files = dict.fromkeys(("train.py", "train_vec.py", "train_old.py"), "config = ConfigParser.from_args(args)\n")
    files |= {name: json.dumps(CONFIG) for name in ("config.json", "vec.json", "other.json")}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    asked = []

    def check(tree, command):
        asked.append((command[1], command[3]))
        return ["no such part"] if command[1] == "train.py" and command[3] != "config.json" else []

    monkeypatch.setattr(checking, "check", check)
    sources = {name: Source(name, ast.parse(text), []) for name, text in files.items() if name.endswith(".py")}
    told, work = checked(Tree(tmp_path, tmp_path, sorted(files)), sources, dry_run=False)
    assert asked == [
        ("train.py", "config.json"),
        ("train.py", "other.json"),
        ("train_old.py", "other.json"),
        ("train_vec.py", "vec.json"),
    ]
    assert told[1] == "python train_old.py --config other.json --check: no errors" and not work
    assert told[2] == "    train.py with other.json: 1 error (--check says: no such part)"
    assert not [line for line in told if "none of the configs" in line]
    sources.pop("train_old.py")
    monkeypatch.setattr(checking, "check", lambda *given: [])
    told, _ = checked(Tree(tmp_path, tmp_path, ["config.json"]), sources, dry_run=False)
    assert "train_vec.py: none of the configs was checked with it" in told


def test_scripts_with_which_a_config_was_not_tried_are_named(tmp_path, monkeypatch):
    names = ["train.py", *(f"train_{i}.py" for i in range(5))]
    for name in names:
        (tmp_path / name).write_text("config = ConfigParser.from_args(args)\n")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    sources = {name: Source(name, ast.parse((tmp_path / name).read_text()), []) for name in names}
    monkeypatch.setattr(
        checking, "check", lambda tree, command: [f"no part {i}" for i in range(1 + ("0" not in command[1]))]
    )
    told, work = checked(Tree(tmp_path, tmp_path, ["config.json", *names]), sources, dry_run=False)
    assert told[:5] == [
        "python train_0.py --config config.json --check: 1 left to do",
        "    train.py with config.json: 2 errors (--check says: no part 0; --check says: no part 1)",
        "    train_1.py with config.json: 2 errors (--check says: no part 0; --check says: no part 1)",
        "    train_2.py with config.json: 2 errors (--check says: no part 0; --check says: no part 1)",
        "    not tried with config.json: train_3.py, train_4.py",
    ]
    assert [item.reason for item in work] == ["--check says: no part 0"]
