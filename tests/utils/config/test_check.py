"""What a hostile config makes the check say: as many short lines as help, each of printable text."""

import random

import pytest

from helpers import PROJECT
from model import metric
from parse_config import PARTS
from utils import UserError
from utils.config.check import check_config, notes
from utils.config.files import read_config, set_by_path
from utils.config.schema import KNOWN_KEYS

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789" * 2


def told(**sections):
    """Lines of what is wrong with the default job, with other sections."""
    with pytest.raises(UserError) as refused:
        check_config({**read_config(PROJECT / "config.json"), **sections}, PARTS)
    lines = str(refused.value).splitlines()
    assert all(line.isprintable() and len(line) < 3_000 for line in lines)
    return lines


def anagrams(number):
    """Words of the same letters, which take the longest to compare."""
    chance = random.Random(1)
    return ["x" + "".join(chance.sample(LETTERS, 60)) for _ in range(number)]


@pytest.mark.parametrize(
    "sections",
    [
        {"metrics": anagrams(100)},
        {"callbacks": [{"type": name} for name in anagrams(100)]},
        {"optimizer": {name: {"type": name} for name in anagrams(300)}},
        {"lr_scheduler": {"type": "SequentialLR", "args": {"schedulers": [{"type": name} for name in anagrams(300)]}}},
        {"arch": {"type": "MnistModel", "args": dict.fromkeys(anagrams(900), 1)}},
        {
            "trainer": {
                "epochs": 1,
                **{f"epocs{'x' * i}": 1 for i in range(2)},
                **{f"log_ste{i}": 1 for i in range(900)},
            }
        },
        {"own": 1, "cli": [{"flag": f"--f{i}", "target": name} for i, name in enumerate(anagrams(100))]},
    ],
    ids=lambda sections: next(iter(sections)),
)
def test_of_a_great_many_mistakes_the_first_twenty_are_told(sections):
    lines = told(**sections)
    assert len(lines) == 21 and lines[-1] == "and more errors; fix these first"


@pytest.mark.parametrize("section", ["metrics", "callbacks", "trackers", "cli"])
def test_lists_of_things_to_build_are_short(section):
    assert told(**{section: ["accuracy"] * 9_000})[0] == f"{section}: has 9,000 entries; it should have at most 100"


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"name": "a\x9b31mb"}, r"name: got 'a\x9b31mb'; it should be the path"),
        ({"name": "a" * 300}, "name: got 'aaa"),
        ({"arch": {"type": "a\n"}}, r"arch.type: got 'a\n'; it should be one line of printable text"),
        ({"arch": {"type": "a" * 90_000}}, "arch.type: got 'aaa"),
        ({"loss": "a\x1b"}, r"loss: got 'a\x1b'; it should be one line of printable text"),
        ({"metrics": ["a\u202e"]}, r"metrics.0: got 'a\u202e'; it should be one line of printable text"),
        ({"trainer": {"epochs": 1, "save_dir": "a\nb"}}, r"trainer.save_dir: got 'a\nb'; it should be the path"),
        ({"trainer": {"epochs": 1, "save_dir": "a" * 5_000}}, "trainer.save_dir: got 'aaa"),
        ({"trainer": {"epochs": 1, "monitor": "min \x1b"}}, r"trainer.monitor: got 'min \x1b'; it should be one line"),
        ({"init_weights": {"path": "\x1b[2Jx.pth"}}, r"init_weights.path: got '\x1b[2Jx.pth'; it should be the path"),
        ({"init_weights": {"path": "a" * 5_000}}, "init_weights.path: got 'aaa"),
        (
            {"init_weights": {"path": "config.json", "rename": {"a{99999999999}": ""}}},
            "init_weights.rename: 'a{99999999999}' is not a regular expression",
        ),
        (
            {"init_weights": {"path": "config.json", "rename": {f"a{i}": "" for i in range(101)}}},
            "init_weights.rename: got {'a0'",
        ),
        ({"init_weights": {"path": "config.json", "skip": ["[" * 201]}}, "init_weights.skip: got ['[[["),
        ({"optimizer": {"type": "Adam", "groups": [{"params": ["a"] * 101}]}}, "optimizer.groups.0.params: got ['a'"),
        (
            {"cli": [{"flag": "--f", "target": "seed", "help": "\x1b"}]},
            r"cli.0.help: got '\x1b'; it should be one line",
        ),
        ({"cli": [{"flag": "--f", "target": "a\x1b"}]}, r"cli.0.target: got 'a\x1b'; it should be one line"),
        ({"cli": [{"flag": "--" + "f" * 99, "target": "seed"}]}, "cli.0.flag: got '--fff"),
        ({"device": "cuda:" + "9" * 5_000}, "device: got 'cuda:999"),
    ],
)
def test_text_that_is_shown_or_becomes_a_path_is_one_printable_line(sections, line):
    assert told(**sections)[0].startswith(line)


def test_expressions_that_take_long_to_compile_are_refused(monkeypatch):
    monkeypatch.setattr("utils.patterns._SECONDS", 0.05)
    slow = {"(?i)" + "[!-\U0002fa1d]" * 30 + str(i): "" for i in range(9)}
    lines = told(init_weights={"path": str(PROJECT / "config.json"), "rename": slow})
    assert lines == ["init_weights.rename: the patterns take more than 0.05 seconds; make them simpler"]


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"optimizer": {"type": "Adam", "lr": 0.5}}, "optimizer.lr: belongs in args: optimizer.args.lr"),
        (
            {"optimizer": {"type": "SGD", "args": {"lr": 0.1}, "momentum": 0.9}},
            "optimizer.momentum: belongs in args: optimizer.args.momentum",
        ),
        (
            {"optimizer": {"conv*": {"type": "SGD", "lr": 1}, "fc*": {"type": "SGD", "args": {"lr": 1}}}},
            "optimizer.conv*.lr: belongs in args: optimizer.conv*.args.lr",
        ),
        (
            {"lr_scheduler": {"type": "StepLR", "step_size": 5}},
            "lr_scheduler.step_size: belongs in args: lr_scheduler.args.step_size",
        ),
        ({"arch": {"type": "MnistModel", "dropout": 0.1}}, "arch.dropout: belongs in args: arch.args.dropout"),
        (
            {"loss": {"type": "torch.nn.CrossEntropyLoss", "label_smoothing": 0.1}},
            "loss.label_smoothing: belongs in args: loss.args.label_smoothing",
        ),
        (
            {"metrics": ["accuracy", {"type": "top_k_acc", "k": 2}]},
            "metrics.1.k: belongs in args: metrics.1.args.k",
        ),
        ({"callbacks": [{"type": "EMA", "decay": 0.9}]}, "callbacks.0.decay: belongs in args: callbacks.0.args.decay"),
        (
            {
                "data_loader": {
                    "type": "MnistDataLoader",
                    "batch_size": 8,
                    "args": {"data_dir": "data/", "validation_split": 0.1},
                }
            },
            "data_loader.batch_size: belongs in args: data_loader.args.batch_size",
        ),
    ],
)
def test_an_argument_beside_args_is_told_where_it_belongs(sections, line):
    assert told(**sections) == [line]


def test_other_keys_of_a_section_are_the_projects_own():
    config = read_config(PROJECT / "config.json")
    config["optimizer"] |= {"mine": 3, "every_other": 1}
    config["my_optimizer"] = {"type": "Adam", "lr": 0.1}  # a section that the project's own script builds
    assert check_config(config, PARTS) == ["my_optimizer", "optimizer.mine", "optimizer.every_other"]
    config["optimizer"]["lr"] = 0.1
    assert "optimizer.lr" not in check_config(config, {})


def test_keys_of_a_yaml_section_that_are_not_indented():
    assert told(trainer=None, epochs=3, monitor="off") == [
        "trainer: is empty, and epochs, monitor stand beside it; indent them, so that they are in it"
    ]
    assert told(arch=None, type="MnistModel", args={}) == [
        "arch: is empty, and type, args stand beside it; indent them, so that they are in it"
    ]
    assert told(trainer=None, others=3) == ["trainer: got None; it should be an object"]


@pytest.mark.parametrize(
    ("monitor", "loss", "missing"),
    [
        ("max val_accuracy", "cross_entropy", None),
        ("max top_k_acc", "cross_entropy", None),
        ("min val_loss", "cross_entropy", None),
        ("min loss", None, None),
        ("max accuracy", "cross_entropy", "'accuracy' is logged; did you mean 'val_accuracy'?"),
        ("min val_loss", None, "'val_loss' is logged"),
    ],
)
def test_what_is_measured_in_validation_alone_is_not_logged_of_training(monitor, loss, missing):
    sections = {"metrics": [{"type": "accuracy", "training": False}, "top_k_acc"], "loss": loss}
    sections |= {"trainer": {"epochs": 1, "monitor": monitor}}
    if missing is None:
        check_config({**read_config(PROJECT / "config.json"), **sections}, PARTS)
    else:
        (line,) = told(**sections)
        assert line.startswith(f"trainer.monitor: nothing called {missing}")


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, 0),
        ({"data_loader.args.validation_split": 0}, 1),
        ({"data_loader.args.validation_split": 0, "trainer.overfit_batches": 1}, 0),
        ({"data_loader.args.validation_split": 0, "metrics": ["accuracy"]}, 0),
    ],
)
def test_a_metric_that_a_test_alone_would_measure_is_told(changes, lines):
    config = read_config(PROJECT / "config.json") | {"metrics": [{"type": "accuracy", "training": False}]}
    for path, value in changes.items():
        set_by_path(config, path, value, KNOWN_KEYS)
    line = "metrics.0: is not measured in training, and there are no validation data; test.py alone measures it"
    assert list(notes(config, PARTS, ())) == [line] * lines


def test_a_metric_that_says_by_itself_that_it_is_not_of_training_is_told_too(monkeypatch):
    config = read_config(PROJECT / "config.json") | {"metrics": ["accuracy"]}
    set_by_path(config, "data_loader.args.validation_split", 0, KNOWN_KEYS)
    monkeypatch.setattr(metric.accuracy, "in_training", False, raising=False)
    assert len(list(notes(config, PARTS, ()))) == 1
