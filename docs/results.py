"""Repeat a row of docs/results.md: make results ROW=mnist_lenet [SEEDS=5]. It trains each seed, and tests each run."""

import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
# | `name` | `python train.py ...` | ...
ROW = re.compile(r"^\| `(\w+)` \| `python (train\.py [^`]+)` \|", re.M)


def main(name="", seeds="5"):
    """Train the row's command with that many seeds, test each run, and print the mean and the deviation."""
    rows = commands()
    if name not in rows:
        refuse(f"ROW: got {name!r}; give one of {', '.join(rows)}")
    if not re.fullmatch(r"[1-9]\d*", seeds):
        refuse(f"SEEDS: got {seeds!r}; give a number of seeds, 1 or more")
    start = processor_seconds()
    trained = ours(*shlex.split(rows[name]), *(["--seeds", seeds] if seeds != "1" else []))
    runs = trained["runs"] if seeds != "1" else [trained]
    seconds = (processor_seconds() - start) / len(runs)
    tests = [test(Path(run["folder"])) for run in runs]
    print(f"\n{name}: {len(tests)} seed{'s' * (len(tests) > 1)}, {seconds:.0f} s of processor time to train each")
    for key in tests[0]:
        print(f"{key}: {summary([result[key] for result in tests])}")
    print(f"\nfor docs/results.md:\n{row_of_page(name, tests, seconds)}")


def commands():
    """The command of each row of the page, {name: "train.py ..."}."""
    return dict(ROW.findall((DOCS / "results.md").read_text()))


def processor_seconds():
    """The processor time of all commands that have ended, on all threads."""
    times = os.times()
    return times.children_user + times.children_system


def test(run):
    """The values that test.py measures of the best model of a run, or of its last one if it keeps no best."""
    best = run / "model_best.pth"
    return ours("test.py", "-r", str(best if best.exists() else run))["values"]


def summary(values):
    """The mean of the values, their standard deviation (of a sample, n - 1), and the values; one value as it is."""
    if len(values) == 1:
        return f"{values[0]:.4f}"
    listed = ", ".join(f"{value:.4f}" for value in values)
    return f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f} ({listed})"


def row_of_page(name, tests, seconds):
    """The row of the page with these results: rounded as the published value, and to a tenth of a percent at least."""
    line = next(line for line in (DOCS / "results.md").read_text().splitlines() if line.startswith(f"| `{name}` |"))
    cells = line.split(" | ")
    key = next(key for key in tests[0] if key != "loss")
    factor = 100 if key == "accuracy" else 1
    values = [factor * result[key] for result in tests]
    _, _, decimals = cells[2].split()[0].partition(".")
    places = max(1, len(decimals))
    measured = f"{statistics.fmean(values):.{places}f}"
    if len(values) > 1:
        measured += f" ± {statistics.stdev(values):.{places}f}"
    time = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return " | ".join([*cells[:3], measured, str(len(values)), f"{time} |"])


def ours(*words):
    """Run a command of the project with --json, and return the object in its last line of output."""
    print("$ python", shlex.join(words), flush=True)
    with subprocess.Popen(
        [sys.executable, *words, "--json"], cwd=DOCS.parent, stdout=subprocess.PIPE, text=True
    ) as run:
        line = ""
        for line in run.stdout:
            if not line.startswith("{"):
                print(line, end="", flush=True)
    if run.returncode:
        sys.exit(run.returncode)
    return json.loads(line)


def refuse(message):
    """End with an error."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:  # the command that was running has ended by it, too
        sys.exit(130)
