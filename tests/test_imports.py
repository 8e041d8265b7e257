"""Imports point down only, and nothing heavy is imported before it is needed."""

import ast
import graphlib
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest

from helpers import PROJECT

BELOW = {
    "utils": set(),
    "logger": {"utils"},
    "base": {"logger", "utils"},
    "model": {"base"},
    "data_loader": {"base", "utils"},
    "trainer": {"base", "logger", "utils"},
    "examples": {"base", "data_loader", "logger", "model", "trainer", "utils"},
    "serving": {"base", "utils"},
    "comparing": {"logger", "utils"},
    "sweeping": {"logger", "utils"},
    "parse_config": {"logger", "utils"},
}


def modules_in(path):
    """Dotted names of what a file imports when it runs, also within functions: not for type hints alone."""
    left = [ast.parse(path.read_text())]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            left += node.orelse
            continue
        left += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def imports_of(path):
    return [name.split(".")[0] for name in modules_in(path)]


@pytest.mark.parametrize("room", BELOW)
def test_imports_point_down_only(room):
    files = [PROJECT / f"{room}.py"] if room == "parse_config" else sorted((PROJECT / room).rglob("*.py"))
    assert files
    for path in files:
        ours = set(imports_of(path)) & {*BELOW, "train", "test", "new_project"}
        assert ours <= BELOW[room] | {room}, path


def test_no_two_files_need_each_other():
    folders = [PROJECT / room for room in BELOW if room != "parse_config"]
    files = [*PROJECT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    modules = {".".join(path.relative_to(PROJECT).with_suffix("").parts): path for path in files}
    needs = {name: {m for m in modules_in(path) if m in modules} for name, path in modules.items()}
    within_functions = {"utils.errors", "utils.old_forms.checkpoint"}
    assert needs["utils.runs.checkpoint"] >= within_functions
    graphlib.TopologicalSorter(needs).prepare()  # raises CycleError with the names


def test_the_room_of_old_forms_tells_what_leads_to_it():
    told = (PROJECT / "utils/old_forms/__init__.py").read_text()
    files = [
        *PROJECT.glob("*.py"),
        *(path for room in ("base", "logger", "utils") for path in (PROJECT / room).rglob("*.py")),
    ]
    leading = [path.relative_to(PROJECT) for path in files if "old_forms" in path.read_text()]
    leading = [path for path in leading if path.parent.name != "old_forms"]
    assert [
        path for path in leading if f"{path}" not in told and f"{path.parent}/ " not in told.replace("\n", " ")
    ] == []
    assert len(leading) > 5


def imported_by(*arguments):
    """(what the command came to, the modules that it has imported)."""
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], cwd=PROJECT, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return done, {line.rpartition("|")[2].strip() for line in lines}


VERBS = ["train", "test", "predict", "export", "serve", "compare", "sweep"]


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_answered_before_any_package_is_imported(verb):
    done, imported = imported_by(f"{verb}.py", "--help")
    assert done.stdout.startswith("usage: ") and "argparse" in imported
    packages = {name for name in packages_distributions() if not name.startswith("_")}  # hooks of setuptools
    assert packages > {"pydantic", "torch", "numpy", "optuna"}
    assert not {name.split(".")[0] for name in imported} & packages


@pytest.mark.parametrize(
    "arguments",
    [
        ["train.py", "-c", "none.json"],
        ["sweep.py", "-c", "config.json", "optimizer.args.lrr=0.1,0.2", "--trials", "3"],
        ["train.py", "-c", "config.json", "--set", "optimizer.type=Adamm"],
    ],
)
def test_mistakes_are_answered_without_torch(arguments):
    _, imported = imported_by(*arguments)
    assert "argparse" in imported
    assert not imported & {"optuna", "torch", "numpy", "pandas", "matplotlib", "torchvision", "tensorboard"}


INTERRUPTED = """
import contextlib, os, runpy, signal, sys
at, *sys.argv = sys.argv[1:]
sys.path.insert(0, os.getcwd())
lost = [KeyboardInterrupt] if at.startswith("torch") else []  # C++ may lose it

class Interrupts:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == at:
            with contextlib.suppress(*lost):
                os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("command", "at"),
    [
        *((f"{verb}.py --help", "utils.device") for verb in VERBS),
        ("predict.py -r none.pth a.png", "torch.types"),
        ("train.py -c config.json", "torch.types"),
    ],
)
def test_ctrl_c_during_the_imports_is_one_line_and_status_130(command, at):
    words = [sys.executable, "-c", INTERRUPTED, at, *command.split()]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_all_mistakes_in_keys_and_names_come_at_once_with_status_2_before_torch_and_before_a_run(tmp_path):
    wrong = {
        "trainer.epocs": "3",
        "trainer.monitor": "min val_los",
        "arch.type": "MnistModl",
        "data_loader.args.batch_sise": "8",
        "optimizer.type": "Adamm",
        "loss": "nl_loss",
    }
    settings = [word for key, value in wrong.items() for word in ("--set", f"{key}={value}")]
    command = ["train.py", "-c", "config.json", "--set", f"trainer.save_dir={tmp_path}", *settings]
    done, imported = imported_by(*command)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2 and not imported & {"torch", "numpy"} and not any(tmp_path.iterdir())
    told = [line.removeprefix("error: ").partition(": ") for line in lines]
    assert {place.removesuffix(".type") for place, _, _ in told} == {key.removesuffix(".type") for key in wrong}, lines
    assert all("did you mean" in why or "'val_los'" in why for _, _, why in told)
