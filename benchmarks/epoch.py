"""Seconds of an epoch of the default job, in our framework and in those that a user might pick instead.

    python benchmarks/epoch.py                              # all groups, 25 to 40 minutes on two cores
    python benchmarks/epoch.py ours hand_written ignite     # these jobs, twice each
    python benchmarks/epoch.py ours hand_written --repeats 4

Each measurement is a process of its own, and the jobs of a group are run in turn, A B C C B A; mnist_jobs.py says what
each job does. Jobs that see the same data in the same order must reach the same weights.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from harness import interleaved, print_circumstances, print_table, ratio, run_fresh

EPOCHS = 6  # the first is a warm-up
GROUPS = {  # jobs: how often each is run; all are compared with the first
    ("ours", "hand_written", "ignite", "accelerate", "lightning_fast"): 8,
    ("ours", "ours_without_saves", "ours_without_tensorboard"): 4,
    ("ours", "lightning", "old_template"): 2,
    ("ours_per_sample", "hand_written_per_sample"): 2,
}
SAME_WEIGHTS = (
    {"ours", "ours_without_saves", "ours_without_tensorboard", "hand_written"},
    {"ours_per_sample", "hand_written_per_sample"},
)


def main(groups):
    tables = []
    for jobs, times in groups.items():
        runs = interleaved(jobs, measure, repeats=times // 2)
        compare_weights(runs)
        reference = runs[jobs[0]]
        tables.append([[job, *summary(of_job, reference)] for job, of_job in runs.items()])
    print_circumstances("lightning", "pytorch-ignite", "accelerate")
    header = ["job", "median epoch, s", "min-max", "ratio", "95 %", "first step, s", "peak memory, MB"]
    for rows in tables:
        print_table([*header, "validation accuracy"], rows)
        print()


def flags():
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "jobs", nargs="*", metavar="JOB", help="a function of mnist_jobs.py; all are compared with the first"
    )
    parser.add_argument("--repeats", type=int, default=2, help="how often each is run (an even number)")
    return parser.parse_args()


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
            raise SystemExit(
                f"{' and '.join(sorted(group & set(runs_by_name)))} should have come to equal weights and have not"
            )


if __name__ == "__main__":
    asked = flags()
    main({tuple(asked.jobs): asked.repeats} if asked.jobs else GROUPS)
