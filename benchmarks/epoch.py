"""Seconds of an epoch of the default job, in our framework and in those that a user might pick instead.

    python benchmarks/epoch.py                  # all pairs, about 25 minutes on two cores
    python benchmarks/epoch.py ours hand_written

Each measurement is a process of its own, and pairs are run in the order A B B A; mnist_jobs.py says what each job does.
If two jobs see the same data in the same order, their final weights are compared before their times.
"""

import statistics
import sys
import tempfile
from pathlib import Path

from harness import abba, print_circumstances, print_table, ratio, run_fresh

EPOCHS = 6  # the first is a warm-up
PAIRS = {
    ("ours", "hand_written"): 3,  # times A B B A
    ("ours", "ours_without_saves"): 2,
    ("ours", "ours_without_tensorboard"): 1,
    ("ours", "lightning_fast"): 1,
    ("ours", "ignite"): 1,
    ("ours", "accelerate"): 1,
    ("ours", "lightning"): 1,
    ("ours", "old_template"): 1,
    ("ours_per_sample", "hand_written_per_sample"): 1,
}
SAME_WEIGHTS = (
    {"ours", "ours_without_saves", "ours_without_tensorboard", "hand_written"},
    {"ours_per_sample", "hand_written_per_sample"},
)


def main():
    chosen = tuple(sys.argv[1:])
    pairs = {pair: repeats for pair, repeats in PAIRS.items() if not chosen or pair == chosen}
    if not pairs:
        raise SystemExit(f"no such pair; there are {', '.join(' '.join(pair) for pair in PAIRS)}")
    rows = []
    for (ours, other), repeats in pairs.items():
        our_runs, other_runs = abba(ours, other, measure, repeats)
        compare_weights({ours: our_runs, other: other_runs})
        if not any(row[0] == ours for row in rows):
            rows.append([ours, *summary(our_runs, our_runs)])
        rows.append([f"{other} / {ours}", *summary(other_runs, our_runs)])
        print(f" {rows[-1]}", file=sys.stderr)
    print_circumstances("lightning", "pytorch-ignite", "accelerate")
    header = ["job / what it is compared with", "median epoch, s", "min-max", "ratio", "95 %", "first step, s"]
    print_table([*header, "peak memory, MB", "validation accuracy"], rows)


def measure(name):
    with tempfile.TemporaryDirectory() as folder:
        return run_fresh(Path(__file__).with_name("mnist_jobs.py"), name, EPOCHS, folder)


def summary(runs, references):
    """The cells of a job in the table. The ratio compares its epochs with those of the run it is paired with."""
    seconds = [second for run in runs for second in run["epoch_seconds"]]
    middle, low, high = ratio(*([run["epoch_seconds"] for run in side] for side in (runs, references)))
    return [
        f"{statistics.median(seconds):.2f}",
        f"{min(seconds):.2f}-{max(seconds):.2f}",
        f"{middle:.3f}",
        f"{low:.3f}-{high:.3f}",
        f"{statistics.median(run['first_step'] for run in runs):.2f}",
        f"{statistics.median(run['peak_memory_mb'] for run in runs):.0f}",
        f"{statistics.median(run['valid_accuracy'] for run in runs):.4f}",
    ]


def compare_weights(runs_by_name):
    """Stop unless all jobs that do the same have reached the same weights."""
    for group in SAME_WEIGHTS:
        digests = {run["weights"] for name, runs in runs_by_name.items() if name in group for run in runs}
        if len(digests) > 1:
            raise SystemExit(f"{' and '.join(runs_by_name)} should have come to equal weights and have not")


if __name__ == "__main__":
    main()
