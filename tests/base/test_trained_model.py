"""TrainedModel gives in use the numbers that training and testing gave."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from base import BaseDataLoader, InMemoryDataset
from base.data.inputs import Input
from base.data.outputs import Output
from base.trained_model import TrainedModel
from helpers import PROJECT, run_here, tiny_config
from utils import UserError
from utils.json_io import read_json
from utils.runs.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """(folder of 40 test images of MNIST as PNG files, their labels)."""
    from base.data.mnist_files import read_mnist

    folder = tmp_path_factory.mktemp("digits")
    images, labels = read_mnist(PROJECT / "data", training=False)
    for i in range(40):
        Image.fromarray(images[i, 0].numpy()).save(folder / f"{i:02d}.png")
    return folder, labels[:40]


def test_files_give_the_numbers_of_the_test_data_exactly(default_run, digits):
    model = TrainedModel.load(default_run)
    from data_loader.data_loaders import MnistDataLoader

    loader = MnistDataLoader(PROJECT / "data", 40, shuffle=False, training=False)
    data, _ = next(iter(loader))
    (found,) = model.predict_files([str(digits[0])], batch_size=40)
    assert torch.equal(found.data, data)
    assert torch.equal(found.outputs, model(data))
    raw = np.stack([model.input.read(str(file)) for file in sorted(digits[0].iterdir())])
    assert torch.equal(model.outputs(raw), found.outputs)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_predictions_do_not_depend_on_the_batch(default_run, digits, batch_size):
    model, files = TrainedModel.load(default_run), sorted(map(str, digits[0].iterdir()))
    wanted, found = model.predict(files, top=3), model.predict(files, batch_size, top=3)
    assert [row["prediction"] for row in found] == [row["prediction"] for row in wanted]
    assert [row["probability"] for row in found] == pytest.approx([row["probability"] for row in wanted])
    assert all(len(row["top"]) == 3 and row["top"][0] == [row["prediction"], row["probability"]] for row in found)


def test_the_training_data_are_not_read(default_run, digits, monkeypatch):
    def refuse(*args):
        raise AssertionError("the training data are read")

    monkeypatch.setattr("data_loader.data_loaders.read_mnist", refuse)
    assert len(TrainedModel.load(default_run).predict(sorted(digits[0].iterdir()))) == 40


def test_a_command_writes_what_it_predicts(default_run, digits, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    files = {name: tmp_path / name for name in ("p.csv", "o.npy", "g.png")}
    outputs = ("--out", files["p.csv"], "--save-outputs", files["o.npy"], "--grid", files["g.png"])
    done = run_here("predict.py", "-r", default_run, digits[0], tmp_path / "broken.png", *outputs, "--top", 2, status=1)
    assert "... and 21 more\n41 examples, 1 could not be read\n" in done.stdout
    with open(files["p.csv"]) as file:
        rows = list(csv.DictReader(file))
    saved = np.load(files["o.npy"])
    assert saved.shape == (40, 10) and len(rows) == 41
    assert [row["prediction"] for row in rows[:40]] == [str(number) for number in saved.argmax(1)]
    assert rows[40]["prediction"] == "" and "cannot be read as an image" in rows[40]["error"]
    with Image.open(files["g.png"]) as picture:
        assert min(picture.size) > 300


def test_a_split_has_targets_and_its_errors_come_first_by_confidence(default_run, tmp_path):
    run_here("predict.py", "-r", default_run, "--split", "test", "--errors", "--out", tmp_path / "e.csv", "--json")
    with open(tmp_path / "e.csv") as file:
        errors = list(csv.DictReader(file))
    run_here("test.py", "-r", default_run)
    result = read_json(default_run / "test_results.json")["checkpoint-epoch1.pth"]["test"]
    assert len(errors) == round(10_000 * (1 - result["accuracy"]))
    shares = [float(row["probability"]) for row in errors]
    assert shares == sorted(shares, reverse=True)
    assert all(row["prediction"] != row["target"] for row in errors)


def test_json_lines_hold_one_object_for_each_example(default_run, digits):
    done = run_here("predict.py", "-r", default_run, digits[0] / "00.png", "--json")
    (row,) = map(json.loads, done.stdout.splitlines()[-1:])
    assert row.keys() == {"source", "prediction", "probability"}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), "give either files, folders, patterns or - to predict for, or --split"),
        (("a.png", "--split", "test"), "give either files"),
        (("a.png", "--top", "0"), "--top: got 0; it should be at least 1"),
        (("a.png", "--errors"), "--errors: needs targets, as --split gives them"),
        (("a.png", "--out", "p.txt"), "--out: p.txt: should end in .csv"),
        (("a.png", "--out", "/none/p.csv"), "/none/p.csv: cannot save the predictions: there is no such folder"),
        (("/none/*.png",), "/none/*.png: no file matches the pattern"),
    ],
)
def test_wrong_commands_end_with_one_line(default_run, words, error):
    done = run_here("predict.py", "-r", default_run, *words, status=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {error}")


def test_a_checkpoint_without_an_input_says_what_to_do(default_run, tmp_path):
    state = load_checkpoint(next(default_run.glob("checkpoint*.pth")))
    del state["attributes"]["data_loader"]
    save_checkpoint(state, tmp_path / "old.pth")
    done = run_here("predict.py", "-r", tmp_path / "old.pth", "a.png", status=2)
    assert "holds no input, so raw examples cannot be prepared; predict with --split test" in done.stderr
    run_here("predict.py", "-r", tmp_path / "old.pth", "--split", "test")


class Doubled(Input):
    """An input of a project's own."""

    def __init__(self, factor: float) -> None:
        super().__init__(factor=factor)
        self.factor = factor

    def forward(self, raw):
        return raw.float() * self.factor


