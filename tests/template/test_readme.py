"""The README's commands work as written, and what it says of files and keys is true."""

import re
import shlex
import subprocess
import sys

import pytest

from helpers import PROJECT, copy_project, run
from utils.json_io import read_json

README = (PROJECT / "README.md").read_text()
LINES = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines()]
COMMANDS = [" ".join(line.partition(" #")[0].split()) for line in LINES if line and line[0] != "#"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the project whose default job is three short epochs, trained once."""
    folder = copy_project(tmp_path_factory.mktemp("readme") / "project")
    for path in (folder / "config.json", folder / "examples" / "mnist_iterations" / "config.yaml"):
        text = re.sub(r'("?epochs"?): \d+', r"\1: 3", path.read_text())
        text = re.sub(r"len_epoch: \d+", "len_epoch: 5", text)
        path.write_text(text.replace('"epochs": 3,', '"epochs": 3, "len_epoch": 5,'))
    run("train.py", "-c", "config.json", cwd=folder)
    return folder


def test_default_job_keeps_the_checkpoint_that_the_readme_resumes_from():
    config = read_json(PROJECT / "config.json")["trainer"]
    assert "checkpoint-epoch3.pth" in README and config.get("keep_last") is None and config["epochs"] > 3


def test_the_two_commands_come_first():
    assert COMMANDS[:2] == ["make train", "make test"]
    for target, command in (("train", "train.py -c config.json"), ("test", "-m pytest")):
        plan = subprocess.run(["make", "-n", "-B", target], cwd=PROJECT, capture_output=True, text=True)
        assert command in plan.stdout and "-r requirements.txt -c constraints.txt" in plan.stdout


@pytest.mark.parametrize("command", COMMANDS[2:])
def test_command_works_as_written(command, folder, tmp_path):
    (first, *_) = sorted((folder / "saved/models/Mnist_LeNet").iterdir())
    words = shlex.split(command.replace("<run>", first.name).replace("../my_project", str(tmp_path / "my_project")))
    assert words[0] == "python"
    run(*words[1:], cwd=folder)


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


def test_examples_of_code_run(tmp_path):
    folder = copy_project(tmp_path / "project")
    model, loader, callback = re.findall(r"```python\n(.*?)```", README, re.S)
    with open(folder / "model" / "model.py", "a") as file:
        file.write("\n\n" + model)
    with open(folder / "data_loader" / "data_loaders.py", "a") as file:
        file.write("\n\n" + loader)
    with open(folder / "trainer" / "callbacks.py", "a") as file:
        file.write("\n\n" + callback)
    section, callbacks = re.findall(r"```json\n(.*?)```", README, re.S)
    (folder / "mine.json").write_text('{"base": "config.json", ' + section + ", " + callbacks + "}")
    short = ("--set", "trainer.epochs=1", "--set", "trainer.len_epoch=3")
    told = run("train.py", "-c", "mine.json", *short, cwd=folder).stdout
    assert "TwoLayers: " in told and "small 0" in told
    assert list(folder.glob("saved/models/*/*/top-val_accuracy-epoch1.pth"))
    (folder / "points.csv").write_text("x,y,label\n" + "\n".join(f"{i},{-i},{i % 10}" for i in range(40)))
    loader_test = (
        "from data_loader.data_loaders import CsvDataLoader as L;"
        "print([tuple(d.shape) for d, t in L('points.csv', 12, 0.1).split_validation()])"
    )
    done = subprocess.run([sys.executable, "-c", loader_test], cwd=folder, capture_output=True, text=True)
    assert done.stdout.strip() == "[(4, 2)]", done.stderr


def test_every_source_file_is_in_the_tree():
    tree = re.search(r"## What is where\n\n```\n(.*?)```", README, re.S)[1]
    listed = {word.rstrip("/") for line in tree.splitlines() for word in re.findall(r"[\w.]+\.\w+|^[\w]+/", line)}
    for path in PROJECT.rglob("*.py"):
        place = path.relative_to(PROJECT)
        if place.parts[0] not in ("tests", ".venv", "saved") and place.parts[:2] != ("utils", "config"):
            assert path.name in listed or path.name == "__init__.py", place
    for name in (name for name in listed if name.endswith(".py")):
        assert any(any(PROJECT.glob(f"{folder}{name}")) for folder in ("", "*/", "*/*/")), name
