"""Imports point down only, and nothing heavy is imported before it is needed."""

import ast
import subprocess
import sys

import pytest

from helpers import PROJECT

BELOW = {
    "utils": set(),
    "logger": {"utils"},
    "base": {"logger", "utils"},
    "model": {"base"},
    "data_loader": {"base", "utils"},
    "trainer": {"base", "logger", "utils"},
    "parse_config": {"logger", "utils"},
}


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


@pytest.mark.parametrize("room", BELOW)
def test_imports_point_down_only(room):
    files = [PROJECT / f"{room}.py"] if room == "parse_config" else sorted((PROJECT / room).rglob("*.py"))
    assert files
    for path in files:
        ours = set(imports_of(path)) & {*BELOW, "train", "test", "new_project"}
        assert ours <= BELOW[room] | {room}, path


@pytest.mark.parametrize(
    "arguments",
    [
        ["train.py", "--help"],
        ["train.py", "-c", "none.json"],
        ["test.py", "--help"],
        ["train.py", "-c", "config.json", "--set", "optimizer.type=Adamm"],
    ],
)
def test_help_and_mistakes_are_answered_without_torch(arguments):
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], cwd=PROJECT, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "argparse" in imported
    assert not imported & {"torch", "numpy", "pandas", "matplotlib", "torchvision", "tensorboard"}
