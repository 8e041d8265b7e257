"""How two runs differ: in config, data, environment, code and results."""

import hashlib
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from logger.run_index import read_runs
from logger.run_summary import RunSummary
from utils.errors import UserError, shown
from utils.files import differences, read_beside
from utils.nearest import did_you_mean
from utils.runs.environment import changes_file
from utils.runs.run_folder import log_folder

_PROJECT = Path(__file__).resolve().parents[1]
_UNSAVED = "not saved"
_MOST_LINES = 20  # of the commits between two runs


def report_differences(names: Sequence[str], folders: Sequence[str]) -> None:
    """Print a word on config, data, environment, code and results of two runs, and what differs as "one -> other".

    names: of the two: folders of runs, log folders, checkpoints, or names of runs below the folders. Raises UserError
        for others.
    """
    runs = [find_run(text, folders) for text in names]
    for letter, run in zip("AB", runs, strict=True):
        print(shown(f"{letter}  {run.folder}  {run.state}{f': {run.reason}' if run.reason else ''}"))
    parts = {"config": _config, "data": _data, "environment": _environment, "code": _code, "results": _results}
    for part, describe in parts.items():
        before, after = map(describe, runs)
        lines = differences(before, after) if before and after else []
        if part == "code":
            lines += _between(runs)
        unknown = [letter for letter, known in (("A", before), ("B", after)) if not known or _UNSAVED in known.values()]
        doubt = f"unknown; not all of it is saved for {' and '.join(unknown)}" if unknown else "the same"
        word = "differs" if lines else doubt
        print(f"\n{part}: {word}", *(f"    {shown(line)}" for line in lines), sep="\n")


def find_run(text: str, folders: Sequence[str]) -> RunSummary:
    """Return the run whose folder, log folder, checkpoint or name the text is. Raises UserError."""
    if os.path.exists(text):
        found = read_runs(os.path.dirname(os.path.abspath(text)) if os.path.isfile(text) else text)
        if len(found) == 1:
            return found[0]
        raise UserError(
            f"{shown(text)}: {f'holds {len(found)} runs' if found else 'is not a run'}; give the folder of one"
        )
    runs = read_runs(*folders)
    found = [run for run in runs if text in (run.run, f"{run.name}/{run.run}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{shown(text)}: may be {' or '.join(shown(run.folder) for run in found)}; give one of them")
    raise UserError(f"{shown(text)}: no such run{did_you_mean(text, [run.run for run in runs])}")


def _config(run):
    return {key: value for key, value in run.config.items() if key != "trainer.save_dir"}


def _data(run):
    """Number, fingerprint and part of the training samples; the fingerprint of others, or in another order, differs."""
    return run.environment.get("data", {})


def _environment(run):
    keys = ("host", "platform", "python", "threads", "libraries", "command")
    return {key: value for key in keys if (value := run.environment.get(key)) is not None}


def _results(run):
    best = {} if run.best is None else {"best": {run.monitor: run.best, "epoch": run.best_epoch}}
    values = {"values": run.values} if run.values else {}
    done = {"state": run.state, "epochs": run.epoch}
    tested = {"test": {"checkpoint": run.test_checkpoint, "epoch": run.test_epoch, **run.test}} if run.test else {}
    return done | best | values | tested


# ---- code


def _code(run):
    """{what: text} of the code of a run: its commit, and each file with uncommitted changes."""
    commit = run.environment.get("git_commit")
    if not commit:
        return {}
    return {"commit": commit, "uncommitted changes": _uncommitted(run)}


def _uncommitted(run):
    """{file: size and checksum of its changes}; a text if there are none, or none were saved."""
    if not run.environment.get("git_dirty"):
        return "none"
    name = changes_file(run.environment)
    if name is None:
        return _UNSAVED
    try:
        text = read_beside(log_folder(run.folder) / name, errors="replace")
    except (OSError, ValueError):
        return _UNSAVED
    parts = re.split(r"^diff --git ", text, flags=re.MULTILINE)[1:]
    changes = {}
    for part in parts:
        added, removed = (len(re.findall(rf"^\{sign}(?!\{sign}\{sign} )", part, re.MULTILINE)) for sign in "+-")
        name = part.partition("\n")[0].rpartition(" b/")[2]
        changes[name] = f"+{added} -{removed}, {hashlib.sha256(part.encode()).hexdigest()[:8]}"
    return changes


def _between(runs):
    """Lines on the commits between the commits of two runs, if this repository has both."""
    one, other = (str(run.environment.get("git_commit")) for run in runs)
    if one == other or not all(re.fullmatch("[0-9a-f]{7,64}", commit) for commit in (one, other)):
        return []
    size = _git("diff", "--shortstat", one, other, "--")
    commits = [f"+ {line}" for line in _git("log", "--oneline", f"{one}..{other}", "--")]
    commits += [f"- {line}" for line in _git("log", "--oneline", f"{other}..{one}", "--")]
    more = [f"... and {len(commits) - _MOST_LINES} more"] if len(commits) > _MOST_LINES else []
    return [*size, *commits[:_MOST_LINES], *more]


def _git(*arguments):
    """Lines that a git command prints in the project's folder; [] if it fails, as without git."""
    try:
        command = ["git", *arguments]
        done = subprocess.run(
            command, cwd=_PROJECT, capture_output=True, encoding="utf-8", errors="replace", timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines()] if done.returncode == 0 else []
