"""The code of docs/data.md, as a user would write it."""

import copy
import json
import re

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from base import BaseDataLoader
from helpers import PROJECT, metrics_rows, newest_state, same, tiny_config, tiny_trainer
from trainer import Trainer
from utils import UserError

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


def test_a_replay_buffer_grows_and_survives_a_restart(tmp_path):
    def play(model, replay):
        for _ in range(10):
            replay.push(state := torch.rand(4), reward := state.sum())
        return [reward.item()]

    def trainer(folder, resume=None, epochs=3):
        torch.manual_seed(0)
        torch.rand(0 if resume is None else 1)  # another content and other weights, until they are restored
        dataset = places["Replay"](25, 16)
        play(None, dataset)
        loader = BaseDataLoader(dataset, 8, False, 0, 0)
        config = tiny_config(folder, epochs=epochs, also_logged=["reward"], monitor="max reward", keep_last=1)
        return tiny_trainer(
            config,
            resume,
            trainer_class=places["ReplayTrainer"],
            model=torch.nn.Linear(4, 1),
            loader_class=lambda *_: loader,
            criterion=lambda output, target: (output[:, 0] - target).square().mean(),
            metrics=(),
        )

    places = code_with("class ReplayTrainer", {"torch": torch, "copy": copy, "Trainer": Trainer, "play": play})
    whole = trainer(tmp_path / "a")
    whole.train()
    assert whole.replay.size == 25 and whole.replay.place == 40 % 25
    (short := trainer(tmp_path / "b", epochs=2)).train()
    resumed = trainer(tmp_path / "b", resume=short.checkpoint_dir / "checkpoint-epoch2.pth")
    resumed.train()
    assert same(newest_state(resumed)["state_dict"], newest_state(whole)["state_dict"])
    assert same(resumed.replay.state_dict(), whole.replay.state_dict())
    assert metrics_rows(resumed) == metrics_rows(whole)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_of_another_length_than_at_first_is_refused(workers):
    samples = [(torch.ones(2), torch.ones(1))] * 6
    loader = BaseDataLoader(samples, 2, True, 2, workers)
    assert len(list(loader)) == 2
    samples.append(samples[0])
    with pytest.raises(UserError, match=r"^data_loader: its dataset had 6 samples .* has 7 now, .* docs/data.md"):
        list(loader)
