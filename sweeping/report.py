"""The report of a study: a table, the best setting as a config to train, and pictures in one page."""

import base64
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from logger.report.elements import document, escape, section
from sweeping.pictures import draw_all
from sweeping.space import with_settings
from utils.errors import UserError, shown
from utils.files import read_json, write_json, write_whole

_ROWS_ON_SCREEN = 20
_LETTERS = 40  # of a cell
_SEEDS = 5


def write_report(storage: BaseStorage, folder: Path, script: str, as_json: bool = False) -> str:
    """Write sweep.html, its pictures and best.json into the folder; return the text for the screen. Raises UserError.

    folder: of the study, whose name it has. script: what trains. as_json: return the results as a JSON object instead.
    """
    try:
        study = optuna.load_study(study_name=folder.resolve().name, storage=storage)
    except KeyError:
        names = ", ".join(optuna.get_all_study_names(storage)) or "none"
        raise UserError(f"--report {shown(folder.name)}: no such study; there are: {shown(names)}") from None
    trials = ranked(study)
    rows = [described(trial) for trial in trials]
    names = list(study.metric_names or ["value"])
    table = text_table(rows[:_ROWS_ON_SCREEN], names)
    more = f"\nand {len(rows) - _ROWS_ON_SCREEN} more in sweep.html" if len(rows) > _ROWS_ON_SCREEN else ""
    best = next((row for row in rows if row["state"] == "complete"), None)
    folder.mkdir(parents=True, exist_ok=True)
    command = write_best(folder, best["settings"], study.study_name, script) if best else None
    pictures, notes = draw_all(study, folder, names)
    page = folder / "sweep.html"
    write_whole(page_of(study.study_name, rows, names, pictures, notes, command), page)
    if as_json:
        result = {"study": study.study_name, "objectives": names, "best": best, "command": command, "trials": rows}
        return json.dumps({**result, "report": str(page)}, indent=4)
    lines = [f"{table}{more}", ""]
    if best:
        lines.append(f"best    trial {best['trial']}: {_settings_text(best['settings'])}")
        if best["run"]:  # the folder of its logs
            log = Path(best["run"])
            lines.append(f"run     {shown(log.parents[2] / 'models' / log.parent.name / log.name)}")
        lines.append(f"train   {command}")
    return "\n".join([*lines, f"report  {shown(page)}"])


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials, the best first, then those without a result; of several objectives the Pareto front first."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    signs = [1 if direction == optuna.study.StudyDirection.MINIMIZE else -1 for direction in study.directions]
    front = {trial.number for trial in study.best_trials} if len(signs) > 1 and done else set()
    done.sort(key=lambda trial: (trial.number not in front, [s * v for s, v in zip(signs, trial.values, strict=True)]))
    order = (TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL)
    return done + [trial for state in order for trial in trials if trial.state == state]


def described(trial: FrozenTrial) -> dict[str, Any]:
    """Return what the table says of a trial, as plain values."""
    attributes = trial.user_attrs
    row = {"trial": trial.number, "state": trial.state.name.lower().replace("fail", "failed")}
    row |= {"values": list(trial.values) if trial.state == TrialState.COMPLETE else []}
    row |= {key: attributes.get(key) for key in ("std", "epoch", "run", "error")}
    return {**row, "settings": attributes.get("settings", dict(trial.params))}


def text_table(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Return the rows of trials as text, each with its values, or the last line of its failure."""
    lines = [["trial", "state", *names, "epoch", "settings"]]
    for row in rows:
        values = [f"{value:.5g}" for value in row["values"]] or [""] * len(names)
        if row["std"]:
            values = [f"{text} ± {std:.2g}" for text, std in zip(values, row["std"], strict=True)]
        told = row["error"] if row["error"] else _settings_text(row["settings"])
        lines.append([str(row["trial"]), row["state"], *values, str(row["epoch"] or ""), told])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[-1] = 0
    return shown("\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines), keep="\n")


def write_best(folder: Path, settings: dict[str, Any], study: str, script: str) -> str:
    """Write best.json, the job with these settings; return the command that trains it with several seeds."""
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError):
        raise UserError(f"{shown(folder / 'config.json')}: cannot be read, so there is no config to set") from None
    best = folder / "best.json"
    write_json({**with_settings(config, settings), "name": f"{study}-best"}, best)
    return shlex.join(["python", script, "-c", str(best), "--seeds", str(_SEEDS)])


def page_of(
    study: str,
    rows: Sequence[dict[str, Any]],
    names: Sequence[str],
    pictures: dict[str, Path],
    notes: Sequence[str],
    command: str | None,
) -> str:
    """Return the page: one file, with the pictures inside, that asks nothing of any network."""
    keys = list(dict.fromkeys(key for row in rows for key in row["settings"]))
    head = "".join(f"<th scope=col>{escape(text)}</th>" for text in ("trial", "state", *names, "epoch", *keys, "run"))
    body = []
    for row in rows:
        values = [f"{value:.6g}" for value in row["values"]] or [""] * len(names)
        cells = [row["trial"], row["state"], *values, row["epoch"] or ""]
        cells += [json.dumps(row["settings"][key]) if key in row["settings"] else "" for key in keys]
        cells.append(row["error"] or row["run"] or "")
        body.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    trials = f"<table><thead><tr>{head}</tr></thead><tbody>\n{chr(10).join(body)}\n</tbody></table>"
    train = f"<p>Train the best setting: <code>{escape(command)}</code></p>" if command else ""
    images = [section(title, _image(title, path)) for title, path in pictures.items()]
    told = "\n".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    table = section("Trials", f'<div class="scroll">{trials}</div>')
    return document(study, [f"<h1>{escape(study)}</h1>", train, *images, told, table])


def _image(title, path):
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">'


def _settings_text(settings):
    return ", ".join(f"{key}={_short(value)}" for key, value in settings.items())


def _short(value):
    text = f"{value:.5g}" if isinstance(value, float) else json.dumps(value)
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 4]} ..."
