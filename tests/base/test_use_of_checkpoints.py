"""predict.py, export.py and serve.py with a run that is being trained, and with checkpoints of other projects."""

import fcntl
import json
import shutil

import pytest

from helpers import run_here
from utils.runs.checkpoint import load_checkpoint, save_checkpoint

VERBS = {"predict.py": ("docs/drawing.png",), "export.py": ("--to", "torch"), "serve.py": ("--port", "0")}


@pytest.fixture
def changed_checkpoint(default_run, tmp_path):
    """A function that writes the default run's checkpoint with other entries of its config, and returns its path."""

    def write(loader=None, **config):
        state = load_checkpoint(next(default_run.glob("checkpoint*.pth")))
        state["config"] |= config
        state["attributes"]["data_loader"] |= loader or {}
        save_checkpoint(state, tmp_path / "theirs.pth")
        return tmp_path / "theirs.pth"

    return write


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("arch", "reason"),
    [
        (
            {"type": "their.model.Net"},
            "its model MnistModel cannot be built: arch.type: there is no module 'model.their",
        ),
        ({"type": "Net"}, "its model MnistModel cannot be built: arch.type: model.model has no 'Net'"),
        (
            {"type": "MnistModel", "args": {"a": 1, "b": 2}},
            "its model MnistModel cannot be built: arch.args.a: no such",
        ),
        (
            {"type": "examples.mlp.model.ShrinkingMlp", "args": {"in_features": 784, "num_classes": 10}},
            "the checkpoint of the model MnistModel does not fit the model ShrinkingMlp: ",
        ),
    ],
)
def test_a_checkpoint_of_another_project_is_named_with_its_class(changed_checkpoint, verb, arch, reason):
    path = changed_checkpoint(arch=arch)
    (line,) = run_here(verb, "-r", path, *VERBS[verb], status=2).stderr.splitlines()
    assert line.startswith(f"error: {path}: {reason}")
    assert line.endswith("; use it in the project that it was trained in, with the same code")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("verb", VERBS)
def test_a_checkpoint_with_an_input_of_another_project_is_named(changed_checkpoint, verb):
    path = changed_checkpoint(loader={"input": {"type": "TheirInput", "args": {}}})
    (line,) = run_here(verb, "-r", path, *VERBS[verb], status=2).stderr.splitlines()
    assert line.startswith(f"error: {path}: the checkpoint's input.type: ")


def test_serve_says_what_a_model_without_an_input_lacks(changed_checkpoint):
    path = changed_checkpoint(loader={"input": None})
    (line,) = run_here("serve.py", "-r", path, "--port", "0", status=2).stderr.splitlines()
    assert line.startswith(f"error: {path}: holds no input, so that it cannot be served; train one whose data loader")


@pytest.mark.parametrize(
    "words",
    [("predict.py", "docs/drawing.png"), ("export.py", "--to", "safetensors", "--out")],
    ids=["predict", "export"],
)
def test_of_a_run_that_is_being_trained_the_newest_checkpoint_is_used_and_a_line_says_so(
    default_run, words, tmp_path, caplog
):
    verb, *words = words
    words += [tmp_path / "weights.safetensors"] if words[-1] == "--out" else []
    run, record = tmp_path / "run", tmp_path / "run" / "environment.json"
    shutil.copytree(default_run, run)
    ended = json.loads(record.read_text())
    record.write_text(json.dumps([*ended[:-1], {key: value for key, value in ended[-1].items() if key != "ended"}]))
    with open(run / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run_here(verb, "-r", run, *words)
        said = done.stderr + caplog.text
        named = run_here(verb, "-r", run / "checkpoint-epoch1.pth", *words)
        record.write_text(json.dumps(ended))  # a notebook that has trained it holds the lock still
        after = run_here(verb, "-r", run, *words)
    line = f"{run}: is still being trained; checkpoint-epoch1.pth is used, as it is now"
    assert said.count(line) == 1 and line not in named.stderr
    assert "being trained" not in after.stderr
    assert "being trained" not in run_here(verb, "-r", default_run, *words).stderr
