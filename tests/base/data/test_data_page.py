"""The code of docs/data.md, as a user would write it."""

import copy
import itertools
import json
import re

import pytest
import torch
from forked import run_forked
from torch.nn.utils.rnn import pad_sequence

from base import BaseDataLoader
from base.data.sampler import EpochSampler
from base.data.streams import StreamDataLoader
from base.training.evaluate import evaluate
from helpers import PROJECT, copy_project, metrics_rows, newest_state, same, tiny_config, tiny_trainer
from trainer import Trainer
from utils import MetricTracker, UserError
from utils.runs.checkpoint import load_checkpoint

PAGE = (PROJECT / "docs" / "data.md").read_text()


def block_with(words, language="python"):
    """The block of the page with these words."""
    (block,) = [block for block in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if words in block]
    return block


def code_with(words, places):
    """The names that the block of the page with these words defines."""
    exec(block_with(words), places := {"__name__": "page", **places})
    return places


def test_sequences_of_unequal_length():
    sentences = [(torch.arange(1, n + 1), torch.arange(n) % 3) for n in range(1, 101)]
    names = {"BaseDataLoader": BaseDataLoader, "pad_sequence": pad_sequence, "read_sentences": lambda path: sentences}
    loader = code_with("class TagsDataLoader", names)["TagsDataLoader"]("a.txt", 8)
    assert len(loader.valid_sampler) == 10
    batches = list(loader)
    assert all(tags.shape == data["ids"].shape and torch.equal(data["mask"], data["ids"] > 0) for data, tags in batches)
    assert sum(tags.numel() for _, tags in batches) < 1.2 * sum(int(data["mask"].sum()) for data, _ in batches)


@pytest.mark.slow
def test_a_stream_that_a_config_names_is_trained_on_resumed_measured_and_predicted_for(tmp_path):
    project = copy_project(tmp_path / "project")
    code = f"import itertools\n\nimport torch\n\n{block_with('class LinesDataLoader')}"
    (project / "data_loader" / "lines.py").write_text(code)
    for name, number in (("train", 80), ("valid", 10), ("test", 7)):
        lines = [" ".join(str((i * k) % 7 / 7) for k in (1, 2, 3, 4, 5, 6)) for i in range(number)]
        (project / f"{name}.txt").write_text("\n".join(lines))
    sections = json.loads("{" + block_with("LinesDataLoader", "json") + "}")
    sections["trainer"] |= {"epochs": 2, "len_epoch": 4, "save_every_steps": 3, "tensorboard": False}
    config = {
        "name": "stream",
        "arch": {"type": "torch.nn.Linear", "args": {"in_features": 5, "out_features": 1}},
        "optimizer": {"type": "SGD", "args": {"lr": 0.1}},
        "loss": "torch.nn.MSELoss",
    }
    (project / "stream.json").write_text(json.dumps(config | sections))

    assert "1 batch of everything" in run_forked("train.py", "-c", "stream.json", "--fast-dev-run", cwd=project).stdout
    (line,) = run_forked("train.py", "-c", "stream.json", "--folds", "2", cwd=project, status=2).stderr.splitlines()
    assert line.startswith("error: data_loader.args.fold: lines.LinesDataLoader has no folds")
    run_forked("train.py", "-c", "stream.json", cwd=project)
    (run,) = project.glob("saved/models/stream/*")
    straight = load_checkpoint(run / "checkpoint-epoch2.pth")
    run_forked("train.py", "-r", run / "checkpoint-epoch2-batch2.pth", cwd=project)  # in the third pass over the lines
    resumed = load_checkpoint(run / "checkpoint-epoch2.pth")
    assert (run / "overtaken-checkpoint-epoch2.pth").exists()
    assert all(same(straight[key], resumed[key]) for key in ("state_dict", "optimizer", "log"))
    assert "on 7 test samples" in run_forked("test.py", "-r", run, cwd=project).stdout
    told = run_forked("predict.py", "-r", run, "--split", "test", cwd=project).stdout
    assert "test:6 " in told and told.endswith("7 examples\n")


def test_each_sample_of_a_stream_is_read_once(tmp_path):
    lines = code_with("class LinesDataLoader", {"itertools": itertools, "torch": torch})
    (tmp_path / "a.txt").write_text("\n".join(f"{i} 1" for i in range(80)))
    loader = lines["LinesDataLoader"](str(tmp_path / "a.txt"), 32)
    for _ in range(2):
        assert torch.equal(torch.cat([data[:, 0] for data, _ in loader]), torch.arange(80.0))
    loader.classes = ["a", "b"]
    with pytest.raises(UserError, match="its classes are not those"):
        loader.load_state_dict({"classes": ["b", "a"]})
    with pytest.raises(UserError, match="dataset: list is no IterableDataset"):
        StreamDataLoader([1, 2], 4)


def test_a_validation_of_a_part_of_a_stream_reads_the_same_part_each_time(tmp_path):
    lines = code_with("class LinesDataLoader", {"itertools": itertools, "torch": torch})
    (tmp_path / "a.txt").write_text("\n".join(f"{i} 1" for i in range(80)))
    loader = lines["LinesDataLoader"](str(tmp_path / "a.txt"), 8)
    tracker, model, seen = MetricTracker("loss"), torch.nn.Linear(1, 1), []
    for _ in range(2):
        observe = lambda data, target, output: seen.extend(data[:, 0].tolist())  # noqa: E731
        evaluate(model, torch.nn.MSELoss(), [], loader, torch.device("cpu"), tracker, limit=2, observe=observe)
    assert seen == [*range(16), *range(16)]


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


class Following(EpochSampler):
    """An order of as many samples as the dataset has."""

    def __init__(self, samples):
        super().__init__(range(len(samples)), shuffle=False)
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def order(self, epoch):
        return torch.arange(len(self.samples))


@pytest.mark.parametrize("kind", [Following, torch.utils.data.RandomSampler, torch.utils.data.SequentialSampler])
def test_a_sampler_that_asks_a_growing_dataset_for_its_length_draws_all_samples(kind):
    class Own(BaseDataLoader):
        def _split_sampler(self, split):
            return kind(samples), None

    samples = [(torch.full((2,), float(i)), torch.ones(1)) for i in range(6)]
    loader = Own(samples, 2, True, 0, 0)
    samples.append((torch.full((2,), 6.0), torch.ones(1)))
    assert sorted(torch.cat([data[:, 0] for data, _ in loader]).tolist()) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_a_sampler_of_fixed_indices_would_leave_out_what_a_dataset_has_gained():
    class Own(BaseDataLoader):
        def _split_sampler(self, split):
            return torch.utils.data.SubsetRandomSampler(range(6)), None

    samples = [(torch.ones(2), torch.ones(1))] * 6
    loader = Own(samples, 2, True, 0, 0)
    samples.append(samples[0])
    with pytest.raises(UserError, match="which would not be drawn"):
        list(loader)
