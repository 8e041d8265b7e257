"""How far a step of the default job is from what the machine can do, and how soon MNIST is learned to 99 %.

    python benchmarks/limit.py          # about 4 minutes on two cores
    python benchmarks/limit.py rate     # or: race

rate: the speed of a product of two matrices, the arithmetic of a step, and the operations that its time goes to.
race: examples/mnist_fast beside a script that does nothing but train the same network.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from harness import PROJECT, interleaved, print_table, run_fresh, run_tables, seconds_since_start

sys.path.insert(0, str(PROJECT))

BATCH, EPOCHS = 128, 3
OPERATIONS = 8  # in the table


def main():
    run_tables({"rate": rate, "race": race})


def rate():
    """A step of the default job against the speed of a matrix product, in one thread and in all."""
    rows, threads = [], torch.get_num_threads()
    for count in dict.fromkeys((1, threads)):
        torch.set_num_threads(count)
        gflops, step = product_rate(), Step()
        seconds = step.seconds()
        least = step.operations() / (gflops * 1e9)
        rows.append([count, f"{gflops:.0f}", f"{least * 1e3:.2f}", f"{seconds * 1e3:.2f}", f"{seconds / least:.1f}"])
    print(
        f"\nA step takes {step.operations() / 1e6:.0f} million operations; a multiplication with an addition is two.\n"
    )
    print_table(["threads", "product, GFLOP/s", "least time of a step, ms", "a step, ms", "times the least"], rows)
    torch.set_num_threads(1)
    print("\nWhere the time of a step in one thread goes:\n")
    print_table(["operation", "share, %"], step.shares())
    torch.set_num_threads(threads)


def product_rate(size=2048, repeats=20):
    """The best GFLOP/s of products of two square matrices in float32."""
    left, right = torch.randn(2, size, size)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times) / 1e9


class Step:
    """A training step of the default network on one batch of random images, without a framework."""

    def __init__(self):
        from model.loss import cross_entropy
        from model.model import MnistModel

        torch.manual_seed(0)
        self.model = MnistModel().to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.002, amsgrad=True, fused=True)
        self.loss = cross_entropy
        self.images, self.labels = torch.randn(BATCH, 1, 28, 28), torch.randint(10, (BATCH,))

    def __call__(self):
        self.optimizer.zero_grad()
        self.loss(self.model(self.images), self.labels).backward()
        self.optimizer.step()

    def operations(self):
        """Multiplications and additions of the layers, forward and backward."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self()
        return counter.get_total_flops()

    def seconds(self, repeats=300):
        """The median time of a step."""
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            self()
            times.append(time.perf_counter() - started)
        return statistics.median(times[repeats // 3 :])

    def shares(self, repeats=100):
        """Rows (operation, its share of the time in percent), the longest first."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            for _ in range(repeats):
                self()
        events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
        whole = sum(event.self_cpu_time_total for event in events)
        rows = [(event.key, 100 * event.self_cpu_time_total / whole) for event in events[:OPERATIONS]]
        rows.append(("all others", 100 - sum(share for _, share in rows)))
        return [[name, f"{share:.1f}"] for name, share in rows]


def race():
    """Seconds from the start of a process until the trained network is there, and its accuracy on the test images."""

    def measure(name):
        with tempfile.TemporaryDirectory() as folder:
            return run_fresh(__file__, "run", name, folder)

    rows = []
    for name, runs in interleaved(RACERS, measure, repeats=3).items():
        seconds, accuracies = ([run[key] for run in runs] for key in ("seconds", "accuracy"))
        spread = f"{min(seconds):.1f}-{max(seconds):.1f}"
        rows.append([name, f"{statistics.median(seconds):.1f}", spread, f"{100 * statistics.mean(accuracies):.2f}"])
    print()
    print_table(["job", "seconds from start to end", "min-max", "mean test accuracy, %"], rows)


def ours(folder):
    """train.py -c examples/mnist_fast/config.json: with its checks, its log, metrics.csv and a checkpoint."""
    import train
    from parse_config import ConfigParser

    set_values = {"trainer.save_dir": str(folder), "trainer.verbosity": 0}
    trainer = train.build(ConfigParser.from_file(PROJECT / "examples" / "mnist_fast" / "config.json", set_values))
    trainer.train()
    return trainer.model


def script(folder, dtype=None):
    """The same network, optimizer and schedule, and nothing else: images normalized once, nothing logged or saved."""
    from base.data.mnist_files import read_mnist
    from model.model import MnistModel

    torch.empty(31 << 20, dtype=torch.uint8)  # as in base/training/precision.py: glibc keeps freed memory
    torch.manual_seed(123)
    images, labels = read_mnist(PROJECT / "data", training=True)
    images = normalized(images)
    model = MnistModel(conv_dropout=0.0, dropout=0.1).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    steps = -(-len(images) // BATCH) * EPOCHS
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                loss = torch.nn.functional.nll_loss(model(images[rows]), labels[rows])
            loss.backward()
            optimizer.step()
            scheduler.step()
    return model


def script_bf16(folder):
    """The same in bfloat16, which pays on processors that have instructions for it."""
    return script(folder, torch.bfloat16)


RACERS = {function.__name__: function for function in (ours, script, script_bf16)}


def normalized(images):
    return images.float().div_(255).sub_(0.1307).div_(0.3081)


def run(name, folder):
    """Train, and print what came out."""
    import json

    from base.data.mnist_files import read_mnist

    model = RACERS[name](Path(folder))
    seconds = seconds_since_start()
    images, labels = read_mnist(PROJECT / "data", training=False)
    with torch.no_grad():
        correct = (model.eval()(normalized(images)).argmax(1) == labels).double().mean()
    print("\n" + json.dumps({"seconds": seconds, "accuracy": correct.item()}))


if __name__ == "__main__":
    run(*sys.argv[2:]) if sys.argv[1:2] == ["run"] else main()
