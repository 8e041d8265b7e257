"""How long training waits for a save, ordinary or in the background, and how long a resume takes.

    python benchmarks/checkpoint.py

The models have 1, 100 and 500 million parameters, and Adam's state makes it three times as many numbers in a file. Each
row is a process of its own, which also times torch.save of the same state, without flush and checksum.
"""

import json
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from harness import print_circumstances, print_table, run_fresh

SIZES = (1, 100, 500)


def main():
    rows = []
    for millions in SIZES:
        result = run_fresh(__file__, millions)
        rows.append([f"{millions} million", f"{result['gigabytes']:.2f}", *(f"{result[key]:.2f}" for key in COLUMNS)])
        print(f"{millions} million parameters done", file=sys.stderr)
    print_circumstances()
    print_table(["parameters", "file, GB", *COLUMNS.values()], rows)


COLUMNS = {
    "torch_save": "torch.save, s",
    "save": "save stalls, s",
    "async_stall": "async save stalls, s",
    "async_total": "async file there after, s",
    "torch_load": "torch.load, s",
    "resume": "resume, s",
}


def worker(millions):
    with tempfile.TemporaryDirectory() as folder:
        return {
            **time_saves(build(millions, folder), folder),
            **time_async_saves(build(millions, folder, async_save=True)),
            **time_resumes(millions, folder),
        }


def time_saves(trainer, folder):
    from base.training.checkpoints import gather_state

    plain = Path(folder, "plain.pth")
    torch_save = median_seconds(lambda: torch.save(gather_state(trainer, 1), plain))
    plain.unlink()
    save = median_seconds(lambda: trainer._save_checkpoint(1))
    num_bytes = (trainer.checkpoint_dir / "checkpoint-epoch1.pth").stat().st_size
    return {"torch_save": torch_save, "save": save, "gigabytes": num_bytes / 1e9}


def time_async_saves(trainer):
    stalls, totals = [], []
    for _ in range(3):
        started = time.perf_counter()
        trainer._save_checkpoint(1)
        stalls.append(time.perf_counter() - started)
        trainer.saver.wait()
        totals.append(time.perf_counter() - started)
    return {"async_stall": statistics.median(stalls), "async_total": statistics.median(totals)}


def time_resumes(millions, folder):
    path = next(Path(folder).glob("models/*/*/checkpoint-epoch1.pth"))
    return {
        "torch_load": median_seconds(lambda: torch.load(path, weights_only=True)),
        "resume": median_seconds(lambda: build(millions, folder, resume=path).start_epoch),
    }


def build(millions, folder, resume=None, **settings):
    """A trainer of a model of that size, whose optimizer has its state; or one to resume from a checkpoint."""
    from parse_config import ConfigParser
    from trainer import Trainer

    width = 1000
    model = torch.nn.ModuleList(torch.nn.Linear(width, width, bias=False) for _ in range(millions))
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    settings = {"epochs": 2, "save_dir": folder, "verbosity": 0, "tensorboard": False, **settings}
    if resume is None:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            parameter.grad = None
    config = ConfigParser({"name": "size", "trainer": settings}, resume=resume)
    return Trainer(
        model, torch.nn.MSELoss(), [], optimizer, config, torch.device("cpu"), [(torch.ones(1), torch.ones(1))]
    )


def median_seconds(function, repeats=3):
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if len(sys.argv) > 1:
        print("\n" + json.dumps(worker(int(sys.argv[1]))))
    else:
        main()
