"""The flags for looking for bugs, as a user types them."""

import argparse

import pytest
from forked import run_forked

from helpers import copy_project, run_here
from utils.config.train_flags import NONE_GIVEN, add_train_flags


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("debugging") / "project")


@pytest.mark.command
@pytest.mark.slow
def test_fast_dev_run_leaves_nothing_behind(folder):
    before = sorted(folder.iterdir())
    checking = ("--set", "trainer.sanity_check_batches=1", "--set", "trainer.log_step=1")
    done = run_forked("train.py", "-c", "config.json", "--fast-dev-run", "2", *checking, cwd=folder)
    assert "[2/2 (100%)]" in done.stdout and "sanity check: validated on" in done.stdout
    end = done.stdout.splitlines()[-4:]
    assert end[0] == "done: 1 epoch" and end[1].startswith("best ") and end[2] == "files  nothing is kept"
    assert end[3] == "fast-dev-run: 2 batches of everything went through; nothing is kept"
    assert sorted(path for path in folder.iterdir() if path.name != "__pycache__") == before


@pytest.mark.slow
def test_profile_and_overfitting_go_together(folder):
    shorter = ("--set", "trainer.epochs=6", "--set", "trainer.save_dir=out/", "--set", "trainer.tensorboard=false")
    done = run_forked("train.py", "-c", "config.json", "--overfit-batches", "2", "--profile", *shorter, cwd=folder)
    table = done.stdout.partition("profile of 5 steps")[2].partition("trace of the profile")[0]
    assert "aten::convolution_backward" in table and max(map(len, table.splitlines())) <= 80
    assert list(folder.glob("out/log/*/*/profile.pt.trace.json")) and "ERROR" not in done.stderr


@pytest.mark.slow
def test_batches_are_drawn_and_nothing_trained(folder):
    before = sorted(folder.glob("*"))
    done = run_forked("train.py", "-c", "config.json", "--show-batch", "batch.png", cwd=folder)
    assert done.stdout.splitlines()[-1] == "batch.png: the first training and validation batch"
    assert {path.name for path in {*folder.glob("*")} - {*before}} <= {"batch.png", "__pycache__"}


@pytest.mark.slow
def test_fast_dev_run_that_the_loop_cannot_follow_is_refused_by_its_flag(tmp_path):
    folder = copy_project(tmp_path / "project")
    (folder / "trainer" / "own.py").write_text(
        "from trainer import Trainer\n\n\nclass Own(Trainer):\n    def _train_epoch(self, epoch):\n        return {}\n"
    )
    own = ("--set", "trainer.type=own.Own", "--fast-dev-run")
    told = run_forked("train.py", "-c", "config.json", *own, cwd=folder, status=2).stderr
    assert told == (
        "error: --fast-dev-run: trainer.limit_train_batches: is not for a trainer with a _train_epoch of its own\n"
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--fast-dev-run", "0"], "--fast-dev-run: '0' is not a number of batches from 1 on"),
        (["--fast-dev-run", "-r", "x"], "error:"),
        (["--overfit-batches", "0"], "error: trainer.overfit_batches: got 0"),
        (["--overfit-batches", "9999"], "error: trainer.overfit_batches: got 9999; data_loader has 422 batches"),
        (["--show-batch", "none/batch.png"], "error: --show-batch none/batch.png: cannot be written"),
    ],
)
def test_mistake_ends_with_one_line_and_no_run(folder, arguments, text):
    done = run_here("train.py", "-c", "config.json", *arguments, cwd=folder, status=2)
    assert text in done.stderr and "Traceback" not in done.stderr
    assert not (folder / "saved").exists()


def test_no_flags_are_the_flags_of_an_empty_command_line():
    parser = argparse.ArgumentParser()
    add_train_flags(parser)
    assert vars(parser.parse_args([])).items() >= vars(NONE_GIVEN).items()
