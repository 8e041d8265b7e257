"""Tests on a second device, in a process of their own: tests/test_other_devices.py starts pytest with this file."""

import collections
import contextlib
import json
import logging

import numpy as np
import pytest
import simulated_device  # before anything asks torch for its accelerator
import torch

import test
from base import BaseCallback
from base.data.arrays import ArrayDataLoader
from base.trained_model import TrainedModel
from base.training import callbacks, monitors, weight_averaging
from base.training.monitors import _counted, _fetched
from base.training.tune import find_lr
from helpers import PROJECT
from logger import TensorboardWriter
from logger.base_tracker import BaseTracker, TrackerList
from parse_config import ConfigParser
from train import build
from utils.runs.checkpoint import load_checkpoint

REPORT = "utils/metric_tracker.py"  # the file that reads numbers for a report


def config_of(folder, config="config.json", **changes):
    """The ConfigParser of a short run of a job of this project. changes: "__" stands for a dot."""
    keys = {"trainer.save_dir": str(folder), "trainer.epochs": 1, "trainer.log_step": 4}
    keys |= {"trainer.limit_train_batches": 12, "trainer.limit_valid_batches": 2}
    keys |= {key.replace("__", "."): value for key, value in changes.items()}
    return ConfigParser.from_file(PROJECT / config, keys)


def trained(folder, *arguments, **changes):
    """The trainer after its run."""
    trainer = build(config_of(folder, *arguments, **changes))
    trainer.train()
    return trainer


@contextlib.contextmanager
def counted_reads():
    """Yields a dict that holds {file of the project: number of reads} at the end."""
    simulated_device.transfers.clear()
    found = collections.Counter()
    yield found
    for place, number in simulated_device.transfers.items():
        found[place.partition(":")[0]] += number


class Reads(BaseCallback):
    """Lists the lines that read from the device in the last epoch, from its first batch to its last."""

    def __init__(self, trainer):
        trainer.add_callback(self)
        self.found, self.numbers = [], {}

    def on_step_end(self, trainer):
        if trainer.epoch == trainer.epochs:
            if trainer.batches_done == 1:
                simulated_device.transfers.clear()
            self.numbers = dict(simulated_device.transfers)
            self.found = sorted(self.numbers)


SETTINGS = [
    {},
    {"metrics": [], "trainer__monitor": "min val_loss"},
    {"metrics": ["accuracy", {"type": "MacroF1", "args": {"num_classes": 10}}]},  # its result is read at an epoch's end
    {"trainer__clip_norm": 1.0},
    {"trainer__precision": "bf16"},
    {"trainer__accumulate": 2},
]


@pytest.mark.parametrize("changes", SETTINGS)
def test_a_report_reads_the_device_once_and_nothing_else_does(tmp_path, changes):
    trainer = build(config_of(tmp_path, trainer__epochs=2, **changes))
    assert trainer.device.type == "sim"
    reads = Reads(trainer)
    trainer.train()
    assert all(place.startswith(REPORT) for place in reads.found), reads.found
    total = simulated_device.transfers
    of_reports = sum(number for place, number in total.items() if place.startswith(REPORT))
    assert of_reports == 4, dict(total)  # after 4, 8 and 12 batches, and the validation
    others = {place: number for place, number in total.items() if not place.startswith(REPORT)}
    wanted = {"base/training/monitors.py": 1, "base/training/nonfinite.py": 1}  # histograms; a look before the save
    wanted |= {"model/metric.py": 2} if len(changes.get("metrics", ())) > 1 else {}  # training and validation
    found = collections.Counter()
    for place, number in others.items():
        found[place.partition(":")[0]] += number
    assert found == wanted, others


