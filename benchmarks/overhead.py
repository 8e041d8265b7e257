"""Microseconds that a framework adds to a step of the bare loop, for a model of one linear layer.

    python benchmarks/overhead.py

Each framework runs in a process of its own; its epochs alternate with those of a bare loop that does the same
arithmetic: forward, backward, update and every metric. The difference is printed. A second table shows the cost of a
batch, read through a memory map, as the dataset grows, with its share of drawing the epoch's order. docs/overhead.png
plots both.
"""

import functools
import json
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from harness import PROJECT, print_circumstances, print_table, run_fresh

STEPS, EPOCHS, LOG_EVERY = 1000, 31, 150
METRICS = (0, 2, 10)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main():
    rows, curves = [], {}
    for name in FRAMEWORKS:
        for tensorboard in (False, True):
            cells = [run_fresh(__file__, name, count, int(tensorboard)) for count in METRICS]
            curves[name, tensorboard] = [cell["added"] for cell in cells]
            with_tensorboard = "yes" if tensorboard else "no"
            rows.append(
                [name, with_tensorboard, *(f"{c['added']:.1f} ({c['low']:.1f}-{c['high']:.1f})" for c in cells)]
            )
            print(f"{name} {'with' if tensorboard else 'without'} TensorBoard done", file=sys.stderr)
    bare = run_fresh(__file__, "ours", 0, 0)["bare"]
    print_circumstances("lightning", "pytorch-ignite", "accelerate")
    print(
        f"Added microseconds a step: median (quartiles) of {EPOCHS - 1} pairs of epochs; the bare step takes "
        f"{bare:.0f}.\n"
    )
    print_table(["framework", "TensorBoard", *(f"{count} metrics" for count in METRICS)], rows)
    print()
    sizes = [10**power for power in range(3, 8)]
    data = [run_fresh(__file__, "data", size, 0) for size in sizes]
    cells = [
        [f"{size:,}", *(f"{row[key]:.1f}" for key in ("ours", "indexing"))]
        for size, row in zip(sizes, data, strict=True)
    ]
    print_table(["rows", "our loader, us a batch", "bare indexing, us a batch"], cells)
    draw(curves, sizes, data, PROJECT / "docs" / "overhead.png")


def draw(curves, sizes, data, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for (name, tensorboard), added in curves.items():
        if not tensorboard:
            left.plot(METRICS, added, marker="o", label=name)
    left.set(xlabel="metrics", ylabel="added microseconds a step", yscale="log", title="cost of the framework")
    left.legend()
    right.plot(sizes, [row["ours"] for row in data], marker="o", label="our loader")
    right.plot(sizes, [row["indexing"] for row in data], marker="o", label="bare indexing")
    right.set(
        xscale="log",
        xlabel="rows in the memory map",
        ylabel="microseconds a batch of 128",
        ylim=(0, None),
        title="cost of a batch",
    )
    right.legend()
    figure.savefig(path, dpi=120)


# What each process does.


def metric(output, target):
    """The share of rows whose largest entry is the target."""
    return (output.argmax(dim=1) == target).double().mean()


def make_batches():
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(32, 8, generator=generator), torch.randint(4, (32,), generator=generator)
    return [tuple(part.to(DEVICE) for part in batch)] * STEPS


class Alternating:
    """Runs an epoch of the bare loop before each epoch of a framework, and times both."""

    def __init__(self, batches, num_metrics):
        torch.manual_seed(0)
        self.model = torch.nn.Linear(8, 4).to(DEVICE)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, fused=True)
        self.batches, self.num_metrics = batches, num_metrics
        self.bare, self.framework = [], []

    def start(self, *_):
        started = now()
        for data, target in self.batches:
            self.optimizer.zero_grad()
            output = self.model(data)
            loss = torch.nn.functional.cross_entropy(output, target)
            loss.backward()
            self.optimizer.step()
            with torch.no_grad():
                for _ in range(self.num_metrics):
                    metric(output, target)
        self.bare.append(now() - started)
        self.started = now()

    def stop(self, *_):
        self.framework.append(now() - self.started)

    def result(self):
        added = [(f - b) / STEPS * 1e6 for f, b in zip(self.framework[1:], self.bare[1:], strict=True)]
        bare = statistics.median(self.bare[1:]) / STEPS * 1e6
        low, median, high = statistics.quantiles(added, n=4)
        return {"added": median, "low": low, "high": high, "bare": bare}


def now():
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def new_parts():
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 4).to(DEVICE)
    return model, torch.optim.SGD(model.parameters(), lr=0.01, fused=True)


def ours(batches, clock, num_metrics, tensorboard, folder):
    from parse_config import ConfigParser
    from trainer import Trainer

    settings = {"epochs": EPOCHS, "save_dir": folder, "verbosity": 0, "tensorboard": tensorboard, "log_step": LOG_EVERY}
    model, optimizer = new_parts()
    metrics = [functools.partial(metric) for _ in range(num_metrics)]
    for i, function in enumerate(metrics):
        function.__name__ = f"metric{i}"
    config = ConfigParser({"name": "overhead", "trainer": settings})
    trainer = Trainer(model, torch.nn.functional.cross_entropy, metrics, optimizer, config, DEVICE, batches)
    for epoch in range(1, EPOCHS + 1):
        clock.start()
        trainer._train_epoch(epoch)
        clock.stop()


