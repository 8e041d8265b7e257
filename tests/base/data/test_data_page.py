"""The code of docs/data.md, as a user would write it."""

import json
import re

import torch
from torch.nn.utils.rnn import pad_sequence

from base import BaseDataLoader
from helpers import PROJECT

PAGE = (PROJECT / "docs" / "data.md").read_text()


def code_with(words, places):
    """The names that the block of the page with these words defines."""
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if words in block]
    exec(code, places := {"__name__": "page", **places})
    return places


def test_sequences_of_unequal_length():
    sentences = [(torch.arange(1, n + 1), torch.arange(n) % 3) for n in range(1, 101)]
    names = {"BaseDataLoader": BaseDataLoader, "pad_sequence": pad_sequence, "read_sentences": lambda path: sentences}
    loader = code_with("class TagsDataLoader", names)["TagsDataLoader"]("a.txt", 8)
    assert len(loader.valid_sampler) == 10
    batches = list(loader)
    assert all(tags.shape == data["ids"].shape and torch.equal(data["mask"], data["ids"] > 0) for data, tags in batches)
    assert sum(tags.numel() for _, tags in batches) < 1.2 * sum(int(data["mask"].sum()) for data, _ in batches)


def test_a_stream_is_trained_on_by_a_script(tmp_path, monkeypatch, capsys):
    class Lines(torch.utils.data.IterableDataset):
        def __init__(self, path):
            self.number = {"train.txt": 80, "valid.txt": 10}[path]

        def __iter__(self):
            return ((torch.full((5,), i / 128), torch.ones(1)) for i in range(self.number))

    monkeypatch.chdir(tmp_path)
    config = {
        "arch": {"type": "torch.nn.Linear", "args": {"in_features": 5, "out_features": 1}},
        "data_loader": (unused := {"type": "MnistDataLoader", "args": {"data_dir": "data", "batch_size": 32}}),
        "valid_data_loader": unused,
        "optimizer": {"type": "SGD", "args": {"lr": 0.1}},
        "loss": "torch.nn.MSELoss",
        "trainer": {"epochs": 2, "len_epoch": 3, "monitor": "min val_loss", "tensorboard": False, "report": False},
    }
    (tmp_path / "stream.json").write_text(json.dumps(config))
    places = code_with('Lines("train.txt")', {"Lines": Lines, "__name__": "__main__"})
    assert "done: 2 epochs" in capsys.readouterr().out
    read = torch.cat([data[:, 0] for data, _ in places["batches"]])
    assert torch.equal(read, torch.arange(80) / 128)  # each sample once


def test_computed_samples_differ_by_epoch():
    simulated = code_with("class Simulated", {"torch": torch})["Simulated"]()
    loader = BaseDataLoader(simulated, 4, False, 0, 0)
    first = []
    for epoch in (1, 1, 2):
        loader.set_epoch(epoch)
        first.append(next(iter(loader))[0])
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
