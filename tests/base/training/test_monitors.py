"""Callbacks that show how training goes: their values arrive in TensorBoard, and training is as without them."""

import itertools
import types

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

import base.training.monitors
import trainer.callbacks
from base import BaseCallback, BaseDataLoader
from helpers import same, tiny_config, tiny_trainer
from trainer import Trainer
from utils import UserError

ALL = ["LearningRateMonitor", "ThroughputMonitor", "GradientNorm", {"type": "SamplePredictions", "args": {"n": 4}}]


def trained(folder, callbacks, trainer_class=Trainer, **changes):
    config = {**tiny_config(folder, **{"tensorboard": True, **changes}), "callbacks": callbacks}
    trainer = tiny_trainer(config, trainer_class=trainer_class)
    trainer.train()
    events = EventAccumulator(str(trainer.config.log_dir)).Reload()
    return trainer, events


def test_monitors_change_nothing(tmp_path):
    plain, _ = trained(tmp_path / "a", [])
    watched, _ = trained(tmp_path / "b", ALL)
    assert same(plain.model.state_dict(), watched.model.state_dict())
    assert (plain.config.log_dir / "metrics.csv").read_text() == (watched.config.log_dir / "metrics.csv").read_text()


def test_learning_rates_of_all_groups_are_shown(tmp_path):
    _, events = trained(tmp_path, ["LearningRateMonitor"], log_step=1)
    assert [event.value for event in events.Scalars("lr_0/train")] == pytest.approx([0.1] * 5 + [0.09] * 5)
    assert [event.step for event in events.Scalars("lr_0/train")] == list(range(1, 11))


def test_throughput_and_memory_are_shown(tmp_path, monkeypatch):
    clock = itertools.count(0.0, 0.5)  # seconds, at each time that it is asked
    monkeypatch.setattr(base.training.monitors, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    _, events = trained(tmp_path, ["ThroughputMonitor"], log_step=2)
    rates = [(event.step, event.value) for event in events.Scalars("samples_per_s/train")]
    assert rates == [(2, 16), (4, 32), (5, 16), (7, 16), (9, 32), (10, 16)]  # one or two batches of 8 in half a second
    assert "steps_per_s/train" not in events.Tags()["scalars"]  # TensorBoard has steps_per_sec
    assert all(10 < event.value < 1e5 for event in events.Scalars("memory_mb/train"))


@pytest.mark.parametrize("clip", [None, 1e9])
def test_gradient_norm_is_the_norm_over_all_parameters(tmp_path, clip):
    norms = []
    config = {
        **tiny_config(tmp_path, tensorboard=True, log_step=1, epochs=1, clip_norm=clip),
        "callbacks": ["GradientNorm"],
    }
    trainer = tiny_trainer(config)
    trainer.optimizer.register_step_pre_hook(
        lambda *step: norms.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).norm().item())
    )
    trainer.train()
    events = EventAccumulator(str(trainer.config.log_dir)).Reload()
    assert [event.value for event in events.Scalars("grad_norm/train")] == pytest.approx(norms, rel=1e-5)


