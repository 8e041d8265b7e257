"""Models that generate continue texts, and draw samples."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from base.data.inputs import ArrayInput
from base.data.outputs import Output
from base.data.texts import TextDataLoader, TextInput
from base.generate import as_texts, continued, continued_files, draw_samples, samples_of
from base.trained_model import TrainedModel
from logger.predictions import PredictionWriter
from utils import UserError


class Successor(torch.nn.Module):
    """The next byte is the last one plus one, nearly for certain."""

    def forward(self, tokens):
        logits = torch.zeros(len(tokens), 256, tokens.shape[1])
        return logits.scatter(1, ((tokens + 1) % 256)[:, None], 20.0)


def test_a_model_of_texts_continues_a_prompt():
    model = TrainedModel(Successor(), TextInput(3), Output(), torch.device("cpu"))
    assert "".join(continued(model, "xyab", length=5, temperature=0)) == "cdefg"
    drawn = ["".join(continued(model, "é", length=30, temperature=9, seed=seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(UserError, match=r"^--prompt: give at least one letter"):
        list(continued(model, ""))
    with pytest.raises(UserError, match=r"^--prompt: is not text in UTF-8$"):
        continued(model, b"\xff".decode(errors="surrogateescape"))  # as the command line has it
    assert "".join(continued(model, "a", length=2, temperature=1e-320)) == "bc"
    with pytest.raises(UserError, match=r"^--prompt: continues a text, and this model was not"):
        list(continued(TrainedModel(Successor(), ArrayInput(), Output(), torch.device("cpu")), "a"))


def test_a_model_of_texts_continues_text_files(tmp_path, capsys):
    model = TrainedModel(Successor(), TextInput(3), Output(), torch.device("cpu"))
    (tmp_path / "ab.txt").write_text("ab")
    (tmp_path / "xyz.txt").write_text("rst")
    (tmp_path / "empty.txt").write_text("")
    with PredictionWriter(f"{tmp_path}/p.csv", True) as writer:
        for part in writer.counted(continued_files(model, [str(tmp_path)], length=3, temperature=0)):
            writer.add(part)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row.get("prediction") for row in rows] == ["cde", None, "uvw"] and writer.num_errors == 1
    assert rows[0]["source"] == f"{tmp_path}/ab.txt" and rows[1]["error"].startswith(f"{tmp_path}/empty.txt: is empty")
    assert (tmp_path / "p.csv").read_text().splitlines()[1] == f"{tmp_path}/ab.txt,cde,"


def test_arrays_that_are_no_bytes_of_a_text_are_not_continued(tmp_path):
    model = TrainedModel(Successor(), TextInput(3), Output(), torch.device("cpu"))
    for array in (np.array([[97, 98]]), np.zeros((1, 0), np.uint8), np.zeros(3, np.uint8)):
        np.save(tmp_path / "a.npy", array)
        (part,) = continued_files(model, [f"{tmp_path}/a.npy"])
        assert all("an array (B, T) of bytes, uint8" in str(error) for error in part.examples.errors.values())
        assert len(part.examples.errors) == len(part.examples)


class Painter(torch.nn.Module):
    latent_size = 2

    def generate(self, latent):
        return latent.view(-1, 1, 1, 2)


def test_a_model_that_generates_draws_samples_by_a_seed(tmp_path):
    model = TrainedModel(Painter(), None, Output(), torch.device("cpu"))
    assert samples_of(model, 4).shape == (4, 1, 1, 2)
    assert torch.equal(samples_of(model, 4, seed=1), samples_of(model, 4, seed=1))
    for number, rows in ((4, 1), (40, 5)):  # all of them are drawn
        draw_samples(model, number, tmp_path / "s.png")
        with Image.open(tmp_path / "s.png") as picture:
            assert picture.height == round(120 * (1.3 * rows + 0.4))
    with pytest.raises(UserError, match=r"^--samples: the model generates nothing"):
        samples_of(TrainedModel(Successor(), None, Output(), torch.device("cpu")), 4)


def test_predictions_for_a_split_of_texts_are_texts(tmp_path, capsys):
    model = TrainedModel(Successor(), TextInput(3), Output(), torch.device("cpu"))
    (tmp_path / "a.txt").write_text("abcdeeg")
    parts = as_texts(model.predict_split(TextDataLoader(f"{tmp_path}/a.txt", 3, 1, shuffle=False), "test"))
    with PredictionWriter(f"{tmp_path}/p.csv") as writer:
        for part in writer.counted(parts):
            writer.add(part)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == [["test:0", "bcd", "target", "bcd"], ["test:1", "eff", "target", "eeg"]]
    assert (tmp_path / "p.csv").read_text().splitlines() == [
        "source,prediction,target,error",
        "test:0,bcd,bcd,",
        "test:1,eff,eeg,",
    ]
