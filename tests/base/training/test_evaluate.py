import copy
import functools
import logging
import random

import numpy as np
import pytest
import torch

from base.training.evaluate import evaluate, split_loader
from helpers import accuracy, metrics_rows, same, tiny_config, tiny_trainer
from logger.results import record_result
from parse_config import ConfigParser
from trainer import Trainer
from utils import MetricTracker, UserError
from utils.files import read_json
from utils.seed import rng_state


@pytest.mark.old_defect(5)
@pytest.mark.parametrize("batch_size", [1, 7, 16, 50])
def test_result_is_the_same_for_any_batch_size(batch_size):
    torch.manual_seed(0)
    data, target = torch.randn(50, 4), torch.randint(3, (50,))
    model = torch.nn.Linear(4, 3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data, target), batch_size)
    criterion = torch.nn.functional.cross_entropy
    values = evaluate(model, criterion, [accuracy], loader, torch.device("cpu"), MetricTracker("loss", "accuracy"))
    assert values["accuracy"] == pytest.approx(accuracy(model(data), target).item(), abs=1e-15)
    assert values["loss"] == pytest.approx(criterion(model(data), target).item(), rel=1e-6)


class OfValidation:
    """The number of samples of an epoch; it refuses the 40 of training."""

    __name__ = "number"
    in_training = False

    def reset(self):
        self.number = 0

    def update(self, output, target):
        self.number += len(target)
        assert self.number <= 10

    def compute(self):
        return self.number

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]


def share_of_validation(output, target):
    assert not output.requires_grad  # as it does in training
    return accuracy(output, target)


share_of_validation.in_training = False


def test_a_metric_that_is_not_measured_in_training_is_measured_in_validation_alone(tmp_path):
    config = tiny_config(tmp_path, epochs=2, save_every_steps=2, monitor="max val_share_of_validation")
    trainer = tiny_trainer(config, metrics=[accuracy, share_of_validation, OfValidation()])
    trainer.train()
    rows = metrics_rows(trainer)
    assert [float(row["val_number"]) for row in rows] == [10.0, 10.0]
    assert all(row["val_share_of_validation"] == row["val_accuracy"] for row in rows)
    assert not {"number", "share_of_validation"} & set(rows[0])


def test_a_monitor_of_training_values_that_are_not_measured_is_refused(tmp_path):
    config = tiny_config(tmp_path, monitor="max share_of_validation")
    with pytest.raises(UserError, match=r"^trainer.monitor: 'share_of_validation' is not measured in training; .*val_"):
        tiny_trainer(config, metrics=[share_of_validation])


def test_nothing_is_recorded_for_gradients_and_the_model_is_in_evaluation_mode():
    seen = []

    class Watching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

        def forward(self, inputs):
            seen.append((torch.is_grad_enabled(), self.training))
            return inputs * self.weight

    batches = [(torch.rand(2, 3), torch.tensor([0, 1]))]
    criterion = torch.nn.functional.cross_entropy
    evaluate(Watching(), criterion, [], batches, torch.device("cpu"), MetricTracker("loss"))
    assert seen == [(False, False)]


def config_of_arrays(folder, **args):
    """A config of 8 samples to train on, 2 to validate on, and those 10 to test on."""
    np.save(folder / "x.npy", np.zeros((10, 4), np.float32))
    np.save(folder / "y.npy", np.arange(10) % 3)
    files = {"data": "x.npy", "target": "y.npy", "test_data": "x.npy", "test_target": "y.npy"}
    places = {argument: f"{folder}/{name}" for argument, name in files.items()}
    args = {**places, "batch_size": 4, "validation_split": 0.2, **args}
    return ConfigParser({**tiny_config(folder), "data_loader": {"type": "ArrayDataLoader", "args": args}})


def test_the_loader_of_a_split_leaves_the_config_as_it_is(tmp_path):
    config = config_of_arrays(tmp_path)
    before = copy.deepcopy(config.config)
    counts = {}
    for split in ("test", "valid", "train"):
        part, classes = split_loader(config.config, split, 3, torch.device("cpu"))
        counts[split] = len(part.sampler)
        assert part.batch_size == 3 and classes is None
    assert counts == {"test": 10, "valid": 2, "train": 8} and config.config == before


def test_a_split_that_the_config_does_not_have_is_refused(tmp_path):
    config = config_of_arrays(tmp_path, validation_split=0.0)
    with pytest.raises(UserError, match=r"^--split valid: the config sets no samples aside"):
        split_loader(config.config, "valid", None, torch.device("cpu"))


