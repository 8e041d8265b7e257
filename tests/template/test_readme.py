"""The README's commands work as written, and what it says of files and keys is true."""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from forked import run_forked

from helpers import AS_PINNED, PROJECT, copy_project, run
from utils.files import read_json

README = (PROJECT / "README.md").read_text()
LINES = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines()]
YOUR_JOB = (PROJECT / "docs" / "your_job.md").read_text()
COMMANDS = [" ".join(line.partition(" #")[0].split()) for line in LINES if line and line[0] != "#"]
UV = [command for command in COMMANDS if command.startswith("uv ")]
PYTHON = [command for command in COMMANDS[3:] if command not in UV]
FIRST = {command.removeprefix("python -m ").removeprefix("python ").split()[0]: command for command in PYTHON[::-1]}
"""{script or module: the first command that runs it}."""


def blocks(page, language):
    """The code of a language in a page."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the project whose default job is three short epochs, trained once."""
    folder = copy_project(tmp_path_factory.mktemp("readme") / "project")
    for path in (folder / "config.json", folder / "examples" / "mnist_iterations" / "config.yaml"):
        text = re.sub(r'("?epochs"?): \d+', r"\1: 3", path.read_text())
        text = re.sub(r"len_epoch: \d+", "len_epoch: 5", text)
        path.write_text(text.replace('"epochs": 3,', '"epochs": 3, "len_epoch": 5, "limit_valid_batches": 2,'))
    run_forked("train.py", "-c", "config.json", cwd=folder)
    return folder


