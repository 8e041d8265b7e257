"""Train a tiny job for 2,000 epochs and record what might grow: memory, open files, threads, disk, logs.

    python benchmarks/soak.py [--epochs 2000]

Each epoch has 5 batches read by two workers, validation, a checkpoint, a row in metrics.csv and TensorBoard points.
"""

import argparse
import os
import sys
import tempfile
import threading
from pathlib import Path

import torch

from harness import PROJECT, print_circumstances, print_table

sys.path.insert(0, str(PROJECT))


def main(epochs):
    with tempfile.TemporaryDirectory() as folder:
        rows = soak(Path(folder), epochs)
    print_circumstances()
    header = ["epoch", "memory, MB", "open files", "threads", "checkpoints", "their MB", "log files", "their MB"]
    print_table([*header, "epochs/s"], rows)


def soak(folder, epochs):
    from base import BaseDataLoader
    from parse_config import ConfigParser
    from trainer import Trainer
    from utils.seed import seed_everything

    settings = {"epochs": epochs, "save_dir": str(folder), "verbosity": 1, "keep_last": 3, "monitor": "min val_loss"}
    config = ConfigParser({"name": "soak", "trainer": {**settings, "async_save": True, "save_every_steps": 3}})
    seed_everything(1)
    dataset = torch.utils.data.TensorDataset(torch.randn(50, 4), torch.randint(3, (50,)))
    loader = BaseDataLoader(dataset, 8, True, 10, 2)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3))
    marks = sorted({epochs * share // 20 for share in (1, 2, 5, 10, 15, 20)})
    rows = []

    class Watched(Trainer):
        def _finish_epoch(self, log, seconds):
            super()._finish_epoch(log, seconds)
            if log["epoch"] in marks:
                self.saver.wait()  # which deletes files, too
                rows.append(measure(log["epoch"], self.checkpoint_dir, self.config.log_dir, seconds))
                print(rows[-1], file=sys.stderr)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    criterion = torch.nn.CrossEntropyLoss()
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    Watched(model, criterion, [], optimizer, config, torch.device("cpu"), loader, loader.split_validation()).train()
    sys.stdout = sys.__stdout__
    return rows


def measure(epoch, checkpoints, logs, seconds):
    status = Path("/proc/self/status").read_text()
    memory = int(status.split("VmRSS:")[1].split()[0]) / 1e3
    files = [len(list(folder.iterdir())) for folder in (checkpoints, logs)]
    sizes = [sum(path.stat().st_size for path in folder.iterdir()) / 1e6 for folder in (checkpoints, logs)]
    opened = len(os.listdir("/proc/self/fd"))
    numbers = [
        f"{memory:.0f}",
        opened,
        threading.active_count(),
        files[0],
        f"{sizes[0]:.2f}",
        files[1],
        f"{sizes[1]:.1f}",
    ]
    return [epoch, *numbers, f"{1 / seconds:.0f}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=2000)
    main(parser.parse_args().epochs)
