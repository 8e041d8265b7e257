"""A project of each of the old template's ages trains, resumes and tests unedited, by replacing its framework.

2018: the config is a dict, and the checkpoint and a train_logger go to BaseTrainer. 2019: ConfigParser takes the
parser, and a log holds lists. 2020: the trainer takes no device. The age after that is in test_old_project.py.
"""

import ast
import csv
import shutil
from pathlib import Path

import pytest
import torch
from forked import run_forked

from comparing.same import comparable_state
from helpers import PROJECT, same
from utils.files import read_json, write_json
from utils.runs.checkpoint import load_checkpoint

AGES = Path(__file__).with_name("old_ages")

SAVED_BY_ITSELF = """
    def _save_checkpoint(self, epoch, save_best=False):
        state = {'arch': 'Net', 'epoch': epoch, 'logger': self.train_logger, 'state_dict': self.model.state_dict(),
                 'optimizer': self.optimizer.state_dict(), 'monitor_best': self.mnt_best, 'config': self.config}
        torch.save(state, str(self.checkpoint_dir) + '/checkpoint-epoch%d.pth' % epoch)

    def _resume_checkpoint(self, resume_path):
        checkpoint = torch.load(resume_path)
        self.start_epoch = checkpoint['epoch'] + 1
        self.model.load_state_dict(checkpoint['state_dict'])
        self.optimizer.load_state_dict(checkpoint['optimizer'])
        self.train_logger = checkpoint['logger']
        self.train_logger.add_entry({'resumed': sorted(self.train_logger.entries)})
        print('resumed', checkpoint['config']['name'], self.train_logger.entries)
"""


def moved_in(age, folder, **trainer):
    """The project of an age in the folder, with our framework; trainer: settings that differ."""
    shutil.copytree(AGES / age, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("base", "logger", "utils", "parse_config.py"):
        (folder / name).symlink_to(PROJECT / name)
    config = read_json(folder / "config.json")
    config["trainer"].update(trainer)
    write_json(config, folder / "config.json")
    return folder


def run_of(folder):
    (run,) = (folder / "saved/models").glob("*/*")
    return run


def rows(run):
    log = run.parents[2] / "log" / run.parent.name / run.name
    with open(log / "metrics.csv") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module", params=["y2018", "y2019", "y2020"])
def project(request, tmp_path_factory):
    """(age, folder, the finished process) of a project that was trained for three epochs."""
    folder = moved_in(request.param, tmp_path_factory.mktemp("ages") / "project")
    return request.param, folder, run_forked("train.py", "-c", "config.json", cwd=folder)


def test_it_trains_and_logs_each_metric_by_name(project):
    age, folder, trained = project
    run = run_of(folder)
    assert {"checkpoint-epoch1.pth", "checkpoint-epoch2.pth", "checkpoint-epoch3.pth"} <= {
        p.name for p in run.iterdir()
    }
    last = rows(run)[-1]
    assert {"epoch", "loss", "accuracy", "wrong", "val_loss", "val_accuracy", "val_wrong"} <= last.keys()
    assert float(last["val_wrong"]) == pytest.approx(1 - float(last["val_accuracy"]))
    assert "Train Epoch: 3 [" in trained.stdout and "Traceback" not in trained.stderr
    if age == "y2018":
        assert "entries: [1, 2, 3]" in trained.stdout and "Trainable parameters: 63" in trained.stdout
    if age == "y2020":
        assert float(last["extra"]) == 0.0 and "is nan" not in trained.stdout  # a key that nothing updates


def test_the_best_model_is_that_of_the_old_monitor(project):
    age, folder, _ = project
    run = run_of(folder)
    key, best = ("val_accuracy", max) if age == "y2019" else ("val_loss", min)
    expected = best(float(row[key]) for row in rows(run))
    assert load_checkpoint(run / "model_best.pth")["monitor_best"] == pytest.approx(expected)


def test_tensorboard_is_written_as_the_old_key_says(project):
    age, folder, _ = project
    events = list((folder / "saved/log").rglob("events.out.tfevents.*"))
    assert bool(events) == (age != "y2018")


def test_it_resumes_to_the_same_bits(project, tmp_path):
    age, folder, _ = project
    other = moved_in(age, tmp_path / "project", epochs=2)
    run_forked("train.py", "-c", "config.json", cwd=other)
    resumed = run_of(other)
    path = resumed / "checkpoint-epoch2.pth"
    state = torch.load(path)
    state["config"]["trainer"]["epochs"] = 3
    from utils.runs.checkpoint import save_checkpoint

    save_checkpoint(state, path)
    done = run_forked("train.py", "-r", path, cwd=other)
    assert "epoch 3/3" in done.stdout and run_of(other) == resumed
    left, right = (comparable_state(run / "checkpoint-epoch3.pth") for run in (run_of(folder), resumed))
    for key in ("state_dict", "optimizer", "monitor_best"):
        assert same(left[key], right[key]), key
    assert rows(run_of(folder)) == rows(resumed)


def test_its_test_script_gives_the_loss_of_the_weights(project):
    _, folder, _ = project
    tested = run_forked("test.py", "-r", run_of(folder) / "model_best.pth", cwd=folder)
    values = ast.literal_eval(tested.stdout.strip().splitlines()[-1])
    assert values["accuracy"] == pytest.approx(1 - values["wrong"], abs=1e-6) and 0 < values["loss"] < 5
    assert len(list((folder / "saved/models").glob("*/*"))) == 1


@pytest.mark.slow
def test_a_trainer_of_2018_that_saves_and_restores_its_logger_resumes(tmp_path):
    project = moved_in("y2018", tmp_path / "project")
    trainer = project / "trainer/trainer.py"
    trainer.write_text(trainer.read_text().rstrip() + "\n" + SAVED_BY_ITSELF)
    run_forked("train.py", "-c", "config.json", cwd=project)
    path = run_of(project) / "checkpoint-epoch2.pth"
    assert load_checkpoint(path)["config"]["name"] == read_json(project / "config.json")["name"]
    for given in ((), ("-c", "config.json")):  # without -c the script reads the config of the checkpoint
        done = run_forked("train.py", "-r", path, *given, cwd=project)
        assert "'resumed': [1, 2]" in done.stdout
    assert "accuracy" in run_forked("test.py", "-r", path, cwd=project).stdout
