"""Train the runs that --folds and --seeds ask for, one after the other, and say what they come to together.

Each is an ordinary run in a process of its own, `python train.py` with the same flags and one of the folds or seeds.
"""

import argparse
import math
import shlex
import signal
import statistics
import subprocess
import sys

from logger import CsvLog
from utils.config.schema import TrainerSettings
from utils.errors import UserError, shown
from utils.json_io import write_json
from utils.runs.checkpoint import newest_run
from utils.runs.run_folder import log_folder_of
from utils.stop_signal import heeded, leave_closed_terminal


def train_series(config):
    """Train config.variants, print a table of their best epochs and write it beside their logs.

    With -r auto the newest series goes on. A run that ends with an error or by a signal ends the series, with its
    exit status.
    """
    settings = TrainerSettings.model_validate(config["trainer"])
    flags, command_again = _other_flags(sys.argv[1:])
    folders = []
    for i, variant in enumerate(config.variants, start=1):
        goes_on = config.resume is not None and has_begun(settings.save_dir, variant.name, config.resume.parent)
        command = [sys.argv[0], *flags, *variant.flags, *(["-r", "auto"] if goes_on else [])]
        print(f"\n{variant.label}, {i} of {len(config.variants)}: python {shlex.join(command)}", flush=True)
        status = _run([sys.executable, *command])
        if status:
            when = "when that is mended, " if status == 2 else ""
            again = f"{when}go on with: python {shlex.join(command_again)}"
            print(f"{variant.label} ended with status {status}; {again}", file=sys.stderr)
            raise SystemExit(status)
        folders.append(newest_run(settings.save_dir, variant.name))
    result = summarize([variant.label for variant in config.variants], folders, settings.monitor)
    path = log_folder_of(folders[0]).parent / f"series-{folders[0].name}.json"
    write_json(result, path)
    table = shown(series_table(result), keep="\n")
    print(f"\n{table}\n\nwritten to {shown(path)}")


def has_begun(save_dir, name, first):
    """Whether the newest run of that name belongs to the series whose first run is in the folder `first`."""
    newest = newest_run(save_dir, name)
    return newest is not None and newest.name >= first.name  # folders are named by when they were made


def summarize(labels, folders, monitor):
    """{"runs": [...], "mean": {...}, "std": {...}} of the values of each run's best epoch, or its last if none is.

    Of the validation values, or of all if there are none; std is that of a sample, with n - 1. folders: of the runs'
    checkpoints. monitor: "min val_loss", or "off".
    """
    runs = []
    for label, folder in zip(labels, folders, strict=True):
        log = CsvLog(log_folder_of(folder) / "metrics.csv")
        row = best_row([_numbers(row) for row in log.rows()], monitor)
        if row is None:
            raise UserError(f"{log.path}: has no epoch with a finite {monitor.partition(' ')[2] or 'value'}")
        runs.append({"run": label, "folder": str(folder), **row})
    keys = [key for key in runs[0] if key not in ("run", "folder", "epoch") and all(key in run for run in runs)]
    keys = [key for key in keys if key.startswith("val_")] or keys
    values = {key: [run[key] for run in runs] for key in keys}
    return {
        "runs": [{key: run[key] for key in ("run", "folder", "epoch", *keys)} for run in runs],
        "mean": {key: statistics.fmean(values[key]) for key in keys},
        "std": {key: statistics.stdev(v) if all(map(math.isfinite, v)) else math.nan for key, v in values.items()},
    }


def best_row(rows, monitor):
    """The row of metrics.csv with the first best value of a monitor, or the last row; None if there is none."""
    mode, _, name = monitor.partition(" ")
    if mode == "off":
        return rows[-1] if rows else None
    rows = [row for row in rows if math.isfinite(row.get(name, math.nan))]
    return (min if mode == "min" else max)(rows, key=lambda row: row[name], default=None)


def series_table(result, width=80):
    """Text of a summary: a line for each run, their mean and their standard deviation; columns that fit the width."""
    lines = [("", "epoch", *result["mean"])]
    lines += [
        (run["run"], f"{run['epoch']:.0f}", *(f"{run[key]:.5g}" for key in result["mean"])) for run in result["runs"]
    ]
    lines += [(name, "", *(f"{value:.5g}" for value in result[key].values())) for name, key in _SUMS.items()]
    columns = [[cell.rjust(max(map(len, column)) + 2) for cell in column] for column in zip(*lines, strict=True)]
    columns[0] = [cell.strip().ljust(len(cell)) for cell in columns[0]]
    blocks, head = [columns[:2]], columns[:2]
    for column in columns[2:]:
        if sum(len(cells[0]) for cells in blocks[-1]) + len(column[0]) > width and len(blocks[-1]) > 2:
            blocks.append(list(head))
        blocks[-1].append(column)
    return "\n\n".join("\n".join("".join(row).rstrip() for row in zip(*block, strict=True)) for block in blocks)


_SUMS = {"mean": "mean", "± std": "std"}


def _numbers(row):
    """The numbers of a row of metrics.csv."""
    numbers = {}
    for key, text in row.items():
        try:
            numbers[key] = float(text)
        except (TypeError, ValueError):
            continue
    return numbers


def _other_flags(arguments):
    """(the flags for each run, the command that goes on with the series)."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for names in (["--folds"], ["--seeds"], ["-r", "--resume"]):
        parser.add_argument(*names)
    given, others = parser.parse_known_args(arguments)
    series = ["--folds", given.folds] if given.folds else ["--seeds", given.seeds]
    return others, [sys.argv[0], *others, *series, "-r", "auto"]


def _run(command):
    """Exit status of a command that shares this one's output and ends; with 128 plus the number if a signal came.

    Ctrl-C reaches both processes from the terminal; other signals are passed on.
    """
    received = []
    process = None

    def handle(number, frame):
        leave_closed_terminal()
        received.append(number)
        if number != signal.SIGINT and process is not None:
            process.send_signal(number)

    before = {number: signal.signal(number, handle) for number in heeded()}
    try:
        process = subprocess.Popen(command)
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if status < 0:
        return 128 - status
    return status or (128 + received[0] if received else 0)
