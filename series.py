"""Train the runs that --folds and --seeds ask for, one after another, and summarize their results.

Each is an ordinary run in a process of its own: `python train.py` with the same flags and one of the folds or seeds.
"""

import argparse
import math
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logger import CsvLog
from logger.csv_log import best_row
from utils.errors import UserError, shown
from utils.files import write_json
from utils.runs.checkpoint import newest_run
from utils.runs.run_folder import make_log_folder
from utils.stop_signal import heeded, leave_closed_terminal

if TYPE_CHECKING:
    from parse_config import ConfigParser
    from utils.config.json_flag import Show


def train_series(config: "ConfigParser", show: "Show | None" = None) -> None:
    """Train config.variants, print a table of their best epochs, and write it beside their logs.

    With -r auto, the newest series is resumed. A run that ends with an error or by a signal ends the series with its
    exit status.

    show: called with the result and its file at the end.
    """
    from utils.config.schema import TrainerSettings  # with pydantic, for which --help need not wait

    settings = TrainerSettings.model_validate(config["trainer"])
    flags, resume_command = _other_flags(sys.argv[1:])
    folders = []
    for i, variant in enumerate(config.variants, start=1):
        begun = config.resume is not None and has_begun(settings.save_dir, variant.name, config.resume.parent)
        command = [sys.argv[0], *flags, *variant.flags, *(["-r", "auto"] if begun else [])]
        print(f"\n{variant.label}, {i} of {len(config.variants)}: python {shlex.join(command)}", flush=True)
        status = _run([sys.executable, *command])
        if status:
            when = "once that is fixed, " if status == 2 else ""
            resume = f"{when}resume with: python {shlex.join(resume_command)}"
            print(f"{variant.label} ended with status {status}; {resume}", file=sys.stderr)
            raise SystemExit(status)
        folders.append(newest_run(settings.save_dir, variant.name))
    result = summarize([variant.label for variant in config.variants], folders, settings.monitor)
    path = make_log_folder(folders[0]).parent / f"series-{folders[0].name}.json"
    write_json(result, path)
    table = shown(series_table(result), keep="\n")
    print(f"\n{table}\n\nwritten to {shown(path)}")
    if show:
        show({**result, "file": str(path)})


def has_begun(save_dir: str | Path, name: str, first: Path) -> bool:
    """Return whether the newest run of that name belongs to the series whose first run is in the folder `first`."""
    newest = newest_run(save_dir, name)
    return newest is not None and newest.name >= first.name  # folders are named by the time when they were made


def summarize(labels: Sequence[str], folders: Sequence[Path], monitor: str) -> dict[str, Any]:
    """Return {"runs": [...], "mean": {...}, "std": {...}} of the values of each run's best epoch.

    These are the validation values, or all values if there are none; std is that of a sample, with n - 1.

    labels: names of the runs.
    folders: folders of their checkpoints.
    monitor: "min val_loss" or the like; with "off", the last epoch is taken instead of the best.
    """
    runs = []
    for label, folder in zip(labels, folders, strict=True):
        log = CsvLog(make_log_folder(folder) / "metrics.csv")
        row = best_row(log.numbers(), monitor)
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


def series_table(result: dict[str, Any], width: int = 80) -> str:
    """Return a summary as text: a line for each run, their mean and std; wide tables are split into blocks."""
    names = list(result["mean"])
    lines = [["", "epoch", *names]]
    lines += [[run["run"], f"{run['epoch']:.0f}", *(f"{run[name]:.5g}" for name in names)] for run in result["runs"]]
    for label, key in (("mean", "mean"), ("± std", "std")):
        lines.append([label, "", *(f"{result[key][name]:.5g}" for name in names)])
    columns = [[cell.rjust(max(map(len, column)) + 2) for cell in column] for column in zip(*lines, strict=True)]
    columns[0] = [cell.strip().ljust(len(cell)) for cell in columns[0]]
    blocks = [columns[:2]]
    for column in columns[2:]:
        if sum(len(cells[0]) for cells in blocks[-1]) + len(column[0]) > width and len(blocks[-1]) > 2:
            blocks.append(columns[:2])
        blocks[-1].append(column)
    return "\n\n".join("\n".join("".join(row).rstrip() for row in zip(*block, strict=True)) for block in blocks)


def _other_flags(arguments):
    """(the flags for each run, the command that resumes the series)."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for names in (["--folds"], ["--seeds"], ["-r", "--resume"]):
        parser.add_argument(*names)
    parser.add_argument("--json", action="store_true")  # of the series, not of each run
    given, others = parser.parse_known_args(arguments)
    series = ["--folds", given.folds] if given.folds else ["--seeds", given.seeds]
    return others, [sys.argv[0], *others, *series, *(["--json"] if given.json else []), "-r", "auto"]


def _run(command):
    """Exit status of a command that is run with this one's output; 128 plus the number of a signal that ended it.

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
