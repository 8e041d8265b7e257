"""Flags that a config names in "cli"."""

import argparse
import json

import pytest

from helpers import PROJECT, run
from parse_config import PARTS, ConfigParser, CustomArgs
from utils.runs.checkpoint import save_checkpoint

DROPOUT = {"flag": "--drop-out", "target": "arch.args.dropout", "type": "float", "help": "10 % or so"}
EPOCHS = {"flag": "--n_epochs", "target": "trainer.epochs", "type": "int"}
AMSGRAD = {"flag": "--amsgrad", "target": "optimizer.args.amsgrad", "type": "bool"}


def command(monkeypatch, *arguments, parts=PARTS):
    monkeypatch.setattr("sys.argv", ["train.py", *map(str, arguments)])
    parser = argparse.ArgumentParser()
    for flags in (("-c", "--config"), ("-r", "--resume")):
        parser.add_argument(*flags)
    return ConfigParser.from_args(parser, [CustomArgs(["--lr"], float, "optimizer;args;lr")], parts=parts)


def config_with(tmp_path, *flags, **sections):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"base": str(PROJECT / "config.json"), "cli": flags, **sections}))
    return path


def refused(capsys, monkeypatch, *arguments):
    with pytest.raises(SystemExit) as caught:
        command(monkeypatch, *arguments)
    assert caught.value.code == 2
    return [line.removeprefix("error: ") for line in capsys.readouterr().err.splitlines()]


def test_flags_set_their_targets_above_the_file_and_below_set(monkeypatch, tmp_path):
    path = config_with(tmp_path, DROPOUT, EPOCHS, AMSGRAD)
    plain = command(monkeypatch, "-c", path)
    assert "dropout" not in plain["arch"]["args"] and plain["trainer"]["epochs"] == 12
    given = command(monkeypatch, "-c", path, "--drop-out", 0.7, "--n_epochs", 3, "--amsgrad", "false", "--lr", 0.5)
    assert given["arch"]["args"]["dropout"] == 0.7 and given["trainer"]["epochs"] == 3
    assert given["optimizer"]["args"]["amsgrad"] is False and given["optimizer"]["args"]["lr"] == 0.5
    assert given["cli"] == [DROPOUT, EPOCHS, AMSGRAD]
    assert command(monkeypatch, "-c", path, "--n_epochs", 3, "--set", "trainer.epochs=4")["trainer"]["epochs"] == 4


def test_help_shows_them_without_torch(tmp_path):
    path = config_with(tmp_path, DROPOUT, AMSGRAD)
    program = """
import runpy, sys
sys.modules["torch"] = None
sys.argv = ["train.py", "-c", sys.argv[1], "--help"]
runpy.run_path("train.py", run_name="__main__")
"""
    told = run("-c", program, path).stdout
    assert "--drop-out FLOAT  10 % or so (sets arch.args.dropout)" in " ".join(told.split()).replace(
        "FLOAT ", "FLOAT  "
    )
    assert "--amsgrad BOOL" in told


@pytest.mark.parametrize("where", ["checkpoint", "folder", "partial config on top"])
def test_a_resume_knows_the_flags_of_its_run(where, monkeypatch, tmp_path):
    config = command(monkeypatch, "-c", config_with(tmp_path, EPOCHS)).config
    run_folder = tmp_path / "models" / "job" / "run"
    run_folder.mkdir(parents=True)
    (run_folder / "config.json").write_text(json.dumps(config))
    save_checkpoint({"epoch": 1, "state_dict": {}, "config": config}, run_folder / "checkpoint-epoch1.pth")
    (tmp_path / "partial.json").write_text('{"seed": 9}')
    more = ["-c", tmp_path / "partial.json"] if where.startswith("partial") else []
    given = run_folder if where == "folder" else run_folder / "checkpoint-epoch1.pth"
    assert command(monkeypatch, "-r", given, *more, "--n_epochs", 5)["trainer"]["epochs"] == 5


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"flag": "n_epochs"}, "cli.1.flag: got 'n_epochs'; a flag is '--' and a word"),
        ({"flag": "--"}, "cli.1.flag: got '--'"),
        ({"flag": "--lr"}, "cli.1.flag: '--lr' exists already"),
        ({"flag": "--drop-out"}, "cli.1.flag: '--drop-out' exists already"),
        ({"type": "integer"}, "cli.1.type: got 'integer'; it should be 'int', 'float', 'str' or 'bool'"),
        ({"type": "str", "target": "arch.args.dropout"}, "cli.1.type: got 'str'; arch.args.dropout takes float"),
        ({"target": "arch.args.dropuot"}, "cli.1.target: arch.args.dropuot: no such argument; did you mean 'dropout'?"),
        ({"target": "trainer.epocs"}, "cli.1.target: trainer.epocs: no such key; did you mean 'epochs'?"),
        ({"target": "nothing.here"}, "cli.1.target: nothing: no such key"),
        ({"target": "trainer..epochs"}, "cli.1.target: got 'trainer..epochs'; it should be the dotted path"),
        ({"hlp": "x"}, "cli.1.hlp: no such key; did you mean 'help'?"),
        ({"help": 1}, "cli.1.help: got 1"),
    ],
)
def test_each_mistake_is_one_line_with_its_path(change, line, capsys, monkeypatch, tmp_path):
    path = config_with(tmp_path, DROPOUT, {**EPOCHS, **change})
    (told,) = refused(capsys, monkeypatch, "-c", path)
    assert told.startswith(line)


def test_a_flag_that_is_none_and_other_mistakes_come_at_once(capsys, monkeypatch, tmp_path):
    path = config_with(tmp_path, 5, {"flag": "--x"}, seed=-1)
    lines = refused(capsys, monkeypatch, "-c", path, "--x", 3)
    assert [line.split(":")[0] for line in lines] == ["seed", "cli.0", "cli.1.target"]
    assert refused(capsys, monkeypatch, "-c", config_with(tmp_path, cli={}))[0].startswith("cli: got {}; it should be")


def test_what_is_typed_must_be_of_the_flags_type(capsys, monkeypatch, tmp_path):
    path = config_with(tmp_path, EPOCHS, AMSGRAD)
    for typed, message in (
        (("--n_epochs", "many"), "--n_epochs: got 'many'; it should be an integer"),
        (("--amsgrad", "perhaps"), "'perhaps' is neither true nor false"),
        (("--n_epoch_s", "1"), "--n_epoch_s: no such flag; did you mean --n_epochs?"),
    ):
        assert message in refused(capsys, monkeypatch, "-c", path, *typed)[-1]
    assert "trainer.epochs: got 0" in refused(capsys, monkeypatch, "-c", path, "--n_epochs", "0")[-1]


def test_a_script_of_ones_own_has_them_too(monkeypatch, tmp_path):
    given = command(monkeypatch, "-c", config_with(tmp_path, EPOCHS), "--n_epochs", 2, parts=None)
    assert given["trainer"]["epochs"] == 2