def test_samples_on_the_device_are_drawn_there(tmp_path):
    data = np.random.RandomState(0).randn(96, 5).astype("float32")
    np.save(tmp_path / "rows.npy", data)
    np.save(tmp_path / "labels.npy", np.arange(96) % 3)
    paths = str(tmp_path / "rows.npy"), str(tmp_path / "labels.npy")
    loader = ArrayDataLoader(*paths, batch_size=32, validation_split=0.25, device_resident=True)
    loader.to(torch.device("sim:0"))
    valid = loader.split_validation()
    with counted_reads() as found:
        batches = [*loader, *valid]
    assert {tensor.device.type for batch in batches for tensor in batch} == {"sim"} and not found
    rows = torch.cat([batch[0].cpu() for batch in batches])
    assert rows.sum(1).sort().values.allclose(torch.from_numpy(data).sum(1).sort().values)


@pytest.mark.parametrize(("first", "second"), [("cpu", "auto"), ("auto", "cpu"), ("auto", "auto")])
def test_a_run_resumes_on_any_device_with_the_same_bits(tmp_path, first, second):
    changes = {"trainer__epochs": 2, "trainer__fused": False, "trainer__channels_last": False}
    changes |= (
        {} if first == second else {"arch__args__dropout": 0.0, "arch__args__conv_dropout": 0.0}
    )  # each device has random numbers of its own
    straight = trained(tmp_path / "a", device=first, **changes)
    begun = trained(tmp_path / "b", device=first, **changes)
    middle = begun.checkpoint_dir / "checkpoint-epoch1.pth"
    torch.get_device_module("sim").manual_seed_all(7)
    config = ConfigParser(load_checkpoint(middle)["config"] | {"device": second}, resume=middle)
    resumed = build(config)
    resumed.train()
    kinds = {"cpu": "cpu", "auto": "sim"}
    assert (straight.device.type, resumed.device.type) == (kinds[first], kinds[second])
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value.cpu(), resumed.model.state_dict()[name].cpu()), name


def test_test_and_predict_give_the_numbers_of_the_cpu(tmp_path):
    trainer = trained(tmp_path, device="cpu")
    path = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
    found = {}
    for device in ("cpu", "auto"):
        config = load_checkpoint(path)["config"] | {"device": device}
        test.main(ConfigParser(config, resume=path), "valid", None)
        found[device] = json.loads((path.parent / "test_results.json").read_text())[path.name]["valid"]
    assert found["cpu"] == found["auto"]
    images = np.random.RandomState(0).randint(0, 255, (5, 1, 28, 28)).astype("uint8")
    model = TrainedModel.load(path)
    assert model.device.type == "sim"
    assert model.predict(list(images)) == TrainedModel.load(path, "cpu").predict(list(images))


def test_the_learning_rate_is_searched(tmp_path):
    assert len(find_lr(build(config_of(tmp_path)), high=0.1, steps=30)) == 30


def test_skip_reads_once_a_step_and_rollback_never(tmp_path):
    """Since a step that is skipped must leave no trace in an optimizer, nor in what is called after its steps."""
    for action, wanted in (("skip", 11), ("rollback", 0)):  # of the steps after the first
        trainer = build(config_of(tmp_path / action, trainer__on_nonfinite=action))
        reads = Reads(trainer)
        trainer.train()
        places = [place for place in reads.found if not place.startswith(REPORT)]
        assert sum(reads.numbers[place] for place in places) == wanted, reads.numbers


MNIST = {"data_dir": "data/", "batch_size": 500, "training": False}
CALLBACKS = {
    "EMA": {},
    "SWA": {"start": "50%"},
    "EarlyStopping": {"monitor": "min val_loss", "patience": 2},
    "SaveTopK": {"k": 1, "monitor": "min val_loss"},
    "TimeLimit": {"max_time": "01:00:00"},
    "Freeze": {"params": ["conv1.*"], "until": 1},
    "LearningRateMonitor": {},
    "ThroughputMonitor": {},
    "GradientNorm": {},
    "ParameterHistograms": {"every_epochs": 1},
    "SamplePredictions": {},
    "ValidateOn": {"name": "more", "data_loader": {"type": "MnistDataLoader", "args": MNIST}},
}


def test_each_callback_is_run_here():
    rooms = callbacks, monitors, weight_averaging
    there = {name for room in rooms for name, kind in vars(room).items() if _is_callback_of(kind, room)}
    assert there == set(CALLBACKS)