def lightning(batches, clock, num_metrics, tensorboard, folder):
    import lightning as pl

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = new_parts()[0]

        def training_step(self, batch, batch_idx):
            data, target = batch
            output = self.model(data)
            loss = torch.nn.functional.cross_entropy(output, target)
            self.log("loss", loss, on_step=tensorboard, on_epoch=True)
            for i in range(num_metrics):
                self.log(f"metric{i}", metric(output, target), on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01, fused=True)

    class Batches:
        """A loader for Lightning, which takes a list for several loaders."""

        def __init__(self, batches):
            self.batches = batches

        def __iter__(self):
            return iter(self.batches)

        def __len__(self):
            return len(self.batches)

    class Marks(pl.Callback):
        def on_train_epoch_start(self, *args):
            clock.start()

        def on_train_epoch_end(self, *args):
            clock.stop()

    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        default_root_dir=folder,
        callbacks=[Marks()],
        logger=pl.pytorch.loggers.TensorBoardLogger(folder) if tensorboard else False,
        log_every_n_steps=LOG_EVERY,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        devices=1,
    )
    trainer.fit(Module(), Batches(batches))


def ignite(batches, clock, num_metrics, tensorboard, folder):
    from ignite.engine import Engine, Events
    from ignite.handlers import TensorboardLogger
    from ignite.handlers.tensorboard_logger import OutputHandler
    from ignite.metrics import Average

    model, optimizer = new_parts()

    def update(engine, batch):
        data, target = batch
        optimizer.zero_grad()
        output = model(data)
        loss = torch.nn.functional.cross_entropy(output, target)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            return loss.detach(), *(metric(output, target) for _ in range(num_metrics))

    engine = Engine(update)
    for i in range(1 + num_metrics):
        Average(output_transform=lambda out, i=i: out[i]).attach(engine, f"value{i}")
    if tensorboard:
        handler = OutputHandler("train", output_transform=lambda out: {"loss": out[0].item()})
        TensorboardLogger(log_dir=folder).attach(engine, handler, Events.ITERATION_COMPLETED(every=LOG_EVERY))
    engine.add_event_handler(Events.EPOCH_STARTED, clock.start)
    engine.add_event_handler(Events.EPOCH_COMPLETED, clock.stop)
    engine.run(batches, max_epochs=EPOCHS)


def accelerate(batches, clock, num_metrics, tensorboard, folder):
    from accelerate import Accelerator

    accelerator = Accelerator(
        log_with="tensorboard" if tensorboard else None, project_dir=folder, cpu=DEVICE.type == "cpu"
    )
    if tensorboard:
        accelerator.init_trackers("overhead")
    model, optimizer = accelerator.prepare(*new_parts())
    for _ in range(EPOCHS):
        clock.start()
        for i, (data, target) in enumerate(batches):
            optimizer.zero_grad()
            output = model(data)
            loss = torch.nn.functional.cross_entropy(output, target)
            accelerator.backward(loss)
            optimizer.step()
            with torch.no_grad():
                for _ in range(num_metrics):
                    metric(output, target)  # Accelerate itself keeps no averages
            if tensorboard and i % LOG_EVERY == 0:
                accelerator.log({"loss": loss.item()}, step=i)
        clock.stop()


FRAMEWORKS = {function.__name__: function for function in (ours, ignite, accelerate, lightning)}


def measure_data(num_rows):
    """What a batch of 128 costs from a memory map of num_rows rows of 64 bytes, through our loader and by hand."""
    from base import BaseDataLoader, InMemoryDataset, memory_map

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.npy")
        rows = np.lib.format.open_memmap(path, "w+", np.float32, (num_rows, 16))
        for start in range(0, num_rows, 1 << 20):
            rows[start : start + (1 << 20)] = start
        rows.flush()
        mapped = memory_map(path)
        labels = np.zeros(num_rows, np.int64)
        loader = BaseDataLoader(InMemoryDataset(mapped, labels), 128, True, 0, 0)
        ours, indexing = [], []
        in_epoch, timed = len(loader), min(len(loader), 2000)
        for repeat in range(7):
            loader.set_epoch(repeat)
            iterator = iter(loader)
            started = time.perf_counter()
            next(iterator)  # draws the epoch's order
            ordered = time.perf_counter()
            for _ in range(timed - 1):
                next(iterator)
            ours.append((ordered - started) / in_epoch + (time.perf_counter() - ordered) / max(1, timed - 1))
            started = time.perf_counter()
            order = np.random.default_rng(repeat).permutation(num_rows)
            ordered = time.perf_counter()
            for i in range(timed):
                indices = order[i * 128 : (i + 1) * 128]
                torch.from_numpy(mapped[indices]), torch.from_numpy(labels[indices])
            indexing.append((ordered - started) / in_epoch + (time.perf_counter() - ordered) / timed)
        return {
            "ours": statistics.median(ours[1:]) * 1e6,
            "indexing": statistics.median(indexing[1:]) * 1e6,
        }


def worker(name, number, tensorboard):
    warnings.simplefilter("ignore")
    if name == "data":
        return measure_data(number)
    batches = make_batches()
    clock = Alternating(batches, number)
    with tempfile.TemporaryDirectory() as folder:
        FRAMEWORKS[name](batches, clock, number, bool(tensorboard), folder)
    return clock.result()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print("\n" + json.dumps(worker(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
