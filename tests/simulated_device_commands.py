"""Commands on a second device, as a user types them: tests/test_other_devices.py starts pytest with this file."""

import collections
import json

import numpy as np
import pytest
import simulated_device  # before anything asks torch for its accelerator
from PIL import Image
from simulated_device_cases import counted_reads
from starlette.testclient import TestClient

import test
from base.trained_model import TrainedModel
from helpers import run, run_here
from parse_config import ConfigParser
from serving.app import create_app, prepare
from train import build
from utils.runs.checkpoint import load_checkpoint

LINEAR = {"type": "torch.nn.Linear", "args": {"in_features": 5, "out_features": 3}}
PIXELS = {"type": "torch.nn.Conv2d", "args": {"in_channels": 3, "out_channels": 3, "kernel_size": 1}}
JOBS = {  # (rows, targets, model, loss, arguments of the loader)
    "classes": ("rows", "labels", LINEAR, "torch.nn.CrossEntropyLoss", {"classes": ["a", "b", "c"]}),
    "labels": (
        "rows",
        "several",
        LINEAR,
        "torch.nn.BCEWithLogitsLoss",
        {"classes": ["a", "b", "c"], "target_dtype": "float32"},
    ),
    "values": ("rows", "values", LINEAR, "torch.nn.MSELoss", {}),
    "masks": ("images", "maps", PIXELS, "torch.nn.CrossEntropyLoss", {}),
}
BATCHES = 10  # of the training part


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """{name: the path of a config on arrays of 96 samples}."""
    folder, random = tmp_path_factory.mktemp("jobs"), np.random.RandomState(0)
    arrays = {
        "rows": random.randn(96, 5).astype("float32"),
        "labels": np.arange(96) % 3,
        "several": (random.rand(96, 3) > 0.5).astype("float32"),
        "values": random.randn(96, 3).astype("float32"),
        "images": random.rand(96, 3, 4, 4).astype("float32"),
        "maps": random.randint(0, 3, (96, 4, 4)),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    found = {}
    for name, (rows, targets, model, loss, others) in JOBS.items():
        loader = {"data": f"{folder}/{rows}.npy", "target": f"{folder}/{targets}.npy", "batch_size": 8}
        config = {
            "name": name,
            "arch": model,
            "data_loader": {"type": "ArrayDataLoader", "args": {**loader, "validation_split": 16, **others}},
            "optimizer": {"type": "SGD", "args": {"lr": 0.1}},
            "loss": loss,
            "trainer": {"epochs": 1, "save_dir": str(folder / "saved"), "report": False, "monitor": "min val_loss"},
        }
        found[name] = folder / f"{name}.json"
        found[name].write_text(json.dumps(config))
    return found


@pytest.fixture(scope="module")
def runs(configs):
    """{name: the folder of its run on the device}."""
    found = {}
    for name, path in configs.items():
        trainer = build(ConfigParser.from_file(path))
        trainer.train()
        found[name] = trainer.checkpoint_dir
    return found


def reads_of_batches(found):
    """{file: reads a batch} of counted_reads, for those that read in each batch."""
    return {place: number // BATCHES for place, number in found.items() if number >= BATCHES}


OUTPUTS = "base/data/outputs.py"
FLAGS = [  # (job, flags, {file: reads a batch})
    ("classes", ["--out", "out.csv", "--top", "2"], {OUTPUTS: 1}),
    ("classes", ["--json"], {OUTPUTS: 1}),
    ("classes", ["--errors"], {OUTPUTS: 1, "logger/predictions.py": 1}),
    ("classes", ["--save-outputs", "out.npy"], {OUTPUTS: 1, "utils/nested.py": 1}),
    ("labels", ["--out", "out.csv"], {OUTPUTS: 1}),
    ("labels", ["--errors", "--json"], {OUTPUTS: 1, "logger/predictions.py": 1}),
    ("values", ["--out", "out.csv"], {OUTPUTS: 1}),
    ("masks", ["--masks", "masks"], {OUTPUTS: 1}),
    ("masks", ["--masks", "masks", "--json", "--grid", "grid.png"], {OUTPUTS: 1}),
]


@pytest.mark.parametrize(("name", "flags", "wanted"), FLAGS)
def test_predict_reads_each_batch_once_and_finds_what_the_cpu_finds(tmp_path, runs, name, flags, wanted):
    made = {}
    for device in ("cpu", "auto"):
        folder = tmp_path / device
        folder.mkdir()
        places = [str(folder / flag) if not flag.startswith("-") and not flag.isdigit() else flag for flag in flags]
        begun = "predict.py", "-r", runs[name], "--split", "train", "--batch-size", 8, "-d", device
        with counted_reads() as found:
            printed = run_here(*begun, *places).stdout.replace(str(folder), "")
        files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        made[device] = printed, files
    assert made["cpu"] == made["auto"] and reads_of_batches(found) == wanted, dict(found)


@pytest.mark.parametrize(
    ("name", "wanted"), [("classes", {"base/training/examine.py": 2}), ("values", {"base/training/examine.py": 1})]
)
def test_test_reads_each_batch_once_or_twice(configs, runs, name, wanted):
    config = load_checkpoint(runs[name] / "checkpoint-epoch1.pth")["config"]
    with counted_reads() as found:
        test.main(ConfigParser(config, resume=runs[name] / "checkpoint-epoch1.pth"), "train", None)
    assert reads_of_batches(found) == wanted, dict(found)


@pytest.mark.parametrize("form", ["onnx", "torch", "safetensors"])
def test_export_writes_what_the_cpu_computes(tmp_path, runs, form):
    path = tmp_path / {"onnx": "model.onnx", "torch": "model.pt2", "safetensors": "model.safetensors"}[form]
    run_here("export.py", "-r", runs["classes"], "--to", form, "--out", path)
    assert path.stat().st_size > 0


def test_a_service_answers(runs):
    rows = np.load(runs["classes"].parents[3] / "rows.npy")[:3]
    model, wanted = (TrainedModel.load(runs["classes"], device) for device in ("auto", "cpu"))
    prepare(model)
    with TestClient(create_app(model, max_bytes=100_000)) as client:
        answer = client.post("/predict", json={"examples": rows.tolist()})
    found = [row["prediction"] for row in answer.json()["predictions"]]
    assert answer.status_code == 200 and found == [row["prediction"] for row in wanted.predict(rows)]


def test_what_looks_before_training_leaves_its_pictures(tmp_path, configs):
    picture = tmp_path / "batch.png"
    run_here("train.py", "-c", configs["masks"], "--show-batch", picture)
    with Image.open(picture) as drawn:
        assert drawn.size[0] > 0
    shown = run_here("train.py", "-c", configs["classes"], "--overfit-batches", 2, "--set", "trainer.epochs=2").stdout
    assert "on sim:0" in shown


@pytest.mark.parametrize("command", [("train.py", "--folds", 2), ("train.py", "--seeds", 2), "sweep.py"])
def test_a_series_and_a_sweep_train_on_the_device(tmp_path, monkeypatch, configs, command):
    for name, value in simulated_device.for_processes(tmp_path / "path").items():
        monkeypatch.setenv(name, value)
    config = json.loads(configs["classes"].read_text())
    config["trainer"]["save_dir"] = str(tmp_path / "saved")
    (tmp_path / "config.json").write_text(json.dumps(config))
    if command == "sweep.py":
        command = (command, "optimizer.args.lr=0.1,0.2", "--trials", 2, "--sampler", "grid")
    script, *flags = command
    run(script, "-c", tmp_path / "config.json", *flags)
    logs = list((tmp_path / "saved" / "log").glob("*/*/info.log"))
    devices = collections.Counter(word for log in logs for word in log.read_text().split() if word.startswith("sim:"))
    assert len(logs) == 2 and devices == {"sim:0,": 2}