class OwnLoader(BaseDataLoader):
    def __init__(self, *args, **kwargs):
        self.input = Doubled(2.0)
        rows = np.arange(20, dtype=np.float32).reshape(10, 2)
        super().__init__(InMemoryDataset(rows, rows[:, :1], batch_transform=self.input), *args, **kwargs)


def test_a_loader_of_a_projects_own_declares_its_input():
    loader = OwnLoader(5, False, 0.0, 0)
    assert loader.state_dict()["input"]["args"] == {"factor": 2.0}
    model = TrainedModel(torch.nn.Identity(), loader.input, Output(), torch.device("cpu"))
    data, _ = next(iter(loader))
    assert [row["prediction"] for row in model.predict([np.float32([0, 1])])] == [data[0].tolist()]


def test_outputs_are_read_as_what_they_are():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    names = ["no", "yes"]
    for given in (logits, logits.log_softmax(1)):
        rows = Output(names).describe(given, target=torch.tensor([0, 0]))
        assert [row["prediction"] for row in rows] == ["no", "yes"]
        assert rows[0]["probability"] == pytest.approx(1 / (1 + math.exp(-2)))
        assert [row["right"] for row in rows] == [True, False] and rows[1]["target"] == "no"
    one = Output(names).describe(torch.tensor([[-1.0], [1.0]]))
    assert [row["prediction"] for row in one] == names and one[1]["probability"] == pytest.approx(0.731059, abs=1e-6)
    share = Output(names, is_probability=True).describe(torch.tensor([0.9]))
    assert share[0] == {"prediction": "yes", "probability": pytest.approx(0.9)}
    value = Output(mean=10.0, std=2.0).describe(torch.tensor([[1.5]]), target=torch.tensor([[1.0]]))
    assert value == [{"prediction": 13.0, "target": 12.0}]


def test_raw_examples_of_unequal_shape_are_named():
    model = TrainedModel(torch.nn.Identity(), Doubled(1.0), Output(), torch.device("cpu"))
    with pytest.raises(UserError, match=r"raw examples of shape \(2,\) and \(3,\)"):
        model.predict([np.zeros(2), np.zeros(3)])


def test_a_model_that_cannot_compute_with_an_example_says_what_it_was_given():
    model = TrainedModel(torch.nn.Linear(3, 1), Doubled(1.0), Output(), torch.device("cpu"))
    with pytest.raises(UserError, match=r"^Linear cannot compute with tensor \(1, 2\) float32: "):
        model.predict([np.zeros(2)])


def test_tiny_jobs_without_an_arch_are_refused_in_a_line(tmp_path):
    save_checkpoint({"state_dict": {}, "config": tiny_config(tmp_path)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="holds no config with an arch"):
        TrainedModel.load(tmp_path / "a.pth")
