"""Batches that hold their tensors in dicts and tuples train, validate, resume and are shared as plain ones are."""

import os
import signal

import pytest
import torch
from nested_job import Rows, RowsMlp, label_of, rows_trainer, trained
from worlds import in_world, results

from base import BaseDataLoader
from base.training.monitors import SamplePredictions
from base.training.summary import example_input, model_summary
from base.training.tune import find_batch_size, find_lr
from helpers import same, tiny_config, tiny_trainer
from utils import UserError

SWITCHES = {"accumulate": 2, "precision": "bf16", "log_step": 1, "tensorboard": True, "validate_every_steps": 2}


@pytest.mark.parametrize("settings", [{}, SWITCHES])
def test_they_come_to_the_bits_of_plain_ones(tmp_path, settings):
    log, weights = trained(tmp_path / "nested", True, **settings)
    plain_log, plain = trained(tmp_path / "plain", False, **settings)
    assert log["val_label_accuracy"] > 0.5 and log == plain_log
    assert same(weights, plain)


def test_a_run_goes_on_within_an_epoch(tmp_path):
    log, weights = trained(tmp_path / "straight", True, accumulate=2)
    stopped = rows_trainer(tmp_path / "stopped", True, accumulate=2)
    count_batch = stopped._count_batch
    stopped._count_batch = lambda batch_idx: (count_batch(batch_idx), os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        stopped.train()
    path = stopped.checkpoint_dir / "checkpoint-epoch1-batch1.pth"
    resumed_log, resumed = trained(tmp_path / "stopped", True, resume=path, accumulate=2)
    assert resumed_log == log and same(resumed, weights)


@pytest.mark.slow
def test_several_processes_and_workers_share_them(tmp_path):
    log, weights = trained(tmp_path / "one", True)
    (other_log, others), _ = results(in_world(2, in_two, tmp_path / "two"))
    assert other_log == pytest.approx(log, rel=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(others[f"module.{name}"], weight, rtol=1e-5, atol=1e-7)


def in_two(folder):
    return trained(folder, True, num_workers=1)


def test_what_looks_at_batches_besides_takes_them(tmp_path):
    loader = BaseDataLoader(Rows(nested=True), 12, True, 0.3, 0)
    model = RowsMlp()
    example = example_input(loader, torch.device("cpu"))
    assert example["left"].shape == (2, 2) and "2 x 8" in model_summary(model, example)
    trainer = tiny_trainer(tiny_config(tmp_path), model=model, criterion=label_loss, loader_class=lambda *_: loader)
    assert len(find_lr(trainer)) > 5


def label_loss(output, target):
    return torch.nn.functional.cross_entropy(output, label_of(target))


def test_predictions_are_shown_of_tensors_and_others_refused(tmp_path):
    trainer = rows_trainer(tmp_path, True, tensorboard=True)
    with pytest.raises(UserError, match="SamplePredictions: needs a model output and a target that are tensors"):
        SamplePredictions(n=3).on_epoch_end(trainer, {"epoch": 1})


def test_an_error_of_a_step_tells_what_the_batch_was(tmp_path):
    def fail(module, inputs):
        raise RuntimeError("broken")

    trainer = rows_trainer(tmp_path, False)
    trainer.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError) as training:
        trainer.train()
    with pytest.raises(RuntimeError) as validation:
        trainer._valid_epoch(1)
    what = "the batch's data: tensor (12, 4) float32; its target: tensor (12,) int64; the model's parameters: float32"
    assert training.value.__notes__ == [what]
    assert validation.value.__notes__[0] == what and len(validation.value.__notes__) == 2
    assert validation.value.__notes__[1].startswith("validation and test.py compute criterion(model(data), target)")


class FirstSteps(torch.nn.Module):
    def forward(self, data):
        return torch.nn.utils.rnn.pad_packed_sequence(data)[0][0]


def test_predictions_are_shown_of_batches_that_cannot_be_cut(tmp_path):
    trainer = rows_trainer(tmp_path, False, tensorboard=True)
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(2, 3)] * 5)
    trainer.model, trainer.valid_data_loader = FirstSteps(), [(packed, torch.arange(5))]
    shown = []
    trainer.writer.add_text = lambda tag, text: shown.extend(text.splitlines())
    SamplePredictions(n=2).on_epoch_end(trainer, {"epoch": 1})
    assert len(shown) == 4 and shown[3].startswith("| 1 | 1 |")


class Graphs(torch.utils.data.Dataset):
    """Rings of 3 to 6 nodes."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        nodes = torch.arange(3 + index % 4)
        return torch.ones(len(nodes), 2) * index, torch.stack([nodes, nodes.roll(1)]), index % 3


def as_one_graph(samples):
    features, edges, classes = zip(*samples, strict=True)
    sizes = torch.tensor([len(one) for one in features])
    starts = sizes.cumsum(0) - sizes
    edges = torch.cat([one + start for one, start in zip(edges, starts, strict=True)], dim=1)
    graph = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    return {"features": torch.cat(features), "edges": edges, "graph": graph}, torch.tensor(classes)


class GraphModel(torch.nn.Module):
    """Notes whether it was ever given an edge to a node that is not there, which ends all work on a GPU."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 3)
        self.is_whole = True

    def forward(self, data):
        self.is_whole &= int(data["edges"].max()) < len(data["features"])
        source, target = data["edges"]
        hidden = data["features"].index_add(0, target, data["features"][source])
        pooled = torch.zeros(int(data["graph"].max()) + 1, 2).index_add(0, data["graph"], hidden)
        return self.linear(pooled)


def test_graphs_are_never_cut_between_their_nodes_and_edges(tmp_path):
    model = GraphModel()
    loader = BaseDataLoader(Graphs(), 8, True, 0.3, 0, as_one_graph)
    trainer = tiny_trainer(
        tiny_config(tmp_path, tensorboard=True, epochs=1), model=model, loader_class=lambda *_: loader, metrics=[]
    )
    trainer.train()
    assert model.is_whole
    assert "8 x 3" in (trainer.config.log_dir / "model.txt").read_text()  # the table of layers


def test_no_batch_size_is_searched_for_with_rows_that_are_no_samples(tmp_path):
    loader = BaseDataLoader(Graphs(), 8, True, 0.3, 0, as_one_graph)
    trainer = tiny_trainer(tiny_config(tmp_path), model=GraphModel(), loader_class=lambda *_: loader)
    trainer.device = torch.device("cuda")
    with pytest.raises(UserError, match=r"--find-batch-size: .* dict of features: .*, of which not all have a row"):
        find_batch_size(trainer)
