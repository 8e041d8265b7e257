"""What sweep.py starts in tests: obeys train.py's flags and signals, and keeps a run's files, but trains in no time.

The config's section "stub" says what happens: x (the setting), mode, epoch_seconds. It saves after each epoch, and
its values are a function of all epochs before, so that a run that has lost one comes to other numbers.
"""

import argparse
import functools
import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from logger.csv_log import CsvLog
from utils.config.files import parse_assignment
from utils.errors import UserError, clean_exit
from utils.files import read_json, write_json
from utils.runs.checkpoint import newest_run
from utils.runs.run_folder import RunLock, claim_run_folder, make_log_folder
from utils.stop_signal import StopSignal


def train(config):
    stub, save_dir = config["stub"], Path(config["trainer"]["save_dir"])
    folder = newest_run(save_dir, config["name"]) or claim_run_folder(save_dir, config["name"])
    lock = RunLock(folder)
    write_json([{"started": "now", "pid": os.getpid()}], folder / "environment.json")
    table = CsvLog(make_log_folder(folder) / "metrics.csv")
    saved = sorted(folder.glob("*.pth"))
    epoch, value = read_json(saved[-1]) if saved else (0, stub["x"] + config["seed"] % 7)
    (table.path.parent / "info.log").write_text("trainer: Net: 1,234 parameters\n")
    with StopSignal() as stop:
        while epoch < config["trainer"]["epochs"]:
            if stop.asks():
                stop.end()
            time.sleep(stub["epoch_seconds"])
            epoch, value = epoch + 1, 0.9 * value + stub["x"] / 3
            misbehave(stub["mode"], epoch, folder)
            write_json([epoch, value], folder / f"checkpoint-epoch{epoch:04}.pth")
            logged = float("nan") if stub["mode"] == "nan" else -abs(value - 0.5)
            table.append({"epoch": epoch, "other" if stub["mode"] == "unlogged" else "val_accuracy": logged})
    write_json([{"started": "now", "ended": "now"}], folder / "environment.json")
    del lock


def misbehave(mode, epoch, folder):
    if mode == "error" and epoch == 2:
        raise UserError(f"loss: nan in batch {int(time.time())} of epoch {epoch}")
    if mode == "full":
        raise UserError(f"{folder}: cannot save the checkpoint: {os.strerror(28)}; the file before it is untouched")
    if mode == "crash" or (mode == "killed once" and epoch == 2 and not (folder / "killed").exists()):
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", dest="config")
    parser.add_argument("-r", dest="resume", choices=["auto"])
    parser.add_argument("-d", dest="device")
    parser.add_argument("--set", action="append")
    given = parser.parse_args()
    with clean_exit():
        config = {"seed": 123, **json.loads(Path(given.config).read_text())}
        for path, value in map(parse_assignment, given.set):  # what train.py does that with is slow to import
            *parents, last = path.split(".")
            functools.reduce(dict.__getitem__, parents, config)[last] = value
        train(config)
