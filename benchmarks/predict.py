"""Samples a second of predict.py on arrays beside the bare model, and its time and memory on CSV files.

    python benchmarks/predict.py

The network of the default job predicts for 4,096 images of a .npy file. Passes alternate with those of a loop that
reads, prepares and computes the same batches, and does nothing with the outputs: in one thread and in CPU time, since
machines are shared. Then predict.py reads tables of up to 10^6 rows, each in a new process.
"""

import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from base.data.encoding import TableInput
from base.data.inputs import ImageInput
from base.data.outputs import Output
from base.data.sources import Sources
from base.trained_model import TrainedModel
from harness import PROJECT, print_circumstances, print_table
from logger.predictions import PredictionWriter
from model.model import MnistModel
from utils.runs.checkpoint import save_checkpoint

SAMPLES, PAIRS = 4096, 12
ROWS = (10_000, 100_000, 1_000_000)
PYTHON = (sys.executable, "-W", "ignore")


def main():
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        print_circumstances()
        print_table(["on arrays", "batch size", "ours, 1/s", "bare, 1/s", "ratio", "quartiles"], on_arrays(place))
        print()
        print_table(["rows of a CSV file", "seconds", "peak memory, MB"], on_tables(place))


def on_arrays(place):
    """Rows of the table: what is done with the predictions, and our speed beside that of the bare loop."""
    images = np.random.default_rng(0).integers(0, 256, (SAMPLES, 1, 28, 28), np.uint8)
    np.save(place / "images.npy", images)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    input = ImageInput(1, 28, 28, mean=[0.1307], std=[0.3081])
    model = TrainedModel(MnistModel(), input, Output(list("0123456789")), torch.device("cpu"))
    rows = []
    for batch_size in (64, 256):
        for name, ours in {
            "a table of 20 rows": lambda: write(model, place, batch_size),  # noqa: B023, called at once
            "--save-outputs": lambda: write(model, place, batch_size, save_outputs=f"{place}/o.npy"),  # noqa: B023
            "--out": lambda: write(model, place, batch_size, out=f"{place}/p.csv"),  # noqa: B023
            "predict(images) in code": lambda: model.predict(images, batch_size),  # noqa: B023
        }.items():
            pairs = [(seconds(ours), seconds(lambda: bare(model, place, batch_size))) for _ in range(PAIRS + 1)]  # noqa: B023
            ratios = [theirs / own for own, theirs in pairs[1:]]  # the first pair is a warm-up
            low, middle, high = statistics.quantiles(ratios, n=4)
            speeds = [f"{SAMPLES / statistics.median(times):,.0f}" for times in zip(*pairs[1:], strict=True)]
            rows.append([name, batch_size, *speeds, f"{middle:.3f}", f"{low:.3f}-{high:.3f}"])
            print(rows[-1], file=sys.stderr)
    return rows


def write(model, place, batch_size, **files):
    """What main of predict.py does."""
    with contextlib.redirect_stdout(io.StringIO()), PredictionWriter(**files) as writer:
        for part in writer.counted(
            model.predict_raw(Sources([f"{place}/images.npy"], model.input, model.output), batch_size)
        ):
            writer.add(part)


def bare(model, place, batch_size):
    images = np.load(place / "images.npy", mmap_mode="r")
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            model.model(model.input(torch.from_numpy(images[start : start + batch_size].copy())))


def seconds(function):
    started = time.process_time()
    function()
    return time.process_time() - started


def on_tables(place):
    """Rows of the table: the number of rows of a CSV file, and what predict.py took."""
    names, towns = [f"x{i}" for i in range(8)], ["Bonn", "Ulm"]
    input = TableInput(names, ["town"], [0.5] * 8, [0.3] * 8, [0.5] * 8, [towns])
    arch = {"type": "torch.nn.Linear", "args": {"in_features": 9, "out_features": 2}}
    state = {"samples": 1, "fingerprint": None, "classes": ["no", "yes"], "input": input.spec()}
    checkpoint = {"arch": "Linear", "state_dict": torch.nn.Linear(9, 2).state_dict()}
    config = {"name": "table", "arch": arch, "loss": "cross_entropy"}
    save_checkpoint(checkpoint | {"config": config, "attributes": {"data_loader": state}}, place / "table.pth")
    rows = []
    for number in ROWS:
        generator = np.random.default_rng(0)
        with open(place / "table.csv", "w") as file:
            file.write(",".join([*names, "town"]) + "\n")
            for _ in range(0, number, ROWS[0]):
                numbers = generator.random((ROWS[0], 8)).round(6).astype(str)
                file.writelines(f"{','.join(row)},{towns[i % 2]}\n" for i, row in enumerate(numbers))
        command = [*PYTHON, "predict.py", "-r", place / "table.pth", place / "table.csv", "--out", place / "p.csv"]
        started = time.perf_counter()
        child = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        assert status == 0, status
        rows.append([f"{number:,}", f"{time.perf_counter() - started:.1f}", f"{usage.ru_maxrss / 1e3:.0f}"])
        print(rows[-1], file=sys.stderr)
    return rows


if __name__ == "__main__":
    main()