def serve_for_a_moment(words, folder):
    """Start a service, wait until it answers, and end it."""
    command = [sys.executable, *words, "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().split()[-1]
            assert urllib.request.urlopen(f"{address}/ready").status == 200
        finally:
            process.terminate()
    assert process.returncode == 0


def test_default_job_keeps_the_checkpoint_that_the_readme_resumes_from():
    config = read_json(PROJECT / "config.json")["trainer"]
    assert "checkpoint-epoch3.pth" in README and config.get("keep_last") is None and config["epochs"] > 3


def test_the_first_three_commands_clone_train_and_test(tmp_path):
    clone, *makes = COMMANDS[:3]
    assert clone == "git clone <this repository> template && cd template" and makes == ["make train", "make test"]
    if (PROJECT / ".git").exists():
        command = clone.replace("<this repository>", shlex.quote(str(PROJECT))) + " && ls"
        done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert {"Makefile", "config.json", "train.py"} <= set(done.stdout.split()), done.stderr
    for target, command in (("train", "train.py -c config.json"), ("test", "-m pytest")):
        plan = subprocess.run(["make", "-n", "-B", target], cwd=PROJECT, capture_output=True, text=True)
        assert command in plan.stdout and "-r requirements.txt -c constraints.txt" in plan.stdout


@AS_PINNED
def test_the_commands_of_uv_work_as_written(folder, tmp_path):
    """Without a network: the packages that uv would install are those of this environment."""
    venv, install = UV[0].split(" && ")
    environment = {**os.environ, "UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"

    def uv(command, at, **variables):
        words = shlex.split(command)
        done = subprocess.run(words, cwd=at, env={**environment, **variables}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    uv(venv, tmp_path)
    assert (tmp_path / ".venv" / "pyvenv.cfg").exists()
    assert "Checked " in uv(install, PROJECT, VIRTUAL_ENV=sys.prefix)  # and nothing is missing
    before = {path.name for path in folder.iterdir()}
    (folder / ".venv").symlink_to(sys.prefix)
    assert "epoch 3/3" in uv(UV[1], folder)
    (folder / ".venv").unlink()
    assert {path.name for path in folder.iterdir()} == before  # no lock file, which would hold addresses


@pytest.mark.parametrize("command", PYTHON)
def test_command_works_as_written(command, folder, tmp_path):
    """The first command of each script in a real process; its others, and a sweep with its trials, in forked ones."""
    (first, *_) = sorted((folder / "saved/models/Mnist_LeNet").iterdir())
    words = shlex.split(command.replace("<run>", first.name).replace("../my_project", str(tmp_path / "my_project")))
    assert words[0] == "python"
    if words[1] == "serve.py":
        return serve_for_a_moment(words[1:], folder)
    is_real = command in FIRST.values() and words[1] != "sweep.py"
    (run if is_real else run_forked)(*words[1:], cwd=folder)


def test_each_verb_has_a_picture_that_make_pictures_draws_and_that_loads_fast():
    drawn = re.findall(r"!\[[^]]+\]\((docs/\w+\.png)\)", README)
    for verb in ("train", "test", "predict", "export", "serve", "sweep", "compare"):
        assert re.search(rf"\| (\*\*)?`{verb}\.py` ", README), verb
    program = (PROJECT / "docs" / "readme_pictures.py").read_text()
    assert len(drawn) == 8
    for place in drawn:
        (name,) = re.findall(r"docs/(\w+)", place)
        assert f'DOCS / "{name}.png"' in program and 1_000 < (PROJECT / place).stat().st_size < 150_000, place
    command = ["make", "--no-print-directory", "-n", "-B", "pictures", "RUN=x"]
    plan = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert plan.stdout.splitlines()[-1].endswith("docs/readme_pictures.py x")


def test_every_command_that_a_user_is_promised_is_there():
    text = "\n".join(COMMANDS)
    for command in (
        "python train.py -c config.json --lr 0.01 --bs 128",
        "python train.py -r saved/models/Mnist_LeNet/<run>/checkpoint-epoch3.pth",
        "python train.py -r latest",
        "python test.py -r saved/models/Mnist_LeNet/<run>/model_best.pth",
        "python new_project.py ../my_project",
    ):
        assert command in text


def test_examples_of_a_model_a_trainer_and_a_loader_run(tmp_path):
    folder = copy_project(tmp_path / "project")
    model, loader, trainer = blocks(YOUR_JOB, "python")
    for place, code in (("model/model", model), ("data_loader/data_loaders", loader), ("trainer/trainer", trainer)):
        with open(folder / f"{place}.py", "a") as file:
            file.write("\n\n" + code.replace("1e-5", "1.0"))
    sections = blocks(YOUR_JOB, "json")
    (folder / "mine.json").write_text('{"base": "config.json", ' + ", ".join(sections) + "}")
    short = ("--set", "trainer.epochs=1", "--set", "trainer.len_epoch=3")
    assert "TwoLayers: " in run_forked("train.py", "-c", "mine.json", *short, cwd=folder).stdout
    (table,) = folder.glob("saved/log/*/*/metrics.csv")
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert float(row["loss"]) > 100 > float(row["val_loss"])  # with the penalty made large, and without it
    (folder / "points.csv").write_text("x,y,label\n" + "\n".join(f"{i},{-i},{i % 10}" for i in range(40)))
    loader_test = (
        "from data_loader.data_loaders import CsvDataLoader as L;"
        "print([tuple(d.shape) for d, t in L('points.csv', 12, 0.1).split_validation()])"
    )
    assert run_forked("-c", loader_test, cwd=folder).stdout.strip() == "[(4, 2)]"


def test_the_notebook_cell_trains(folder):
    (cell,) = blocks(README, "python")
    before = set((folder / "saved/models/Mnist_LeNet").iterdir())
    run_forked("-c", cell, cwd=folder)
    (made,) = set((folder / "saved/models/Mnist_LeNet").iterdir()) - before
    assert read_json(made / "config.json")["optimizer"]["args"]["lr"] == 0.01
    assert (made / "checkpoint-epoch3.pth").exists()


def test_the_reading_order_names_ten_files_and_their_lines():
    table = re.search(r"<!-- the reading order.*?-->\n(.*?)<!-- end of the reading order -->", README, re.S)[1]
    rows = re.findall(r"^\| `([\w/.]+)` \| .+ \| (\d+) \|$", table, re.M)
    assert len(rows) == 10 and len(table.splitlines()) == 12
    for name, lines in rows:
        real = len((PROJECT / name).read_text().splitlines())
        assert abs(int(lines) - real) <= 0.1 * real, f"{name} has {real} lines"


def test_what_hurts_elsewhere_names_public_reports_and_tests_that_are_there():
    table = README.partition("## What hurts elsewhere")[2].partition("\n\n|")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert 10 <= len(rows) <= 15
    for hurts, here, shown in rows:
        reports = re.findall(r"\[[\w -]+ (\d+)\]\(https://github\.com/[\w-]+/[\w-]+/(?:issues|pull)/(\d+)\)", hurts)
        assert reports and all(one == other for one, other in reports), hurts
        ((name, place),) = re.findall(r"^\[`(test_\w+)`\]\((tests/[\w/]+\.py)\)$", shown)
        assert f"\ndef {name}(" in (PROJECT / place).read_text(), name
        for command in re.findall(r"`(python \S+\.py)", here):
            assert command in "\n".join(COMMANDS), here


def test_every_room_and_command_is_named():
    rooms = re.search(r"## The reading order\n\n```\n(.*?)```", README, re.S)[1]
    tracked = {path.name for path in PROJECT.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    for name in tracked - {".venv", ".venv-lowest", "saved", "configs"}:
        assert f"{name}/" in rooms, name
    assert len(README.splitlines()) <= 250
