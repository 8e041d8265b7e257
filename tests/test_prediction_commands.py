"""predict.py with models of segmentations and of several labels, whose losses are the project's own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from base import BaseDataLoader
from base.data.inputs import Examples, ImageInput
from base.data.outputs import Output
from base.trained_model import Predictions
from helpers import PROJECT, run_here, tiny_config
from logger.predictions import PredictionWriter
from parse_config import ConfigParser
from train import build

CLASSES = ["sky", "sea", "land"]
SIZE = 6
MASKS = {
    name: [[corner, corner, *[rest] * (SIZE - 2)], *[[rest] * SIZE] * (SIZE - 1)]
    for name, corner, rest in [("x/one.png", 0, 0), ("x/two (2).png", 2, 1), ("y/one.png", 0, 2)]
}
"""Class numbers of the pixels of images, by the files of these."""


def mask_loss(output, target):
    return torch.nn.functional.cross_entropy(output, target)


def label_loss(output, target):
    return torch.nn.functional.binary_cross_entropy_with_logits(output, target)


mask_loss.expects, label_loss.expects = "classes", "logits"


class Shades(torch.utils.data.Dataset):
    """Images from files, grey by their class; a target for each pixel, or labels that only the darkest lack."""

    def __init__(self, folder, input, makes_labels):
        self.paths, self.input, self.makes_labels = sorted(Path(folder).rglob("*.png")), input, makes_labels

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        raw = torch.from_numpy(self.input.read(str(self.paths[index])))
        target = raw[0].long() // 100
        labels = (target.max() > 0).float().expand(3).clone()
        return self.input(raw[None])[0], labels if self.makes_labels else target


class ShadesLoader(BaseDataLoader):
    def __init__(self, folder, batch_size, makes_labels=False, training=True):
        self.input, self.classes = ImageInput(3, SIZE, SIZE, [0.0] * 3, [1.0] * 3), CLASSES
        super().__init__(Shades(folder, self.input, makes_labels), batch_size, training, 0, 0)


class Pixels(torch.nn.Module):
    """Tells the three shades of grey exactly."""

    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(100.0))

    def forward(self, images):
        shades = torch.tensor([0.0, 100 / 255, 200 / 255]).view(1, 3, 1, 1)
        return -self.slope * (images[:, :1] - shades) ** 2


class Labels(torch.nn.Module):
    """Gives each image the first two labels, the second with the more confidence, and not the third."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor([1.0, 3.0, -2.0]))

    def forward(self, images):
        return self.logits.expand(len(images), 3)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A function that trains one of the models for an epoch without changing it; the folder of the run."""
    for place, found in (
        ("model.model", Pixels),
        ("model.model", Labels),
        ("model.loss", mask_loss),
        ("model.loss", label_loss),
        ("data_loader.data_loaders", ShadesLoader),
    ):
        monkeypatch.setattr(f"{place}.{found.__name__}", found, raising=False)
    for name, mask in MASKS.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.repeat(np.array(mask, np.uint8)[..., None] * 100, 3, axis=2)
        Image.fromarray(pixels).save(tmp_path / "data" / name)

    def train(model, loss, loader=None):
        config = tiny_config(tmp_path / "saved", epochs=1) | {"arch": {"type": model}, "loss": loss, "n_gpu": 0}
        config["optimizer"] = {"type": "SGD", "args": {"lr": 0.0}}
        args = {"folder": str(tmp_path / "data"), "batch_size": 3, "makes_labels": model == "Labels"}
        config |= {"data_loader": loader or {"type": "ShadesLoader", "args": args}, "metrics": []}
        trainer = build(ConfigParser(config))
        trainer.train()
        return trainer.checkpoint_dir

    return train


@pytest.mark.parametrize("source", ["files", "split"])
def test_masks_and_pictures_of_a_segmentation(trained, tmp_path, monkeypatch, source):
    drawn = {}
    monkeypatch.setattr("logger.predictions.draw_batches", lambda path, by_part: drawn.update(by_part))
    run, folder = trained("Pixels", "mask_loss"), tmp_path / "masks"
    words = ["--split", "test"] if source == "split" else [tmp_path / "data"]
    told = run_here("predict.py", "-r", run, *words, "--masks", folder, "--grid", tmp_path / "g.png").stdout
    assert f"3 examples\nwritten to {folder}\n" in told and "wrong" not in told
    found = {str(path.relative_to(folder)): np.asarray(Image.open(path)).tolist() for path in folder.rglob("*.png")}
    assert found == MASKS
    images, captions = drawn["predictions"]
    assert images.shape == (3, 3, 2 * SIZE, SIZE) and captions == ["", "", ""]
    low, high = images[1].min().item(), images[1].max().item()  # grey 100 and 200, of the classes 1 and 2
    assert images[1, 0, SIZE, :3].tolist() == pytest.approx([high, high, (low + high) / 2])
    (line,) = run_here("predict.py", "-r", run, *words, "--masks", folder, status=2).stderr.splitlines()
    assert line.startswith(f"error: --masks: {folder}: holds files")


def test_flags_that_do_not_fit_the_model_are_refused_before_a_row_is_shown(trained, tmp_path):
    run = trained("Labels", "label_loss")
    for flags, message in (
        (("--top", "2"), "error: --top: ranks the classes of an example"),
        (("--masks", tmp_path / "m"), r"error: --masks: the outputs are (3, 3); masks are made of"),
    ):
        done = run_here("predict.py", "-r", run, "--split", "test", *flags, status=2)
        (line,) = done.stderr.splitlines()
        assert line.startswith(message) and not done.stdout and not (tmp_path / "m").exists()


def test_several_labels_and_their_errors(trained):
    run = trained("Labels", "label_loss")
    told = run_here("predict.py", "-r", run, "--split", "test").stdout
    assert told.count("sky 0.7311  sea 0.9526  target sky, sea, land, wrong\n") == 2
    assert "sky 0.7311  sea 0.9526  target none, wrong\n" in told and "3 examples, 3 wrong" in told
    lines = run_here("predict.py", "-r", run, "--split", "test", "--errors", "--json").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["target"] for row in rows] == [[], CLASSES, CLASSES]  # wrong with 0.95, and with 0.88 without land
    assert rows[0]["prediction"] == ["sky", "sea"] and rows[0]["probabilities"]["land"] == pytest.approx(
        0.1192, abs=1e-4
    )


def test_labels_that_are_numbers_are_separated_as_any(capsys):
    outputs, labels = torch.tensor([[0.75, 0.875]]), Output([1, 3], kind="probabilities")
    part = Predictions(Examples(["a"]), outputs, outputs, torch.ones(1, 2), labels)
    with PredictionWriter() as writer:
        for one in writer.counted([part]):
            writer.add(one)
    assert capsys.readouterr().out.splitlines()[0].split(maxsplit=1) == ["a", "1 0.7500  3 0.8750  target 1, 3"]


class OneByOne(ShadesLoader):
    """A loader that chooses its batch size itself."""

    def __init__(self, folder, training=True):
        super().__init__(folder, 1, training=training)


def test_a_split_of_a_loader_without_a_batch_size_is_predicted(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("data_loader.data_loaders.OneByOne", OneByOne, raising=False)
    run = trained("Pixels", "mask_loss", {"type": "OneByOne", "args": {"folder": str(tmp_path / "data")}})
    words = "predict.py", "-r", run, "--split", "test"
    assert "\n3 examples\n" in run_here(*words).stdout
    (line,) = run_here(*words, "--batch-size", 2, status=2).stderr.splitlines()
    assert line.startswith("error: data_loader.args.batch_size: no such argument")


def test_the_run_that_latest_names_is_told(default_run, tmp_path):
    (tmp_path / "saved").symlink_to(default_run.parents[2])
    drawing = PROJECT / "docs" / "drawing.png"
    done = run_here("predict.py", "-r", "latest", drawing, cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    assert line.startswith("using saved/models/") and line.endswith(".pth")
    assert run_here("predict.py", "-r", Path(line.removeprefix("using ")), drawing, cwd=tmp_path).stdout == done.stdout
