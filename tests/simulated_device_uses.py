"""Loaders, metrics, examples and commands on a second device: tests/test_other_devices.py starts pytest with this."""

import copy
import csv
import functools
import gzip
import json

import numpy as np
import pytest
import simulated_device  # before anything asks torch for its accelerator
import torch
import torchmetrics
from PIL import Image
from simulated_device_cases import config_of, counted_reads

import test
import utils.device
from base.data.arrays import ArrayDataLoader
from base.data.image_folders import ImageFolderDataLoader
from base.data.in_memory import InMemoryDataset
from base.data.tables import TableDataLoader
from base.data.texts import TextDataLoader
from base.generate import continued, samples_of
from base.trained_model import TrainedModel
from base.training.evaluate import record
from base.training.monitors import _counted, _fetched
from base.training.precision import to_device
from base.training.tune import find_batch_size
from helpers import PROJECT, run_here
from logger.predictions import errors_first
from model.metric import ConfusionMatrix, MacroF1, accuracy, top_k_acc
from parse_config import ConfigParser
from serving.predictor import Predictor
from train import build
from utils import MetricTracker
from utils.metric_tracker import read_numbers
from utils.runs.checkpoint import load_checkpoint

SIM = torch.device("sim", 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with 24 examples of each kind that the loaders read."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.RandomState(0)
    for i in range(24):
        place = folder / "images" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.randint(0, 255, (12, 12, 3)).astype("uint8")).save(place / f"{i}.png")
    np.save(folder / "rows.npy", random.randn(24, 5).astype("float32"))
    np.save(folder / "labels.npy", np.arange(24) % 3)
    with open(folder / "table.csv", "w", newline="") as file:
        names = [f"x{i}" for i in range(10)]
        csv.writer(file).writerows([[*names, "target"], *np.round(random.randn(24, 11), 3).tolist()])
    (folder / "text.txt").write_text("a text of some length. " * 20)
    records = random.randint(0, 256, (24, 3073)).astype("uint8")
    records[:, 0] = np.arange(24) % 10
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        records.tofile(folder / f"{name}.bin")
    pixels = random.randint(0, 256, (24, 28, 28)).astype("uint8")
    for name, array in (("images-idx3", pixels), ("labels-idx1", records[:, 0])):
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (folder / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    series = random.randn(24, 40).astype("float32")
    np.savez(folder / "series.npz", x=series, y=np.arange(24) % 10)
    lines = [f"{','.join(map(str, row))}:{1 + i % 2}" for i, row in enumerate(series.tolist())]
    (folder / "Made_TRAIN.ts").write_text("\n".join(["@classLabel true 1 2", "@data", *lines]))
    return folder


LOADERS = {
    "images": lambda folder, **how: ImageFolderDataLoader(
        str(folder / "images"), 12, 8, in_memory=False, augment=True, **how
    ),
    "images in memory": lambda folder, **how: ImageFolderDataLoader(str(folder / "images"), 12, 8, augment=True, **how),
    "table": lambda folder, **how: TableDataLoader(str(folder / "table.csv"), "target", "regression", 8, **how),
    "arrays": lambda folder, **how: ArrayDataLoader(
        str(folder / "rows.npy"), str(folder / "labels.npy"), batch_size=8, **how
    ),
    "text": lambda folder, **how: TextDataLoader(str(folder / "text.txt"), 16, 8, **how),
}
RESIDENT = [(kind, True) for kind in LOADERS if kind != "images"]  # which are read when they are asked for


@pytest.mark.parametrize(("kind", "resident"), [*((kind, False) for kind in LOADERS), *RESIDENT])
def test_a_loader_brings_the_batches_of_the_cpu_and_waits_for_nothing(data, kind, resident):
    def batches(device):
        torch.manual_seed(3)
        loader = LOADERS[kind](data, validation_split=0.25, device_resident=resident).to(device)
        valid = loader.split_validation()
        next(iter(valid))  # the input moves to the device with its first batch
        loader.set_epoch(1)
        with counted_reads() as found:
            both = [to_device(tuple(batch), device) for part in (loader, valid) for batch in part]
        return both, found

    (here, _), (there, found) = batches(torch.device("cpu")), batches(SIM)
    assert not found, dict(found)
    assert {tensor.device for batch in there for tensor in batch} == {SIM} and len(here) == len(there) > 2
    for one, other in zip(here, there, strict=True):
        assert all(torch.equal(left, right.cpu()) for left, right in zip(one, other, strict=True))


def test_data_of_double_precision_get_single_where_the_device_has_no_other(single_precision):
    values, phases = np.arange(6.0), np.arange(6) * 1j
    resident = InMemoryDataset(values, phases, np.arange(6)).to(SIM).__getitems__([1, 2])
    moved = to_device(tuple(torch.from_numpy(array[1:3]) for array in (values, phases, np.arange(6))), SIM)
    for batch in (resident, moved):
        assert [part.dtype for part in batch] == [torch.float32, torch.complex64, torch.int64]
        assert [part.tolist() for part in batch] == [[1.0, 2.0], [1j, 2j], [1, 2]]


def test_losses_and_flags_are_one_read_also_where_there_are_no_doubles(single_precision):
    losses, flags = [torch.tensor(value, device=SIM) for value in (0.5, 1.5)], torch.tensor([0.0, 1.0], device=SIM)
    with counted_reads() as found:
        assert read_numbers([*losses, 2], [flags]) == ([0.5, 1.5, 2.0], [[0.0, 1.0]])
    assert found == {"utils/metric_tracker.py": 1}


METRICS = {
    "accuracy": accuracy,
    "top_k_acc": functools.partial(top_k_acc, k=2),
    "ConfusionMatrix": ConfusionMatrix(3),
    "MacroF1": MacroF1(3),
    "torchmetrics": torchmetrics.Accuracy("multiclass", num_classes=3, validate_args=False),  # which would wait
}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_reads_at_the_end_alone_and_gives_the_number_of_the_cpu(name):
    metric = copy.deepcopy(METRICS[name])
    metric.__name__ = "measured"
    output, target = torch.randn(4, 8, 3), torch.arange(32).view(4, 8) % 3
    found = []
    for device in (torch.device("cpu"), SIM):
        tracker = MetricTracker.of([metric], device)
        batches = list(zip(output.to(device), target.to(device), strict=True))
        record(tracker, [metric], torch.zeros((), device=device), *batches[0])  # the first update looks at the result
        with counted_reads() as reads:
            for batch in batches[1:]:
                record(tracker, [metric], torch.zeros((), device=device), *batch)
        assert not reads, dict(reads)
        found.append((tracker.result(), tracker.tables))
    assert found[0] == found[1]


@pytest.fixture
def single_precision(monkeypatch):
    """The device does not compute in double precision."""
    monkeypatch.setattr(simulated_device, "has_doubles", False)
    utils.device._has_doubles.cache_clear()
    yield
    utils.device._has_doubles.cache_clear()


UNVALIDATED = {"trainer.limit_valid_batches": None}  # a limit is refused without validation data
SERIES = {"data_loader.args.batch_size": 8, **UNVALIDATED}
OF_EXAMPLES = {  # {example, or config of it: what makes a run of it short, on the data of `data`}
    "cifar_resnet": {"data_loader.args.data_dir": "", "data_loader.args.batch_size": 8, "arch.args.depth": 8},
    "fashion_mnist": {"data_loader.args.data_dir": "", "data_loader.args.batch_size": 8, **UNVALIDATED},
    "gan": UNVALIDATED,
    "image_folder": {
        **dict.fromkeys(("data_loader.args.folder", "data_loader.args.test_folder"), "images"),
        "data_loader.args.batch_size": 6,
        "data_loader.args.image_size": 16,
        "arch.args.num_classes": 2,
        "arch.args.depth": 8,
    },
    "mnist1d": {"data_loader.args.path": "series.npz", **SERIES},
    "mnist_fast": UNVALIDATED,
    "mnist_iterations": {"trainer.limit_train_batches": None, "trainer.len_epoch": 3},
    "tabular": {
        **dict.fromkeys(("data_loader.args.path", "data_loader.args.test_path"), "table.csv"),
        "data_loader.args.batch_size": 5,
    },
    "ucr": {"data_loader.args.data_dir": "", "data_loader.args.dataset": "Made", **SERIES},
    "ucr/mlp": {"arch.args.length": 40},
}
PLACES = ("path", "test_path", "folder", "test_folder", "data_dir")


def test_values_are_counted_for_histograms_also_where_the_smallest_floats_become_0(single_precision):
    ((numbers, counts),) = _fetched([_counted(torch.tensor([3.0, 4.0, 5.0]).to(SIM))])
    assert numbers == [3.0, 5.0, 12.0, pytest.approx(50.0)] and sum(counts) == 3


def job(folder, data, name, **others):
    """The trainer of a short run of an example, "ucr", or of another config of it, "ucr/mlp"; not started."""
    example, _, config = name.partition("/")
    changes = {"trainer.limit_train_batches": 3, "trainer.limit_valid_batches": 1, "trainer.report": False}
    own = OF_EXAMPLES.get(example, {}) | OF_EXAMPLES.get(name, {})
    changes |= {key: str(data / one) if key.endswith(PLACES) else one for key, one in own.items()}
    file = f"examples/{example}/{config or 'config'}.{'yaml' if name == 'mnist_iterations' else 'json'}"
    return build(config_of(folder, file, **changes, **others))


def of_ones(*shape, dtype=np.uint8):
    return lambda model, data: model.predict(np.ones((2, *shape), dtype))


PREDICTIONS = {
    "autoencoder": of_ones(1, 28, 28),
    "char_lm": lambda model, data: "".join(continued(model, "We ", length=4, temperature=0)),
    "cifar_resnet": of_ones(3, 32, 32),
    "fashion_mnist": of_ones(1, 28, 28),
    "fashion_mnist/large": of_ones(1, 28, 28),
    "gan": lambda model, data: samples_of(model, 2).tolist(),
    "image_folder": lambda model, data: model.predict(sorted((data / "images" / "a").glob("*.png"))),
    "mlp": of_ones(1, 28, 28),
    **dict.fromkeys(("mnist1d", "mnist1d/gru", "mnist1d/linear", "mnist1d/mlp"), of_ones(40, dtype=np.float32)),
    "mnist_fast": of_ones(1, 28, 28),
    "mnist_iterations": of_ones(1, 28, 28),
    "tabular": lambda model, data: [
        row for part in model.predict_files([str(data / "table.csv")]) for row in part.rows
    ],
    **dict.fromkeys(("ucr", "ucr/mlp"), of_ones(40, dtype=np.float32)),
}


def test_each_config_of_the_examples_is_run_here():
    configs = [path for path in (PROJECT / "examples").glob("*/*") if path.suffix in (".json", ".yaml")]
    assert set(PREDICTIONS) == {f"{path.parent.name}/{path.stem}".removesuffix("/config") for path in configs}


@pytest.mark.parametrize("name", PREDICTIONS)
def test_an_example_trains_and_predicts_on_a_device_of_single_precision(tmp_path, data, single_precision, name):
    trainer = job(tmp_path, data, name)
    trainer.train()
    assert trainer.step == 3 and {parameter.device for parameter in trainer.model.parameters()} == {SIM}
    path = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
    model = TrainedModel.load(path)
    assert model.device == SIM
    assert PREDICTIONS[name](model, data) == PREDICTIONS[name](TrainedModel.load(path, "cpu"), data)


def test_test_on_a_device_of_single_precision_gives_the_numbers_of_the_cpu(tmp_path, data, single_precision):
    trainer = job(tmp_path, data, "tabular")
    trainer.train()
    path = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
    found = {}
    for device in ("cpu", "auto"):
        config = load_checkpoint(path)["config"] | {"device": device}
        found[device] = test.main(ConfigParser(config, resume=path), "test", None)["values"]
    assert found["cpu"] == pytest.approx(found["auto"], rel=1e-5)


@pytest.mark.parametrize("text", ["MPS backend out of memory (MPS allocated: 1 GB)", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_the_largest_batch_is_found_whatever_error_tells_that_memory_is_full(tmp_path, data, text):
    trainer = job(tmp_path, data, "tabular")
    criterion = trainer.criterion

    def full(output, target):
        if len(output) > 7:
            raise RuntimeError(text)
        return criterion(output, target)

    trainer.criterion = full
    assert find_batch_size(trainer) == 7


def test_another_error_of_a_batch_is_not_taken_for_full_memory(tmp_path, data, monkeypatch):
    trainer = job(tmp_path, data, "tabular")
    monkeypatch.setattr(trainer, "losses", lambda data, target: torch.ones(2) + torch.ones(3))
    with pytest.raises(RuntimeError, match="must match the size"):
        find_batch_size(trainer)


def test_commands_run(tmp_path, data):
    """Those that look before a training run, the profiler, predict.py, export.py and compare.py."""
    config, runs = tmp_path / "config.json", tmp_path / "runs"
    content = json.loads((PROJECT / "examples/tabular/config.json").read_text())
    content["data_loader"]["args"] |= {"path": str(data / "table.csv"), "test_path": str(data / "table.csv")}
    content["data_loader"]["args"]["batch_size"] = 5
    content["trainer"] |= {"epochs": 2, "save_dir": str(runs)}
    config.write_text(json.dumps(content))
    begun = ("train.py", "-c", config)
    assert "the first batch fits" in run_here(*begun, "--check", "--data").stdout
    assert "learning rate" in run_here(*begun, "--find-lr", tmp_path / "lr.png").stdout
    assert "largest batch that fits: 20" in run_here(*begun, "--find-batch-size").stdout
    assert "fast-dev-run" in run_here(*begun, "--fast-dev-run").stdout
    assert "on sim:0" in run_here(*begun, "--profile").stdout
    (run,) = (runs / "models" / "Tabular_Regression").iterdir()
    out = tmp_path / "out.npy"
    run_here("predict.py", "-r", run, "--split", "valid", "--save-outputs", out)
    model = TrainedModel.load(run, "cpu")
    outputs, _ = model.predict_loader(model.loader("valid"))
    assert np.array_equal(np.load(out), outputs)
    run_here("export.py", "-r", run, "--to", "safetensors", "--out", tmp_path / "model.safetensors")
    assert "the same: 2 checkpoints" in run_here("compare.py", "--same", run, run).stdout


def test_a_served_model_answers_with_one_read_a_batch(tmp_path, data):
    trainer = job(tmp_path, data, "image_folder")
    trainer.train()
    model = TrainedModel.load(trainer.checkpoint_dir)
    images = [model.input.read(str(path)) for path in sorted((data / "images" / "a").glob("*.png"))]
    requests = [(lambda image=image: [image], 2) for image in images]
    predictor = Predictor(model, lambda number: None)
    with counted_reads() as found:
        answers = predictor.answers(requests)
    assert all(isinstance(answer, bytes) for answer in answers)
    assert found == {"serving/predictor.py": 1}


def test_test_and_predict_read_a_few_times_a_batch_and_never_for_a_sample(tmp_path, data):
    trainer = job(tmp_path, data, "image_folder")
    trainer.train()
    path = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
    config = load_checkpoint(path)["config"] | {"device": "auto"}
    with counted_reads() as found:
        test.main(ConfigParser(config, resume=path), "test", None)
    assert found["utils/metric_tracker.py"] == 1
    assert found["base/training/examine.py"] <= 4 * 4, dict(found)  # of 24 samples in 4 batches, half are mistakes
    model = TrainedModel.load(path)
    with counted_reads() as found:
        wrong = sum(len(part) for part in errors_first(model.predict_split(model.loader("test"), "test")))
    assert wrong > 8 and found["base/data/outputs.py"] == 4 and found["logger/predictions.py"] <= 2 * 4


def test_a_checkpoint_of_fused_kernels_resumes_where_there_are_none(tmp_path, data):
    """And the reverse: an optimizer keeps the kernels that it was built with."""
    for first, second in (("cpu", "auto"), ("auto", "cpu")):
        begun = job(tmp_path / first, data, "tabular", device=first)
        begun.train()
        config = begun.config.config
        changes = {"device": second, "trainer": config["trainer"] | {"epochs": 2}}
        resumed = build(ConfigParser(config | changes, resume=begun.checkpoint_dir / "checkpoint-epoch1.pth"))
        resumed.train()
        assert resumed.step == 6 and bool(resumed.optimizer.param_groups[0]["fused"]) == (second == "cpu")
