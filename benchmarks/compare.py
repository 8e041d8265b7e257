"""How long compare.py takes for thousands of runs, from the start of its process to its last line.

    python benchmarks/compare.py [--runs 1000 10000] [--epochs 100]

The runs are made here: their files are those of training, with random values, and checkpoints without content.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import PROJECT, print_circumstances, print_table

_REPEATS = 5
_LOGGED = ("loss", "accuracy", "top_k_acc", "lr", "val_loss", "val_accuracy", "val_top_k_acc")


def main(numbers, epochs):
    rows = []
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(Path(folder), number, epochs)
    print_circumstances()
    print_table(["runs", "what is asked for", "processor, s", "clock, s", "min-max, s"], rows)


def measure(folder, number, epochs):
    """The rows of the table for so many runs."""
    make_runs(folder, number, epochs)
    time.sleep(2.1)  # the index takes up runs that have not changed for two seconds
    cases = {
        "a table, the first time": ([], lambda: (folder / ".runs-index.json").unlink(missing_ok=True), 1),
        "a table": ([], None, _REPEATS),
        "`--runs --where optimizer.args.lr<0.01 --top 20`": (
            ["--runs", "--where", "optimizer.args.lr<0.01", "--top", "20"],
            None,
            _REPEATS,
        ),
        "`--json`": (["--json"], None, _REPEATS),
        "`--html`": (["--html", str(folder / "page.html")], None, _REPEATS),
    }
    rows = []
    for what, (flags, prepare, repeats) in cases.items():
        walls, processors = zip(*(timed(folder, flags, prepare) for _ in range(repeats)), strict=True)
        spread = f"{min(walls):.2f}-{max(walls):.2f}" if repeats > 1 else ""
        medians = (f"{statistics.median(seconds):.2f}" for seconds in (processors, walls))
        rows.append([f"{number:,}", what, *medians, spread])
    return rows


def timed(folder, flags, prepare=None):
    """Seconds that the command takes: (of the clock, of a processor)."""
    if prepare:
        prepare()
    started, before = time.perf_counter(), os.times()
    command = [sys.executable, str(PROJECT / "compare.py"), str(folder), *flags]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    wall, after = time.perf_counter() - started, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, used


def make_runs(folder, number, epochs):
    """Write the files of so many runs: three seeds of each setting; one run in 20 has died, one is damaged."""
    choose = random.Random(0)
    base = json.loads((PROJECT / "config.json").read_text())
    for i in range(number):
        name = f"2026{i // 60 // 60 // 24 + 101:04}_{i // 3600 % 24:02}{i // 60 % 60:02}{i % 60:02}"
        models, log = folder / "models" / "Mnist_LeNet" / name, folder / "log" / "Mnist_LeNet" / name
        models.mkdir(parents=True)
        log.mkdir(parents=True)
        settings = random.Random(i // 3)
        args = {"lr": settings.choice((0.1, 0.01, 0.001)) * settings.random(), "weight_decay": settings.random()}
        config = {**base, "seed": i % 3, "optimizer": {"type": settings.choice(("Adam", "SGD")), "args": args}}
        config["trainer"] = {**base["trainer"], "epochs": epochs}
        start = {"started": f"2026-11-01T00:00:{i % 60:02}+00:00", "host": os.uname().nodename, "git_commit": "a" * 40}
        start |= {"command": ["python", "train.py"], "libraries": {"torch": "2.14.1"}, "python": "3.11.7"}
        start |= {} if i % 20 == 0 else {"ended": "2026-11-01T01:00:00+00:00"}
        trained = epochs // 2 if i % 20 == 0 else epochs
        table, lines = [",".join(("epoch", *_LOGGED))], []
        for epoch in range(1, trained + 1):
            values = [choose.random() for _ in _LOGGED]
            table.append(f"{epoch}," + ",".join(map(repr, values)))
            lines.append(
                f"2026-11-01 00:00:00,000 INFO trainer: epoch {epoch}/{epochs}  1.5 s\n    loss {values[0]:.4g}"
            )
        (models / "config.json").write_text(json.dumps(config, indent=4) if i != number - 1 else "{")
        (models / "environment.json").write_text(json.dumps([start], indent=4))
        for file in (".lock", "model_best.pth", f"checkpoint-epoch{trained}.pth"):
            (models / file).touch()
        (log / "metrics.csv").write_text("\r\n".join(table) + "\r\n")
        (log / "info.log").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time compare.py for many runs.")
    parser.add_argument("--runs", type=int, nargs="+", default=[1000, 10000], metavar="N", help="numbers of runs")
    parser.add_argument("--epochs", type=int, default=100, metavar="N", help="epochs of a run")
    given = parser.parse_args()
    main(given.runs, given.epochs)
