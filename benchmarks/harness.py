"""What the benchmarks share: fresh processes in turn, ratios of pairs with an interval, tables."""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent


def run_fresh(script, *arguments):
    """The JSON object that a new process of the script prints as its last line."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONWARNINGS": "ignore"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # which has our files compiled at each start
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def interleaved(names, run, repeats=1):
    """{name: its results}, run in the order A B C C B A."""
    results = {name: [] for name in names}
    for _ in range(repeats):
        for name in (*names, *reversed(names)):
            results[name].append(run(name))
            print(".", end="", file=sys.stderr, flush=True)
    return results


def ratio(runs, references):
    """(median, low, high) of the ratios of paired measurements: the median and its 95 % bootstrap interval.

    runs, references: for each process the list of its measurements. These are correlated, so the bootstrap draws
    processes first, and then measurements within each.
    """
    ratios = np.asarray(runs, float) / np.asarray(references, float)
    generator = np.random.default_rng(0)
    medians = []
    for _ in range(4000):
        drawn = ratios[generator.integers(len(ratios), size=len(ratios))]
        medians.append(np.median(drawn[:, generator.integers(drawn.shape[1], size=drawn.shape[1])]))
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def seconds_since_start():
    """Seconds since this process was started."""
    if sys.platform != "linux":
        return time.perf_counter() - _IMPORTED
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def peak_memory_mb():
    """The peak memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def run_tables(tables):
    """Print the tables that the command line names, all of them if it names none. tables: {name: function}."""
    chosen = sys.argv[1:] or list(tables)
    if not set(chosen) <= set(tables):
        raise SystemExit(f"no such table; there are {', '.join(tables)}")
    for name in chosen:
        tables[name]()
    print_circumstances()


def print_table(header, rows):
    """Print a Markdown table, columns aligned."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for number, row in enumerate(cells):
        first, *rest = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        print("| " + " | ".join([first, *rest]) + " |")
        if number == 0:
            print("|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|")


def print_circumstances(*libraries):
    """Print the date, the machine and the versions, to go with a table."""
    import torch

    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", *libraries))
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    cpu = f"{os.cpu_count()} cores, {_cpu_name()}"
    print(f"\n{time.strftime('%Y-%m-%d')}; {cpu}{gpu}; python {platform.python_version()}, {versions}\n")


def _version(library):
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu_name():
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


_IMPORTED = time.perf_counter()