@pytest.mark.parametrize("exact", [torch.float64, torch.float32])  # of a device
def test_histograms_are_those_that_torch_makes(exact, tmp_path, monkeypatch):
    monkeypatch.setattr(base.training.monitors, "_MOST_AT_ONCE", 7)
    monkeypatch.setattr(base.training.monitors, "exact_float", lambda device: exact)
    trainer, events = trained(tmp_path, [], epochs=1, histograms_every_epochs=1)
    with SummaryWriter(str(tmp_path / "torch")) as writer:
        for name, parameter in trainer.model.named_parameters():
            writer.add_histogram(f"parameters/{name}/train", parameter)
    by_torch = EventAccumulator(str(tmp_path / "torch")).Reload()
    assert by_torch.Tags()["histograms"] == events.Tags()["histograms"]
    for tag in by_torch.Tags()["histograms"]:
        (wanted,), (found,) = by_torch.Histograms(tag), events.Histograms(tag)
        wanted, found = wanted.histogram_value, found.histogram_value
        assert (found.bucket_limit, found.bucket) == (wanted.bucket_limit, wanted.bucket)
        assert (found.num, found.min, found.max) == (wanted.num, wanted.min, wanted.max)
        assert (found.sum, found.sum_squares) == pytest.approx((wanted.sum, wanted.sum_squares), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_values_at_the_limits_of_the_bins_are_counted_as_by_torch(dtype):
    limits = torch.tensor(base.training.monitors._limits(), dtype=torch.float64)
    near = limits[(limits.abs() < 1e4) & (limits.abs() > 1e-3)].to(dtype)
    values = torch.cat([near, near.nextafter(near + 1), near.nextafter(near - 1)])
    _, counts = base.training.monitors._counted(values)
    assert counts[1:-1].tolist() == np.histogram(values.double().numpy(), limits.numpy())[0].tolist()


def test_parameters_that_torch_cannot_compute_with_have_no_histogram_and_a_warning(tmp_path, capsys):
    class WithOthers(BaseCallback):
        def on_epoch_end(self, trainer, log):
            eighth = torch.ones(3).to(torch.float8_e4m3fn)
            for name, values in (("eighth", eighth), ("sparse", torch.eye(3).to_sparse())):
                trainer.model.register_parameter(name, torch.nn.Parameter(values, requires_grad=False))
            base.training.monitors.ParameterHistograms().on_epoch_end(trainer, log)
            del trainer.model.eighth, trainer.model.sparse

    watched = tiny_trainer(tiny_config(tmp_path, tensorboard=True, epochs=1, verbosity=1))
    watched.add_callback(WithOthers())
    watched.train()
    told = capsys.readouterr().out
    assert "epoch 1: eighth has no histogram, being torch.float8_e4m3fn, torch.strided" in told
    assert "epoch 1: sparse has no histogram, being torch.float32, torch.sparse_coo" in told
    events = EventAccumulator(str(watched.config.log_dir)).Reload()
    assert len(events.Tags()["histograms"]) == len(list(watched.model.parameters()))


def test_predictions_are_shown_as_a_table(tmp_path):
    trainer, events = trained(tmp_path, [{"type": "SamplePredictions", "args": {"n": 3, "classes": ["a", "b", "c"]}}])
    (tag,) = [tag for tag in events.Tags()["tensors"] if tag.startswith("predictions/valid")]
    texts = [event.tensor_proto.string_val[0].decode() for event in events.Tensors(tag)]
    assert len(texts) == 2 and len(texts[-1].splitlines()) == 2 + 3
    data, target = next(iter(trainer.valid_data_loader))
    trainer.model.eval()
    best = trainer.model(data[:3]).argmax(1)
    for i, line in enumerate(texts[-1].splitlines()[2:]):
        assert line.startswith(f"| {i} | {'abc'[target[i]]} | {'abc'[best[i]]} | ")


class Drawn(torch.utils.data.Dataset):
    """10 images of one colour, whose class it is."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.full((1, 6, 6), index % 2).float(), index % 2


def test_predictions_for_images_are_a_picture_with_captions_in_class_names(tmp_path, monkeypatch):
    drawn = []
    draw = base.training.monitors.batches_figure
    monkeypatch.setattr(base.training.monitors, "batches_figure", lambda parts: drawn.append(parts) or draw(parts))

    def loader(*arguments):
        loads = BaseDataLoader(Drawn(), 5, True, 0.5, 0)
        loads.classes = ["black", "white"]
        return loads

    config = {**tiny_config(tmp_path, tensorboard=True, epochs=1), "callbacks": ["SamplePredictions"]}
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 2))
    trainer = tiny_trainer(config, model=model, loader_class=loader)
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([0.0, 1.0]))
        trainer.optimizer.param_groups[0]["lr"] = 0.0
    trainer.train()
    events = EventAccumulator(str(trainer.config.log_dir)).Reload()
    (image,) = events.Images("predictions/valid")
    assert (image.width, image.height) == (800, 170)  # one row
    ((title, (images, captions)),) = drawn[0].items()
    targets = [int(one.max()) for one in images]
    assert set(targets) == {0, 1} and title == "predictions"
    assert captions == ["white 0.731" if target else "white 0.731\nnot black" for target in targets]


def test_sample_predictions_need_validation_data_and_sensible_numbers(tmp_path):
    config = {**tiny_config(tmp_path), "callbacks": ["SamplePredictions"]}
    with pytest.raises(UserError, match=r"callbacks.0: SamplePredictions needs validation data"):
        tiny_trainer(config, validation_split=0.0).train()
    config["callbacks"] = [{"type": "SamplePredictions", "args": {"n": 0}}]
    with pytest.raises(UserError, match=r"callbacks.0.args.n: got 0; it should be an integer of at least 1"):
        tiny_trainer(config)
    assert not list(tmp_path.iterdir())


class AddsValues(BaseCallback):
    def on_epoch_end(self, trainer, log):
        log |= {"small": log["epoch"] == 2, "val_gap": torch.tensor(0.5), "note": "fine"}


class KnowsOnlyTrainEpoch(Trainer):
    def _train_epoch(self, epoch):
        return {"loss": 1.0}


@pytest.mark.parametrize("loop", [Trainer, KnowsOnlyTrainEpoch])
def test_the_log_and_what_callbacks_add_to_it_are_shown_at_the_epochs_ends(tmp_path, monkeypatch, loop):
    monkeypatch.setattr(AddsValues, "__module__", "trainer.callbacks")
    monkeypatch.setattr(trainer.callbacks, "AddsValues", AddsValues, raising=False)
    done, events = trained(tmp_path, ["AddsValues"], trainer_class=loop)
    valid = EventAccumulator(str(done.config.log_dir / "val")).Reload()
    small, losses = ([(e.step, e.value) for e in events.Scalars(tag)] for tag in ("small", "loss"))
    assert small == [(5, 0), (10, 1)] and [(e.step, e.value) for e in valid.Scalars("gap")] == [(5, 0.5), (10, 0.5)]
    rows = done.table.rows()
    assert losses == [(5, pytest.approx(float(rows[0]["loss"]))), (10, pytest.approx(float(rows[1]["loss"])))]
    assert not any(name in tag for tag in events.Tags()["scalars"] for name in ("note", "epoch"))
    assert [row["val_gap"] for row in rows] == ["0.5", "0.5"]
