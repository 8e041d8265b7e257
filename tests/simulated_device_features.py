"""Settings, losses, samplers and saves on a second device: tests/test_other_devices.py starts pytest with this file."""

import collections
import functools
import json

import numpy as np
import pytest
import simulated_device  # before anything asks torch for its accelerator
import torch
import torch.nn.functional as F
from simulated_device_cases import REPORT, Reads
from torch import nn

from base import BaseDataLoader, InMemoryDataset
from base.data.outputs import Output
from base.data.streams import StreamDataLoader
from base.trained_model import TrainedModel
from base.training.loss_inputs import LossWatch
from base.training.loss_kinds import LOSSES
from base.training.nonfinite import NonFiniteWatch
from base.training.optimizers import build_optimizer
from base.training.summary import model_summary
from helpers import tiny_config
from model.metric import ConfusionMatrix, accuracy
from parse_config import ConfigParser
from train import build
from trainer import Trainer
from utils import UserError, prepare_device
from utils.distributed.parallel import parallelize
from utils.runs.checkpoint import load_checkpoint
from utils.runs.weights import on_device
from utils.seed import rng_state, seed_everything, set_rng_state

SIM = torch.device("sim", 0)
WEIGHT = [1.0, 2.0, 0.5]


def array_job(folder, rows=None, **changes):
    """The config of a run of two epochs of 10 batches on arrays, 16 samples set aside. changes: "__" is a dot."""
    random = np.random.RandomState(0)
    np.save(folder / "rows.npy", random.randn(96, 5).astype("float32") if rows is None else rows)
    np.save(folder / "labels.npy", np.arange(96) % 3)
    loader = {"data": str(folder / "rows.npy"), "target": str(folder / "labels.npy"), "batch_size": 8}
    config = {
        "name": "arrays",
        "arch": {"type": "examples.tabular.model.TableMlp", "args": {"in_features": 5, "out_features": 3, "width": 8}},
        "data_loader": {"type": "ArrayDataLoader", "args": {**loader, "validation_split": 16}},
        "optimizer": {"type": "Adam", "args": {"lr": 0.01}},
        "loss": "torch.nn.CrossEntropyLoss",
        "metrics": ["accuracy"],
        "trainer": {"epochs": 2, "save_dir": str(folder / "saved"), "log_step": 4, "report": False, "verbosity": 0},
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return ConfigParser.from_file(path, {key.replace("__", "."): value for key, value in changes.items()})


def trained(trainer, **others):
    """Train; in the last epoch, after its first batch, only reports read the device, each once, whatever the setting.

    others: {name of a file: number of reads that it makes}, where that differs.
    """
    assert trainer.device == SIM
    reads = Reads(trainer)
    trainer.train()
    assert all(place.startswith(REPORT) for place in reads.found), reads.found
    found = collections.Counter()
    for place, number in simulated_device.transfers.items():
        found[place.partition(":")[0].rpartition("/")[2].removesuffix(".py")] += number
    # three reports and the validation; the histograms of an epoch, and a look at the weights before they are saved
    assert found == +collections.Counter({"metric_tracker": 4, "monitors": 1, "nonfinite": 1} | others), dict(
        simulated_device.transfers
    )


WEIGHTED = {"type": "torch.nn.CrossEntropyLoss", "args": {"weight": WEIGHT}}
CONFIGS = {
    "class weights": {"loss": WEIGHTED},
    "class weights in windows": {"loss": WEIGHTED, "trainer__accumulate": 2},
    "weights of a function": {"loss": {"type": "cross_entropy", "args": {"weight": WEIGHT}}, "trainer__accumulate": 2},
    "an ignored class": {
        "loss": {"type": "torch.nn.CrossEntropyLoss", "args": {"ignore_index": 1}},
        "metrics": [{"type": "accuracy", "args": {"ignore_index": 1}}],
        "trainer__accumulate": 3,
    },
    "a sum": {"loss": {"type": "torch.nn.CrossEntropyLoss", "args": {"reduction": "sum"}}},
    "clip_value": {"trainer__clip_value": 0.1, "callbacks": ["GradientNorm"]},
    "ignore": {"trainer__on_nonfinite": "ignore"},
    "bf16": {"trainer__precision": "bf16"},
    "tf32": {"trainer__precision": "tf32"},
    "no kernels of its own": {"trainer__fused": False, "trainer__channels_last": False},
    "deterministic": {"deterministic": True},
    "a schedule by steps": {
        "lr_scheduler": {
            "type": "CosineAnnealingLR",
            "args": {"T_max": "90%"},
            "interval": "step",
            "warmup": "10%",
        }
    },
    "a plateau": {"lr_scheduler": {"type": "ReduceLROnPlateau", "args": {}}},
    "groups": {"optimizer__groups": [{"params": "layers.0.*", "lr_factor": 0.1}]},
    "two optimizers": {
        "optimizer": {
            "first": {"type": "SGD", "args": {"lr": 0.1}, "params": "layers.0.*"},
            "rest": {"type": "AdamW", "args": {"lr": 0.1}, "params": ["layers.1.*", "layers.2.*"], "every": 2},
        }
    },
    "SWA": {"callbacks": [{"type": "SWA", "args": {"start": "50%"}}]},
    "a sanity check": {"trainer__sanity_check_batches": 1},
    "iterations": {"trainer__len_epoch": 10},
    "balanced classes": {"data_loader__args__balance_classes": True},
    "stratified": {"data_loader__args__stratify": True},
    "on the device": {"data_loader__args__device_resident": True},
    "workers": {"data_loader__args__num_workers": 2},
    "overfitting": {"trainer__overfit_batches": 10},
    "early stopping": {"trainer__monitor": "min val_loss", "trainer__early_stop": 5},
}
IN_SAVES = {"optim_step": 2}  # of what an accumulated gradient stands for
OTHER_READS = {
    "class weights in windows": IN_SAVES,
    "weights of a function": IN_SAVES,
    "an ignored class": IN_SAVES,
    "lengths": IN_SAVES,
    "ignore": {"nonfinite": 0},
    "SWA": {"metric_tracker": 5, "nonfinite": 2},  # a validation and a save of its own
    "on the device": {"fingerprint": 2},  # of the data and the targets, in a save
    "segmentation": {"epoch_metrics": 2},  # the tables of training and validation
    "a stream": {"metric_tracker": 3},  # of which nothing is set aside to validate on
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_setting_reads_the_device_once_a_report(tmp_path, name):
    trained(build(array_job(tmp_path, **CONFIGS[name])), **OTHER_READS.get(name, {}))


def test_validation_within_epochs_reads_once_each(tmp_path):
    trained(build(array_job(tmp_path, trainer__validate_every_steps=4)), metric_tracker=6)


@pytest.mark.parametrize("is_async", [False, True])
def test_saves_within_epochs_are_made_and_resumed_from(tmp_path, is_async):
    changes = {"trainer__save_every_steps": 3, "trainer__async_save": is_async, "trainer__log_step": 5}
    trainer = build(array_job(tmp_path, **changes))
    trainer.train()
    (path, *_) = sorted(trainer.checkpoint_dir.glob("checkpoint-epoch2-batch*.pth"))
    assert not any(held.device.type == "sim" for held in load_checkpoint(path)["state_dict"].values())
    resumed = build(ConfigParser(trainer.config.config | {"description": "resumed"}, resume=path))
    resumed.train()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


class Prototypes(nn.Module):
    """Cross-entropy of scaled scores, whose scale is learned."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, output, target):
        return F.cross_entropy(output * self.scale, target)


class SeveralLosses(Trainer):
    """Logs two parts of its loss."""

    def compute_loss(self, data, target):
        output = self.model(data)
        error, penalty = self.criterion(output, target), output.square().mean()
        return {"loss": error + 0.1 * penalty, "error": error, "penalty": penalty}, output


class OwnLoss(Trainer):
    """Needs no criterion."""

    def compute_loss(self, data, target):
        output = self.model(data)
        return F.mse_loss(output, F.one_hot(target, 3).float()), output


class Branching(nn.Linear):
    """Two outputs."""

    def forward(self, input):
        scores = super().forward(input)
        return {"scores": scores, "sizes": (scores.square().sum(dim=1), None)}


def loss_of_both(output, target):
    return F.cross_entropy(output["scores"], target) + output["sizes"][0].mean()


def hits_of_scores(output, target):
    return accuracy(output["scores"], target)


class Numbers(torch.utils.data.IterableDataset):
    """ROWS and LABELS, from the first to the last."""

    def __iter__(self):
        return iter(zip(ROWS, LABELS, strict=True))


class Noisy(nn.Linear):
    """Draws random numbers on the device, in evaluation too."""

    def forward(self, input):
        return super().forward(input + torch.randn_like(input))


def padded(samples):
    rows, targets = zip(*samples, strict=True)
    most = max(map(len, targets))
    rows = [F.pad(row, (0, 0, 0, most - len(row))) for row in rows]
    return torch.stack(rows), torch.stack([F.pad(one, (0, most - len(one)), value=-100) for one in targets])


class Tagger(nn.Linear):
    """Class scores (N, C, length) of rows (N, length, features)."""

    def forward(self, input):
        return super().forward(input).movedim(-1, 1)


def sequences():
    return [(torch.randn(1 + i % 7, 5), torch.arange(1 + i % 7) % 3) for i in range(96)]


LABELS = torch.arange(96) % 3
ROWS = torch.linspace(-1, 1, 480).view(96, 5)
IMAGES, MAPS = torch.linspace(0, 1, 96 * 48).view(96, 3, 4, 4), torch.arange(96 * 16).view(96, 4, 4) % 3
PARTS = {  # (dataset, model, loss, and what differs)
    "a loss with parameters": lambda: (InMemoryDataset(ROWS, LABELS), nn.Linear(5, 3), Prototypes(), {}),
    "several losses": lambda: (
        InMemoryDataset(ROWS, LABELS),
        nn.Linear(5, 3),
        nn.CrossEntropyLoss(),
        {"trainer_class": SeveralLosses},
    ),
    "several labels": lambda: (
        InMemoryDataset(ROWS, F.one_hot(LABELS, 3).float()),
        nn.Linear(5, 3),
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor(WEIGHT)),
        {"metrics": ()},
    ),
    "segmentation": lambda: (
        InMemoryDataset(IMAGES, MAPS),
        nn.Conv2d(3, 3, 1),
        nn.CrossEntropyLoss(torch.tensor(WEIGHT)),
        {"metrics": (accuracy, ConfusionMatrix(3))},
    ),
    "sampling_weights": lambda: (
        InMemoryDataset(ROWS, LABELS),
        nn.Linear(5, 3),
        nn.CrossEntropyLoss(),
        {"loader": {"sampling_weights": np.arange(96) + 1.0}},
    ),
    "groups": lambda: (
        InMemoryDataset(ROWS, LABELS),
        nn.Linear(5, 3),
        nn.CrossEntropyLoss(),
        {"loader": {"groups": np.arange(96) // 2}},
    ),
    "lengths": lambda: (
        sequences(),
        Tagger(5, 3),
        functools.partial(F.cross_entropy, weight=torch.tensor(WEIGHT)),
        {"loader": {"lengths": [1 + i % 7 for i in range(96)], "collate_fn": padded}, "accumulate": 2},
    ),
    "a model that draws": lambda: (InMemoryDataset(ROWS, LABELS), Noisy(5, 3), nn.CrossEntropyLoss(), {}),
    "no loss": lambda: (InMemoryDataset(ROWS, LABELS), nn.Linear(5, 3), None, {"trainer_class": OwnLoss}),
    "several outputs": lambda: (
        InMemoryDataset(ROWS, LABELS),
        Branching(5, 3),
        loss_of_both,
        {"metrics": (hits_of_scores,)},
    ),
    "double precision": lambda: (
        InMemoryDataset(ROWS.double(), LABELS),
        nn.Linear(5, 3).double(),
        nn.CrossEntropyLoss(),
        {},
    ),
    "weights in bf16": lambda: (
        InMemoryDataset(ROWS.bfloat16(), LABELS),
        nn.Linear(5, 3).bfloat16(),
        nn.CrossEntropyLoss(),
        {},
    ),
    "shares of classes": lambda: (
        list(zip(ROWS, F.one_hot(LABELS, 3).float(), strict=True)),
        nn.Linear(5, 3),
        nn.CrossEntropyLoss(),
        {"metrics": (), "accumulate": 3},
    ),
    "a stream": lambda: (Numbers(), nn.Linear(5, 3), nn.CrossEntropyLoss(), {"len_epoch": 10}),
}


def built(folder, name):
    """The Trainer of PARTS on the device, not started."""
    seed_everything(5)
    dataset, model, criterion, others = PARTS[name]()
    settings = {"log_step": 4, "tensorboard": True, "report": False, "accumulate": others.get("accumulate", 1)}
    settings["len_epoch"] = others.get("len_epoch")
    config = ConfigParser(tiny_config(folder, **settings))
    model, criterion = model.to(SIM), None if criterion is None else on_device(criterion, SIM)
    optimizer = build_optimizer(config, model, criterion=criterion)
    if isinstance(dataset, torch.utils.data.IterableDataset):
        loader = StreamDataLoader(dataset, 8).to(SIM)
    else:
        loader = BaseDataLoader(dataset, 8, True, 16, 0, **others.get("loader", {})).to(SIM)
    metrics = list(others.get("metrics", (accuracy,)))
    for metric in metrics:
        metric.__name__ = getattr(metric, "__name__", "table")
    parts = model, criterion, metrics, optimizer, config, SIM, loader
    return others.get("trainer_class", Trainer)(*parts, valid_data_loader=loader.split_validation())


@pytest.mark.parametrize("name", PARTS)
def test_a_loss_or_sampler_reads_the_device_once_a_report(tmp_path, name):
    simulated_device.unpinned.clear()
    trained(built(tmp_path, name), **OTHER_READS.get(name, {}))
    assert not simulated_device.unpinned


def test_numbers_of_validation_are_the_same_each_time_and_training_draws_its_own(tmp_path):
    trainer = built(tmp_path, "a model that draws")
    drawn = torch.get_device_module("sim").get_rng_state()
    first, second = trainer._evaluate(), trainer._evaluate()
    assert first == second and torch.equal(drawn, torch.get_device_module("sim").get_rng_state())
    assert not torch.equal(*(trainer.model(ROWS[:2].to(SIM)).cpu() for _ in range(2)))


def test_a_summary_draws_no_random_numbers_of_the_device():
    model, drawn = Noisy(5, 3).to(SIM), torch.get_device_module("sim").get_rng_state()
    assert "Noisy" in model_summary(nn.Sequential(model), ROWS[:2].to(SIM))
    assert torch.equal(drawn, torch.get_device_module("sim").get_rng_state())


def test_states_of_random_generators_hold_the_device_s():
    before = rng_state()
    first = torch.randn(3, device=SIM).tolist()
    set_rng_state(before)
    assert torch.randn(3, device=SIM).tolist() == first != torch.randn(3).tolist()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_gradients_of_any_precision_are_checked(dtype, bad):
    def flag_of(value):
        gradients = torch.ones(2, 3, dtype=dtype), torch.tensor([1.0, value, 2.0], dtype=dtype), torch.ones(0)
        (flag,) = NonFiniteWatch("stop").look([*(one.to(SIM) for one in gradients), torch.ones(4, device=SIM)])
        return flag.item()

    assert (flag_of(3.0), flag_of(bad)) == (0.0, 1.0)


def test_a_trainer_reads_once_which_buffers_are_finite(tmp_path, monkeypatch):
    model = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    monkeypatch.setitem(PARTS, "norms", lambda: (InMemoryDataset(ROWS, LABELS), model, nn.CrossEntropyLoss(), {}))
    simulated_device.transfers.clear()
    trainer = built(tmp_path, "norms")
    assert len(trainer._must_be_finite) == 10
    places = {place: number for place, number in simulated_device.transfers.items() if not place.startswith("tests/")}
    assert [place.partition(":")[0] for place in places] == ["base/training/nonfinite.py"]
    assert [*places.values()] == [1]


def test_a_model_of_shared_norms_is_one_for_any_device_but_the_cpu():
    class Config(dict):
        build = staticmethod(lambda name, section, model, device: model)

    config, model = Config(trainer={}), nn.Sequential(nn.Linear(5, 3), nn.SyncBatchNorm(3))
    assert parallelize(model, config, SIM)[0].weight.device == SIM
    with pytest.raises(UserError, match="torch has SyncBatchNorm for GPUs only, and this run is on cpu"):
        parallelize(model, config, torch.device("cpu"))


@pytest.fixture
def three_devices(monkeypatch):
    """The module of the device, of which there are three."""
    module = torch.get_device_module("sim")
    monkeypatch.setattr(module, "count", 3)
    yield module
    module.set_device(0)


def test_random_numbers_continue_where_other_devices_are_there(three_devices, monkeypatch):
    prepare_device(1, "sim:2")
    assert three_devices.current_device() == 2
    before = rng_state()
    first = torch.randn(3, device=SIM).tolist()
    monkeypatch.setattr(three_devices, "count", 1)
    prepare_device(1, "sim")
    set_rng_state(before)
    assert torch.randn(3, device=SIM).tolist() == first


def test_a_number_of_a_device_that_is_none_is_refused():
    for name in ("sim:x", "sim:-1", "sim:"):
        if name == "sim:":
            assert prepare_device(1, name)[0] == SIM
            continue
        with pytest.raises(UserError, match=f"device: '{name}' given; a number follows the colon"):
            prepare_device(1, name)


def test_outputs_of_several_names_are_one_read_each(tmp_path):
    trainer = built(tmp_path, "several outputs")
    model = TrainedModel(trainer.model, None, Output(), SIM)
    simulated_device.transfers.clear()
    outputs, _ = model.predict_loader(trainer.valid_data_loader)
    assert sorted(outputs) == ["scores", "sizes.0"] and outputs["scores"].shape == (16, 3)
    assert sum(simulated_device.transfers.values()) == 2 * len(trainer.valid_data_loader)


def test_an_index_outside_of_its_range_is_one_line_though_the_device_tells_it_late(tmp_path):
    trainer = built(tmp_path, "shares of classes")
    labels = LABELS.clone()
    labels[trainer.data_loader.batch_indices(1, 5)[0]] = 3  # of a model of three classes
    trainer.data_loader.dataset[:] = list(zip(ROWS, labels, strict=True))
    trainer.valid_data_loader = None
    module = torch.get_device_module("sim")
    try:
        with pytest.raises(UserError, match="epoch 1, batch 8 of 10 or one before: an index lies outside of its range"):
            trainer.train()
    finally:
        module.is_broken = False


def test_an_anomaly_is_named(tmp_path):
    trainer = built(tmp_path, "several losses")
    trainer.settings = trainer.settings.model_copy(update={"detect_anomaly": True})
    trainer.compute_loss = lambda data, target: ((trainer.model(data) * 0).sqrt().sum(), trainer.model(data))
    with pytest.raises(UserError, match="epoch 1, batch 1 of 10: Function 'MulBackward0' returned nan values"):
        trainer.train()


SCORES, FLOATS = torch.randn(8, 3), torch.rand(8, 3)
SIGNS, NUMBERS = torch.ones(8, 3), torch.arange(8) % 3
ARGUMENTS = {  # of the losses that LossWatch knows
    **dict.fromkeys(("cross_entropy", "multi_margin_loss"), (SCORES, NUMBERS)),
    "nll_loss": (SCORES.log_softmax(1), NUMBERS),
    **dict.fromkeys(("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss"), (SCORES, FLOATS)),
    "kl_div": (SCORES.log_softmax(1), FLOATS.softmax(1)),
    "binary_cross_entropy": (FLOATS, FLOATS.round()),
    **dict.fromkeys(("binary_cross_entropy_with_logits", "multilabel_soft_margin_loss"), (SCORES, FLOATS.round())),
    **dict.fromkeys(("hinge_embedding_loss", "soft_margin_loss"), (SCORES, SIGNS)),
    "gaussian_nll_loss": (SCORES, FLOATS, FLOATS + 1),
    "cosine_embedding_loss": (SCORES, FLOATS, SIGNS[:, 0]),
    "margin_ranking_loss": (SCORES, FLOATS, SIGNS),
    "multilabel_margin_loss": (SCORES, torch.tensor([[0, 2, -1]] * 8)),
    "ctc_loss": (torch.randn(6, 2, 4).log_softmax(2), torch.tensor([[1, 2], [3, 3]]), (6, 6), (2, 2)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_looked_at_and_computed_on_the_device(name):
    there = [one.to(SIM) if isinstance(one, torch.Tensor) else one for one in ARGUMENTS[name]]
    how = {"reduction": "batchmean"} if name == "kl_div" else {}
    with LossWatch("loss"):
        here, found = getattr(F, name)(*ARGUMENTS[name], **how), getattr(F, name)(*there, **how)
    assert found.device == SIM and torch.equal(here, found.cpu())


@pytest.mark.parametrize("action", ["stop", "skip", "rollback", "ignore"])
def test_nan_is_found_on_the_device(tmp_path, action):
    rows = np.random.RandomState(0).randn(96, 5).astype("float32")
    rows[np.random.RandomState(0).permutation(96)[40]] = np.nan  # a sample of training
    trainer = build(array_job(tmp_path, rows, trainer__on_nonfinite=action))
    if action == "stop":
        with pytest.raises(UserError, match="data_loader has nan or infinity in sample"):
            trainer.train()
        return
    trainer.train()
    finite = all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    assert finite == (action != "ignore") and bool(trainer.skipped_batches) == (action == "rollback")