def _is_callback_of(kind, room):
    return isinstance(kind, type) and issubclass(kind, BaseCallback) and kind.__module__ == room.__name__


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_works_and_reads_nothing_between_reports(tmp_path, name):
    callback = {"type": name, "args": CALLBACKS[name]}
    trainer = build(config_of(tmp_path, callbacks=[callback]))
    reads = Reads(trainer)
    trainer.train()
    assert trainer.step == 12 and all(place.startswith(REPORT) for place in reads.found), reads.found


def test_parameters_on_two_devices_have_histograms():
    values = [torch.tensor([3.0, 4.0]), torch.tensor([2.0, 2.0, 1.0]).to("sim"), torch.tensor([5.0])]
    found = _fetched([_counted(one) for one in values])
    assert [(floats, sum(counts)) for floats, counts in found] == [
        ([3.0, 4.0, 7.0, 25.0], 2),
        ([1.0, 2.0, 5.0, 9.0], 3),
        ([5.0, 5.0, 5.0, 25.0], 1),
    ]


def test_throughput_is_that_of_steps_which_the_device_has_done(tmp_path, monkeypatch):
    waited = []
    trainer = build(config_of(tmp_path, callbacks=["ThroughputMonitor"], trainer__async_save=False))
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: waited.append(trainer.step))
    trainer.train()
    assert waited == [1, 4, 8, 12]


def test_predictions_of_samples_on_the_device_are_shown(tmp_path):
    np.save(tmp_path / "images.npy", np.random.RandomState(0).rand(24, 1, 8, 8).astype("float32"))
    path = str(tmp_path / "images.npy")
    changes = {
        "data_loader": {
            "type": "ArrayDataLoader",
            "args": {"data": path, "target": path, "batch_size": 6, "validation_split": 6, "device_resident": True},
        },
        "arch": {"type": "torch.nn.Conv2d", "args": {"in_channels": 1, "out_channels": 1, "kernel_size": 1}},
        "callbacks": ["SamplePredictions"],
        "loss": "torch.nn.MSELoss",
        "metrics": [],
        "trainer__monitor": "min val_loss",
    }
    assert trained(tmp_path, **changes).step == 3


def test_what_does_not_wait_is_done_at_the_next_wait():
    values = torch.arange(3.0).to("sim")
    copied = values.to("cpu", non_blocking=True)
    assert copied.tolist() == [77.0, 77.0, 77.0]
    torch.accelerator.synchronize()
    assert copied.tolist() == [0.0, 1.0, 2.0]
    pinned = torch.arange(3.0).pin_memory()
    pinned.to("sim", non_blocking=True)
    with pytest.raises(AssertionError, match="pinned memory is changed before it is copied"):
        (pinned.zero_(), values.tolist())
    simulated_device._in_use.clear()


def test_operators_whose_result_has_a_size_by_values_wait():
    values, mask = torch.arange(4.0).to("sim"), torch.tensor([True, False, True, True]).to("sim")
    for operator in (lambda: values[mask], mask.nonzero, values.unique):
        with counted_reads() as found:
            operator()
        assert dict(found) == {"tests/simulated_device_cases.py": 1}
    with counted_reads() as found:
        values[mask] = 0.0
        values[torch.tensor(2)], values.index_select(0, mask.long()), values.where(mask, 0)
    assert not found


class Kept(BaseTracker):
    """Keeps the images that it gets."""

    def __init__(self):
        self.images = []

    def add_image(self, tag, image, step):
        self.images.append(image)


def test_a_tracker_gets_images_of_the_device_in_one_read_each(tmp_path):
    tracker = Kept()
    images = torch.rand(2, 1, 4, 4).to("sim")
    with TensorboardWriter(tmp_path, logging.getLogger(), False, TrackerList([tracker])) as writer:
        monitors.show_images(writer, "early", images, step=1)
        writer.start()
        with counted_reads() as found:
            monitors.show_images(writer, "late", images, step=2)
    assert [image.shape for image in tracker.images] == [(4, 8, 3)] * 2
    assert dict(found) == {"logger/base_tracker.py": 1}
