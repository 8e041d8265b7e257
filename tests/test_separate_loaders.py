"""Training, validation and test data from a loader each, with train.py and test.py as a user types them."""

import numpy as np
import pytest

from helpers import run_here
from utils.files import read_json, write_json
from utils.runs.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of a run: 30 samples to train on, 20 to validate on and 10 to test on."""
    folder = tmp_path_factory.mktemp("separate")
    generator = np.random.default_rng(0)

    def loader(number, **args):
        for name, array in (("x", generator.normal(size=(number, 4))), ("y", generator.integers(0, 3, number))):
            np.save(folder / f"{name}{number}.npy", array)
        places = {"data": f"{folder}/x{number}.npy", "target": f"{folder}/y{number}.npy"}
        return {"type": "arrays.ArrayDataLoader", "args": {**places, "batch_size": 8, **args}}

    config = {
        "name": "separate",
        "arch": {"type": "torch.nn.Linear", "args": {"in_features": 4, "out_features": 3}},
        "data_loader": loader(30, balance_classes=True),
        "valid_data_loader": loader(20),
        "test_data_loader": loader(10, training=True),
        "optimizer": {"type": "SGD", "args": {"lr": 0.1}},
        "loss": "torch.nn.CrossEntropyLoss",
        "metrics": ["accuracy"],
        "trainer": {"epochs": 2, "save_dir": str(folder / "saved"), "monitor": "min val_loss", "tensorboard": False},
    }
    write_json(config, folder / "job.json")
    run_here("train.py", "-c", folder / "job.json")
    (run_folder,) = folder.glob("saved/models/separate/*")
    return run_folder


@pytest.mark.slow
def test_each_part_is_measured_on_its_own_data(trained):
    for split in ("valid", "test"):
        run_here("test.py", "-r", trained / "checkpoint-epoch2.pth", "--split", split)
    results = read_json(trained / "test_results.json")["checkpoint-epoch2.pth"]
    assert [results[split]["samples"] for split in ("valid", "test")] == [20, 10]
    log = load_checkpoint(trained / "checkpoint-epoch2.pth")["log"]
    assert {f"val_{key}": results["valid"][key] for key in ("loss", "accuracy")} == {
        key: log[key] for key in ("val_loss", "val_accuracy")
    }
