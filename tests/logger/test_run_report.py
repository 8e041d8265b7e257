"""What a run says at its end: at most 80 columns, and commands that can be typed."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers import PROJECT, ran, scripted, tiny_config, tiny_trainer
from logger.console import how_to_resume, result_shown, run_report, run_result
from parse_config import PARTS


def finished(**changes):
    folder = Path("saved/models/Mnist_LeNet/20261121_172805")
    saver = SimpleNamespace(newest=folder / "checkpoint-epoch12.pth")
    config = SimpleNamespace(keeps_nothing=False, parts={}, log_dir=Path("saved/log/Mnist_LeNet/20261121_172805"))
    end = {"stop_reason": None, "epochs": 12, "mnt_metric": "val_accuracy", "mnt_best": 0.98991, "best_epoch": 11}
    return SimpleNamespace(**{"checkpoint_dir": folder, "saver": saver, "config": config, **end, **changes})


@pytest.mark.parametrize("changes", [{}, {"stop_reason": "no better val_loss for 10 epochs"}, {"best_epoch": 0}])
def test_the_end_of_a_run_fits_80_columns(changes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    best = finished().checkpoint_dir / "model_best.pth"
    best.parent.mkdir(parents=True)
    best.touch()
    (tmp_path / "test.py").touch()
    assert max(map(len, run_report(finished(**changes)).splitlines())) <= 80


def test_it_names_the_best_value_and_the_command_that_measures(tmp_path):
    (tmp_path / "model_best.pth").touch()
    lines = run_report(finished(checkpoint_dir=tmp_path)).splitlines()
    assert lines[0] == "done: 12 epochs" and lines[1] == "best   val_accuracy 0.98991 in epoch 11"
    assert lines[-1].endswith(f"python test.py -r {tmp_path}/model_best.pth") and len(lines) == 5


def test_without_a_best_model_the_last_checkpoint_is_measured_and_a_stopped_run_can_go_on():
    lines = run_report(finished(best_epoch=0, stop_reason="enough")).splitlines()
    assert lines[0] == "training stops: enough" and "best" not in "".join(lines[1:3])
    assert lines[-1].endswith("python test.py -r saved/models/Mnist_LeNet/20261121_172805")
    assert lines[-2].endswith("python train.py -r saved/models/Mnist_LeNet/20261121_172805 --set ...")


def test_a_best_epoch_that_an_old_trainer_counts_for_itself_is_no_best_value_without_a_monitor():
    assert "best" not in run_report(finished(mnt_metric="", mnt_best=0))


def test_a_project_without_test_py_is_not_told_to_run_it_and_its_own_script_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train tsn.py").touch()
    monkeypatch.setattr("sys.argv", ["train tsn.py", "-c", "x"])
    lines = run_report(finished(stop_reason="enough")).splitlines()
    assert "test.py" not in "".join(lines)
    assert lines[-1].startswith("resume python 'train tsn.py' -r saved/models/Mnist_LeNet/")


class Jobs(dict):
    """A config whose loader takes the arguments that are listed."""

    keeps_nothing, parts, log_dir = False, PARTS, Path("log")

    def parameters(self, name, module):
        return self["takes"]


@pytest.mark.parametrize(
    ("takes", "given", "valid", "split"),
    [
        (["training"], {}, True, ""),
        ([], {}, True, " --split valid"),
        ([], {}, False, " --split train"),
        (["training", "test_path"], {}, True, " --split valid"),
        (["training", "test_path"], {"test_path": "b.csv"}, True, ""),
    ],
)
def test_what_is_suggested_to_measure_is_there(takes, given, valid, split):
    config = Jobs(takes=takes, data_loader={"type": "Mine", "args": given})
    ended = finished(config=config, do_validation=valid)
    assert run_report(ended).splitlines()[-1].endswith("20261121_172805" + split)
    config["test_data_loader"] = config["data_loader"]
    assert run_report(ended).splitlines()[-1].endswith("20261121_172805")


def test_a_run_that_keeps_nothing_names_no_folder():
    config = SimpleNamespace(keeps_nothing=True, log_dir=Path("gone"))
    ended = finished(config=config, epoch=1, stop_reason="enough", stop_signal=SimpleNamespace(by=" by SIGINT"))
    ended.saver.wait = lambda: None
    assert run_report(ended).splitlines()[2:] == ["files  nothing is kept"]
    assert how_to_resume(ended) == "stopped by SIGINT in epoch 1; nothing is kept"


def test_commands_are_printed_so_that_a_shell_reads_them_as_meant(monkeypatch):
    folder = Path("saved/models/$(touch made); it's/20261121_172805")
    ended = finished(checkpoint_dir=folder, saver=SimpleNamespace(newest=folder / "checkpoint-epoch12.pth"))
    ended.stop_reason = "enough"
    lines = run_report(ended).splitlines()
    typed = [shlex.split(line[7:]) for line in lines if line.startswith(("test ", "resume "))]
    assert [words[3] for words in typed] == [str(folder), str(folder)]
    config = SimpleNamespace(keeps_nothing=False)
    told = how_to_resume(SimpleNamespace(saver=Saver(Path("-x/a.pth")), config=config, epoch=1, stop_signal=NoSignal))
    assert told.endswith("python train.py -r ./-x/a.pth")


def test_the_result_of_a_run_says_what_was_best_how_it_ended_and_where_its_files_are(tmp_path):
    _, trainer = ran(tmp_path, [0.5, 0.25, 0.75, 0.75], early_stop=1, verbosity=0)
    result = run_result(trainer)
    assert (result["state"], result["reason"]) == ("finished", "no better val_loss for 1 epoch")
    assert (result["monitor"], result["best"], result["best_epoch"]) == ("min val_loss", 0.25, 2)
    assert (result["epoch"], result["batch"], result["epochs"]) == (3, 0, 4)
    assert result["values"] == {"loss": 0.5, "val_loss": 0.25}
    folder = trainer.checkpoint_dir
    assert (result["folder"], result["logs"]) == (str(folder), str(trainer.config.log_dir))
    assert result["best_checkpoint"] == str(folder / "model_best.pth")
    assert result["last_checkpoint"] == str(folder / "checkpoint-epoch3.pth")
    page = (PROJECT / "docs" / "runs.md").read_text().partition("## Results as JSON")[2].partition("With `--folds`")[0]
    heads = "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    assert set(re.findall("`(.+?)`", heads)) == set(result)


def test_without_a_monitor_the_result_has_no_best(tmp_path):
    _, trainer = ran(tmp_path, [0.5, 0.25], monitor="off")
    result = run_result(trainer)
    assert (result["best"], result["best_epoch"], result["best_checkpoint"]) == (None, None, None)
    assert result["values"]["val_loss"] == 0.25 and result["reason"] == ""


def test_a_result_is_shown_after_a_stop_and_not_after_an_error(tmp_path):
    config = tiny_config(tmp_path, epochs=3, monitor="min val_loss")
    for error in (SystemExit(143), KeyboardInterrupt(), ValueError("odd")):
        shown = []

        class Ends(scripted([0.5, 0.25, 0.125])):
            def _train_epoch(self, epoch, error=error):
                if epoch == 3:
                    raise error
                return super()._train_epoch(epoch)

        trainer = tiny_trainer(config, trainer_class=Ends)
        with pytest.raises(type(error)), result_shown(trainer, shown.append):
            trainer.train()
        told = [(result["state"], result["epoch"], result["best"]) for result in shown]
        assert told == ([] if isinstance(error, ValueError) else [("stopped", 2, 0.25)])
    with pytest.raises(SystemExit), result_shown(trainer, None):
        raise SystemExit(143)


class NoSignal:
    by = ""


class Saver:
    def __init__(self, newest):
        self.newest = newest

    def wait(self):
        pass
