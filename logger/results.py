"""The values that test.py has measured: a line for each in the log, and test_results.json beside the checkpoint."""

import logging
from pathlib import Path
from typing import Any

from logger.run_files import RESULTS_FILE
from logger.tables import table_text
from utils.errors import UserError, quantity, shown
from utils.files import read_record, write_json

_POSITION = ("epoch", "batch", "samples")


def record_result(
    checkpoint: Path, split: str, result: dict[str, Any], classes: list | None, logger: logging.Logger
) -> None:
    """Log a result, and add it to test_results.json beside the checkpoint: {checkpoint: {split: result}}.

    result: epoch (perhaps None), batch (of a checkpoint within an epoch), samples, and the values and tables by name.
    classes: names of the classes, for the tables.
    """
    path = checkpoint.parent / RESULTS_FILE
    place = "" if result["epoch"] is None else f", epoch {result['epoch']}"
    within = f" and {quantity(result['batch'], 'batch')}" if "batch" in result else ""
    logger.info("%s%s%s, on %s", checkpoint, place, within, quantity(result["samples"], f"{split} sample"))
    for name, value in result.items():
        if isinstance(value, list):
            logger.info("    %s, a row for each target:\n%s", name, table_text(value, classes))
        elif name not in _POSITION:
            logger.info("    %s: %s", name, f"{value:.6g}" if isinstance(value, (int, float)) else value)
    try:
        results, damaged = read_record(path, _are_results, empty={})
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot read the earlier results: {error.strerror}") from None
    results.setdefault(checkpoint.name, {})[split] = result
    write_json(results, path)
    if damaged:
        logger.warning("%s is damaged and was moved to %s", path, damaged)
    logger.info("written to %s", path)


def as_object(checkpoint: Path, split: str, result: dict[str, Any]) -> dict[str, Any]:
    """Return a result as test.py --json prints it: numbers are in "values", and tables in "tables"."""
    measured = {name: value for name, value in result.items() if name not in _POSITION}
    return {
        "checkpoint": str(checkpoint),
        "epoch": result["epoch"],
        "batch": result.get("batch", 0),
        "split": split,
        "samples": result["samples"],
        "values": {name: value for name, value in measured.items() if not isinstance(value, list)},
        "tables": {name: value for name, value in measured.items() if isinstance(value, list)},
    }


def _are_results(content):
    if not isinstance(content, dict) or not all(isinstance(splits, dict) for splits in content.values()):
        return False
    return all(isinstance(result, dict) for splits in content.values() for result in splits.values())
