"""The files of a run, each read once, when it is first asked for. Nothing here needs torch."""

import math
import os
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logger.csv_log import CsvLog
from logger.pace import read_pace
from utils.errors import UserError
from utils.files import read_beside, read_json_beside
from utils.runs.environment import changes_file
from utils.runs.run_folder import log_folder

if TYPE_CHECKING:
    from logger.details import TestDetails

RESULTS_FILE = "test_results.json"  # of test.py
MOST_SHOWN = 150_000  # characters of a text
_OLD_VALUE = re.compile(r" - INFO - +(\S+) *: (\S+)$", re.MULTILINE)


class RunFiles:
    """What the files of a run hold; what is not there or damaged is empty.

    problems: a line for each file that could not be read, of those that have been asked for.
    """

    def __init__(self, save_dir: str | Path, log_dir: Path | None = None) -> None:
        """save_dir: folder of the checkpoints. log_dir: by default the one that belongs to it."""
        self.save_dir = Path(save_dir)
        self.log_dir = log_dir or log_folder(save_dir)
        self.problems: list[str] = []

    @cached_property
    def config(self) -> dict[str, Any]:
        """The run's config; a problem if it is not there."""
        return self._read("config.json", dict, required=True)

    @cached_property
    def starts(self) -> list[dict[str, Any]]:
        """What environment.json says of each start of the run."""
        return [start for start in self._read("environment.json", list) if isinstance(start, dict)]

    @property
    def start(self) -> dict[str, Any]:
        """The last start; {} if none is known."""
        return self.starts[-1] if self.starts else {}

    @cached_property
    def results(self) -> list[tuple[str, str, dict[str, Any]]]:
        """[(checkpoint, split, result), ...] of test.py."""
        return [
            (name, split, result)
            for name, splits in self._read(RESULTS_FILE, dict).items()
            if isinstance(splits, dict)
            for split, result in splits.items()
            if isinstance(result, dict)
        ]

    @cached_property
    def details(self) -> "TestDetails | None":
        """What the last test found beyond the averages."""
        from logger.details import load_details

        return self._or_problem(lambda: load_details(self.log_dir), None)

    @cached_property
    def rows(self) -> dict[int, dict[str, str]]:
        """{epoch: {name: text}} of metrics.csv, in the order of epochs; of a run of the old template, of info.log."""
        table = CsvLog(self.log_dir / "metrics.csv")
        rows = self._or_problem(table.rows_of_epochs, None)
        if rows == []:
            rows = _old_rows(self.log)
        return dict(sorted(dict(rows or ()).items()))  # the last of those that a resumed run repeats

    def columns(self) -> dict[str, list[float]]:
        """Return {name: a number for each of the rows, nan where there is none}."""
        names = dict.fromkeys(name for row in self.rows.values() for name in row if name != "epoch")
        return {name: [_number(row.get(name)) for row in self.rows.values()] for name in names}

    @cached_property
    def pace(self) -> dict[int, tuple[float, int]]:
        """{epoch: (seconds, batches)} of the epochs that have a row."""
        return {epoch: pace for epoch, pace in read_pace(self.log_dir).items() if epoch in self.rows}

    @cached_property
    def log(self) -> str:
        """The text of info.log, and of the ones before it that were full."""
        texts = []
        for name in sorted(self.names_in(self.log_dir), reverse=True):  # info.log.2 is older than info.log.1
            if re.fullmatch(r"info\.log(\.\d)?", name):
                try:
                    texts.append(read_beside(self.log_dir / name, errors="replace"))
                except OSError as error:
                    self.problems.append(f"{name}: cannot be read: {error.strerror or error}")
        return "".join(texts)

    def names_in(self, folder: Path) -> list[str]:
        """Return the names in one of the folders; [] if it is not there."""
        try:
            return os.listdir(folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            self.problems.append(f"{folder}: cannot be listed: {error.strerror or error}")
            return []

    @property
    def model(self) -> str:
        """The beginning of model.txt."""
        return self._text("model.txt")

    @property
    def changes(self) -> str:
        """The beginning of the changes that were not committed at the last start."""
        name = changes_file(self.start)
        return self._text(name) if name else ""

    def _read(self, name, kind, required=False):
        """The content of a JSON file beside the checkpoints, if it is of a kind."""
        try:
            content = read_json_beside(self.save_dir / name)
            if isinstance(content, kind):
                return content
            self.problems.append(f"{name}: holds no {'object' if kind is dict else 'list'}")
        except FileNotFoundError:
            if required:
                self.problems.append(f"{name}: is not there")
        except OSError as error:
            self.problems.append(f"{name}: cannot be read: {error.strerror or error}")
        except ValueError as error:
            self.problems.append(f"{name}: is not JSON: {error}")
        return kind()

    def _or_problem(self, read, without):
        try:
            return read()
        except UserError as error:
            self.problems.append(str(error))
            return without

    def _text(self, name):
        path = self.log_dir / name
        try:
            if not path.is_file():
                return ""
            with open(path, "rb") as file:
                text = file.read(MOST_SHOWN + 1).decode("utf-8", "replace")
        except OSError:
            return ""
        return shortened_to(text, name)


def shortened_to(text: str, name: str) -> str:
    """Return the text, or its beginning and where the rest is, if it is long."""
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}\n... the rest is in {name}"


def _old_rows(log):
    """[(epoch, {name: text}), ...] of what the old template logged."""
    rows = []
    for name, text in _OLD_VALUE.findall(log):
        if name == "epoch":
            rows.append({})
        if rows:
            rows[-1][name] = text
    epochs = [_number(row["epoch"]) for row in rows]
    return [(int(epoch), row) for epoch, row in zip(epochs, rows, strict=True) if 0 <= epoch < 2**53]


def _number(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan
