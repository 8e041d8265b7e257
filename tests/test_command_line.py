"""What a command line makes of a config: flags, --set, and how a mistake in them is answered."""

import argparse
import collections
import json
import os

import pytest
from job_configs import config

from helpers import run_here
from parse_config import PARTS, ConfigParser, CustomArgs

OPTIONS = [CustomArgs(["--lr", "--learning-rate"], type=float, target="optimizer;args;lr")]


def command(monkeypatch, *arguments, options=OPTIONS, parts=PARTS):
    monkeypatch.setattr("sys.argv", ["train.py", *map(str, arguments)])
    parser = argparse.ArgumentParser()
    for flags in (("-c", "--config"), ("-r", "--resume"), ("-d", "--device")):
        parser.add_argument(*flags)
    return ConfigParser.from_args(parser, options, parts=parts)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config()))
    return path


def test_precedence_of_file_flag_and_set(monkeypatch, file):
    assert command(monkeypatch, "-c", file)["optimizer"]["args"]["lr"] == 0.1
    assert command(monkeypatch, "-c", file, "--lr", 0.2)["optimizer"]["args"]["lr"] == 0.2
    both = command(monkeypatch, "-c", file, "--lr", 0.2, "--set", "optimizer.args.lr=0.3", "--set", "trainer.epochs=9")
    assert both["optimizer"]["args"]["lr"] == 0.3 and both["trainer"]["epochs"] == 9


@pytest.mark.old_defect(17)
def test_flags_with_hyphens_and_tuple_targets_work(monkeypatch, file):
    options = [
        CustomArgs(["--learning-rate"], type=float, target=("optimizer", "args", "lr")),
        collections.namedtuple("Theirs", "flags type target")(["--amsgrad"], bool, "optimizer;args;amsgrad"),
    ]
    parsed = command(monkeypatch, "-c", file, "--learning-rate", 0.4, "--amsgrad", "false", options=options)
    assert parsed["optimizer"]["args"] == {"lr": 0.4, "amsgrad": False}


@pytest.mark.old_defect(17)
def test_misspelt_target_of_a_flag_is_refused(monkeypatch, file, capsys):
    options = [CustomArgs(["--lr"], type=float, target="optimzer;args;lr")]
    with pytest.raises(SystemExit) as caught:
        command(monkeypatch, "-c", file, "--lr", 1, options=options)
    assert caught.value.code == 2 and "did you mean 'optimizer'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "give a config to train, as in -c config.json, or a checkpoint to resume or to test, as in -r latest"),
        (("--set", "trainer.epocs=1"), "trainer.epocs: no such key; did you mean 'epochs'?"),
        (("--set", "sede=1"), "sede: no such key; did you mean 'seed'?"),
        (("--set", "trainer.my_scale=1"), "one of your own goes into the config file first"),
        (("--set", "lr=1"), "lr: no such key; did you mean 'optimizer.args.lr'?"),
        (
            ("--set", "optimizer.batch_size=1"),
            "optimizer.batch_size: no such key; did you mean 'data_loader.args.batch_s",
        ),
        (("--set", "optimizer.args.momentum=1"), "optimizer.args.momentum: no such argument"),
        (("-d", "gpu"), "-d gpu: give GPU numbers"),
        (("-r", "none.pth"), "none.pth: no such checkpoint"),
    ],
)
def test_mistakes_on_the_command_line_exit_2_with_one_line(monkeypatch, file, capsys, arguments, word):
    given = () if not arguments else ("-c", file, *arguments)
    with pytest.raises(SystemExit) as caught:
        command(monkeypatch, *given)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and word in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--set", "seed=1", "name=b"), "name=b: say --set name=b"),
        (("other.yaml",), "other.yaml: say -c other.yaml"),
        (("best.pth",), "best.pth: say -r best.pth"),
        (("fast",), "fast: belongs to no flag; see --help"),
        (("--epochs", 3), "--epochs: no such flag; say --set trainer.epochs=3"),
        (("--batch-size=3",), "--batch-size: no such flag; say --set data_loader.args.batch_size=3"),
        (("--learning_rate", 1), "--learning_rate: no such flag; did you mean --learning-rate?"),
        (("-lr", 1), "-lr: no such flag; did you mean --lr?"),
        (("--gpu", 0), "--gpu: no such flag; see --help"),
        (("--gpu", -1), "--gpu: no such flag; see --help"),
        (("--type", "SGD"), "--type: no such flag; see --help"),
        (("--", "other.yaml"), "other.yaml: say -c other.yaml"),
        (("",), "'': belongs to no flag; see --help"),
        (("--lr", "abc"), "--lr/--learning-rate: got 'abc'; it should be a number"),
    ],
)
def test_a_word_that_belongs_to_no_flag_is_answered_in_one_line_with_what_would_do(
    monkeypatch, file, capsys, arguments, line
):
    with pytest.raises(SystemExit) as caught:
        command(monkeypatch, "-c", file, *arguments)
    assert caught.value.code == 2 and capsys.readouterr().err == f"error: {line}\n"


def test_a_save_dir_that_is_no_text_is_one_line_where_the_latest_run_is_looked_up(monkeypatch, file, capsys):
    monkeypatch.chdir(file.parent)
    with pytest.raises(SystemExit) as caught:
        command(monkeypatch, "-c", file, "-r", "latest", "--set", "trainer.save_dir=5")
    assert caught.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_what_the_other_scripts_cannot_read_is_one_line_too(capsys):
    for script in ("export.py", "utils/runs/export.py"):
        assert run_here(script, status=2).stderr.startswith("error: the following arguments are required: ")


def test_all_mistakes_of_a_command_line_come_at_once(monkeypatch, file, capsys):
    wrong = ("--set", "trainer.epocs=1", "--set", "optimizer.type=Adm", "--set", "sede=1", "--lr", "nan")
    with pytest.raises(SystemExit):
        command(monkeypatch, "-c", file, *wrong)
    lines = [line.removeprefix("error: ") for line in capsys.readouterr().err.splitlines()]
    assert [line.split(":")[0] for line in lines] == ["optimizer.args.lr", "trainer.epocs", "sede", "optimizer.type"]


def test_print_config_prints_the_merged_config_only(monkeypatch, file, capsys):
    with pytest.raises(SystemExit) as caught:
        command(monkeypatch, "-c", file, "--lr", 0.2, "--print-config")
    printed = json.loads(capsys.readouterr().out)
    assert caught.value.code == 0 and printed["optimizer"]["args"]["lr"] == 0.2


def test_check_makes_nothing(monkeypatch, file, capsys):
    monkeypatch.chdir(file.parent)
    with pytest.raises(SystemExit) as caught:
        command(monkeypatch, "-c", file, "--check", "--set", "trainer.epochs=5")
    assert caught.value.code == 0 and "no errors found" in capsys.readouterr().out
    assert os.listdir(file.parent) == ["config.json"]


def test_own_keys_are_listed_once(monkeypatch, file, capsys):
    given = config(trainer={"epochs": 1, "warmup": 3, "max_grad_norm": 1.0}, steps=3)
    file.write_text(json.dumps(given))
    command(monkeypatch, "-c", file)
    assert capsys.readouterr().out == "own keys: steps, trainer.warmup, trainer.max_grad_norm (clip_norm?)\n"


@pytest.mark.old_defect(3)
def test_device_of_the_command_line_does_not_travel_in_the_config(monkeypatch, file):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "")  # so that it is put back
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    parsed = command(monkeypatch, "-c", file, "-d", "2,3")
    assert parsed.settings.device == "cuda" and "device" not in parsed
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3" and os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert command(monkeypatch, "-c", file, "-d", "cpu").settings.device == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_flags_of_the_scripts_own_win_over_ours(monkeypatch, file):
    monkeypatch.setattr("sys.argv", ["train.py", "-c", str(file), "--check", "fast", "--lr", "0.5"])
    parser = argparse.ArgumentParser()
    for flags in (("-c", "--config"), ("-r", "--resume"), ("--check",), ("--set",)):
        parser.add_argument(*flags)
    assert ConfigParser.from_args(parser, OPTIONS)["optimizer"]["args"]["lr"] == 0.5


def test_parsed_arguments_serve_as_well_as_a_parser(file):
    parsed = argparse.Namespace(config=str(file), resume=None, device=None, lr=0.5)
    assert ConfigParser.from_args(parsed, OPTIONS)["optimizer"]["args"]["lr"] == 0.5