def test_a_result_of_one_batch_and_one_sample_is_told_in_the_singular(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for number in (1, 2):
        result = {"epoch": 0, "batch": number, "samples": number, "loss": 0.5}
        record_result(tmp_path / "model_best.pth", "valid", result, None, logging.getLogger("test"))
    assert "epoch 0 and 1 batch, on 1 valid sample\n" in caplog.text
    assert "epoch 0 and 2 batches, on 2 valid samples\n" in caplog.text


def test_a_damaged_file_of_results_is_moved_away(tmp_path, caplog):
    (tmp_path / "test_results.json").write_text('{"model_best.pth": 3')
    result = {"epoch": 2, "samples": 5, "loss": 0.5}
    record_result(tmp_path / "model_best.pth", "valid", result, None, logging.getLogger("test"))
    assert "test_results.json is damaged and was moved to " in caplog.text
    results = read_json(tmp_path / "test_results.json")
    assert results == {"model_best.pth": {"valid": {"epoch": 2, "samples": 5, "loss": 0.5}}}


class Noisy(torch.nn.Module):
    """Draws random numbers in evaluation, too, as models of diffusion and variational autoencoders do."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, features):
        return self.layer(features + torch.randn_like(features)) + np.random.rand() + random.random()


def test_a_model_that_draws_random_numbers_is_measured_with_the_same_ones_each_time(tmp_path):
    config = tiny_config(tmp_path, epochs=3)
    config["optimizer"]["args"] = {"lr": 0.0}
    trainer = tiny_trainer(config, model=Noisy(), metrics=())
    trainer.train()
    losses = [float(row["val_loss"]) for row in metrics_rows(trainer)]
    assert len(losses) == 3 and len(set(losses)) == 1
    tracker = MetricTracker("loss")
    parts = trainer.model, trainer.criterion, [], trainer.valid_data_loader, torch.device("cpu"), tracker
    before = rng_state()
    assert evaluate(*parts)["loss"] == losses[0]
    assert same(rng_state(), before)


class NeedsTime(torch.nn.Linear):
    def forward(self, data, time):
        return super().forward(data + time)


class WithTime(Trainer):
    def compute_loss(self, data, target):
        output = self.model(data, torch.rand(1))
        return self.criterion(output, target), output


def test_a_model_that_only_compute_loss_can_call_is_told_how_validation_calls_it(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path), model=NeedsTime(4, 3), trainer_class=WithTime)
    with pytest.raises(TypeError) as told:
        trainer.train()
    assert any("validation and test.py compute criterion(model(data), target)" in note for note in told.value.__notes__)


@pytest.mark.parametrize("every", [1, 3])
def test_validation_within_an_epoch_leaves_the_random_numbers_of_training_alone(tmp_path, every):
    torch.manual_seed(0)
    straight = tiny_trainer(tiny_config(tmp_path / "a"), model=Noisy())
    straight.train()
    torch.manual_seed(0)
    validated = tiny_trainer(tiny_config(tmp_path / "b", validate_every_steps=every), model=Noisy())
    validated.train()
    assert same(straight.model.state_dict(), validated.model.state_dict())


class Detector(torch.nn.Linear):
    """Returns losses in training and predictions in evaluation, as torchvision's detection models do."""

    def forward(self, data, target=None):
        rows = super().forward(data)
        return {"box": (rows - 1).square().mean(), "label": rows.abs().mean()} if self.training else list(rows)


class Detection(Trainer):
    def compute_loss(self, data, target):
        losses = self.model(data, target)
        return {"loss": sum(losses.values()), **losses}, None


class Found(torch.nn.Module):
    """The number of predictions over an epoch; training has none, so that it would raise there."""

    def __init__(self):
        super().__init__()
        self.register_buffer("number", torch.zeros(()))

    def update(self, output, target):
        self.number += len(output) + len(target) * 0

    def compute(self):
        return self.number

    def reset(self):
        self.number.zero_()


def first_value(output, target):
    return output[0].mean()


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
def test_a_model_without_predictions_in_training_and_without_a_validation_loss(tmp_path, on_nonfinite):
    def job(folder, trainer_class=Detection):
        metrics = [Found(), functools.partial(first_value)]
        for metric, name in zip(metrics, ["found", "first"], strict=True):
            metric.__name__, metric.in_training = name, False
        config = tiny_config(folder, monitor="max val_found", on_nonfinite=on_nonfinite, sanity_check_batches=1)

        def of(model, criterion, *parts, **others):
            return trainer_class(model, None, *parts, **others)

        return tiny_trainer(config, metrics=metrics, model=Detector(4, 2), trainer_class=of)

    trainer = job(tmp_path)
    trainer.train()
    row = metrics_rows(trainer)[-1]
    assert set(row) == {"epoch", "loss", "box", "label", "lr", "val_found", "val_first"}
    assert float(row["val_found"]) == trainer.mnt_best == len(trainer.valid_data_loader.sampler) > 0
    with pytest.raises(UserError, match="loss: null is for a trainer with a compute_loss of its own"):
        job(tmp_path / "plain", Trainer)


class WithOwnTracker(Trainer):
    """Replaces the tracker of training by one that lacks the metrics of the config."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.train_metrics = MetricTracker("loss")


def test_a_metric_that_a_tracker_of_ones_own_lacks_is_named(tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path), trainer_class=WithOwnTracker)
    with pytest.raises(UserError, match=r"^metric 'accuracy' is not tracked; tracked are loss; .* its method track"):
        trainer.train()


def test_the_place_of_a_metric_behind_one_that_is_not_of_training_is_its_own(tmp_path):
    class NoNumber(OfValidation):
        in_training = True

        def compute(self):
            return "none"

    with pytest.raises(UserError, match=r"^metrics\.1: NoNumber gave a str"):
        tiny_trainer(tiny_config(tmp_path), metrics=[share_of_validation, NoNumber()])
