"""What a run says of its data at its start."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from base import BaseDataLoader, InMemoryDataset
from base.training.summary import class_line, data_lines, labels_of
from helpers import tiny_config, tiny_trainer


def loader(labels, batch_size=4, validation_split=0.0, **kwargs):
    dataset = InMemoryDataset(torch.zeros(len(labels), 2), labels)
    return BaseDataLoader(dataset, batch_size, True, validation_split, 0, **kwargs)


def test_classes_are_counted_in_the_training_part():
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    data_loader = loader(labels, validation_split=4)
    part = labels[data_loader.sampler.indices].tolist()
    expected = ", ".join(f"{label} ({part.count(label)})" for label in sorted(set(part)))
    assert class_line(data_loader) == f"{len(set(part))} classes: {expected}"
    data_loader.classes = ["ant", "bee", "cow", "dog"]
    assert class_line(data_loader) == (
        f"4 classes: ant ({part.count(0)}), bee ({part.count(1)}), cow ({part.count(2)}), dog (0)"
    )


def test_a_long_list_is_one_line():
    line = class_line(loader(torch.arange(3000) % 300))
    assert line.startswith("300 classes: 0 (10), 1 (10), ") and line.endswith(", ...") and 70 < len(line) <= 80


@pytest.mark.parametrize(
    "labels",
    [
        torch.linspace(0, 1, 10),
        torch.arange(10),  # a number of its own for each sample
        torch.arange(10) * 10**12,
        torch.zeros(10, 2, dtype=torch.int64),
        torch.tensor([True, False] * 5),
    ],
)
def test_numbers_that_are_no_classes(labels):
    assert class_line(loader(labels)) is None


def test_labels_of_negative_numbers_and_of_small_types():
    assert class_line(loader(torch.tensor([-1, 1, 1, -1, 1]))) == "2 classes: -1 (2), 1 (3)"
    assert class_line(loader(np.array([3, 3, 255], np.uint8))) == "2 classes: 3 (2), 255 (1)"


class Listed(torch.utils.data.Dataset):
    targets = property(lambda self: 1 / 0)  # an attribute that would be computed is not asked for

    def __init__(self, labels, **attributes):
        vars(self).update(labels=labels, **attributes)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise AssertionError("no sample is read")


def test_labels_that_a_dataset_keeps_are_taken_without_reading_a_sample():
    assert labels_of(DataLoader(Listed([2, 0, 2, 1]))).tolist() == [2, 0, 2, 1]
    assert labels_of(DataLoader(Listed([2, 0, 2]))) is None
    assert labels_of(DataLoader(Listed(["a", "b", "c", "d"]))) is None
    assert labels_of(DataLoader(Listed([0, 1, 0, 1], target_transform=lambda label: 1 - label))) is None
    assert labels_of(DataLoader(TensorDataset(torch.zeros(4, 2), torch.tensor([0, 1, 1, 1])))).tolist() == [0, 1, 1, 1]
    assert labels_of(DataLoader(TensorDataset(torch.zeros(4, 2)))) is None
    assert labels_of([]) is None


def trainer_of(folder, labels, batch_size=4, validation_split=0.25, **settings):
    return tiny_trainer(
        tiny_config(folder, verbosity=2, epochs=1, **settings),
        model=torch.nn.Linear(2, 3),
        loader_class=lambda *arguments: loader(labels, batch_size, validation_split),
    )


def test_a_run_says_what_its_data_are_before_its_first_epoch(tmp_path, capsys):
    trainer = trainer_of(tmp_path, torch.arange(12) % 3)
    trainer.data_loader.describe_data = lambda: ["columns: 2 numeric"]
    trainer.train()
    before = capsys.readouterr().out.partition("epoch 1/1")[0].splitlines()
    assert "9 samples to train on, 3 to validate on; an epoch is 3 batches of 4" in before
    assert before[-2].startswith("3 classes: 0 (") and before[-1] == "columns: 2 numeric" and len(before) <= 8
    log = (trainer.config.log_dir / "info.log").read_text()
    assert "Linear: 9 parameters" in log and "columns: 2 numeric" in log


def test_the_table_of_layers_is_in_the_log_file_alone(tmp_path, capsys):
    trainer = tiny_trainer(tiny_config(tmp_path, verbosity=1, epochs=1))
    trainer.train()
    told, log = capsys.readouterr().out, (trainer.config.log_dir / "info.log").read_text()
    assert "BatchNorm1d" in log and "BatchNorm1d" not in told
    assert "Sequential: 83 parameters; its layers are in info.log" in told


@pytest.mark.parametrize(
    ("batch_size", "settings", "warning"),
    [
        (100, {}, "got 100, for 12 samples to train on, so an epoch is a single optimizer step"),
        (12, {}, "one batch holds all data, 12 samples, so an epoch is a single optimizer step"),
        (6, {}, None),
        (6, {"limit_train_batches": 1}, None),
        (100, {"len_epoch": 3}, None),
        (100, {"overfit_batches": 1}, None),
    ],
)
def test_an_epoch_of_one_batch_is_warned_of(tmp_path, capsys, batch_size, settings, warning):
    trainer_of(tmp_path, torch.arange(12) % 3, batch_size, 0, **settings).train()
    warned = [line for line in capsys.readouterr().out.splitlines() if "single optimizer step" in line]
    assert warned == ([f"data_loader.args.batch_size: {warning}"] if warning else [])


def test_a_single_sample_is_one_and_makes_no_more_batches(tmp_path, capsys):
    trainer_of(tmp_path, torch.zeros(1, dtype=torch.int64), 1, 0).train()  # as one graph
    told = capsys.readouterr().out
    assert "1 sample to train on, none to validate on; an epoch is 1 batch of 1" in told
    assert "single optimizer step" not in told


def test_data_without_a_length_are_described_as_far_as_they_are_known(tmp_path):
    trainer = trainer_of(tmp_path, torch.arange(12) % 3, validation_split=0)
    assert data_lines(trainer)[0] == "12 samples to train on, none to validate on; an epoch is 3 batches of 4"
    trainer.data_loader = [(torch.zeros(4, 2), torch.zeros(4).long())] * 3
    assert data_lines(trainer) == []
