"""--task table: predict a column of a CSV file from the others."""

import re
import shlex
from collections import Counter
from typing import Any

import numpy as np

from base.data.column_kinds import Kinds, kind_lines, kinds_and_odd
from base.data.local_files import local_file
from base.data.table_file import Table
from base.data.table_format import TableFormat
from scaffold.tasks.looking import (
    choose_split,
    duration_text,
    measures,
    numbers_text,
    require_kind,
    shares,
)
from scaffold.tasks.plan import ABOUT_R_SQUARED, Plan, config_for, loaders_file, room, with_r_squared
from scaffold.tasks.rows import ABOUT, table_net
from scaffold.tasks.table_reading import are_grouped, form_text, read_table, with_marks
from utils.errors import UserError, brief, shortened, shown
from utils.nearest import did_you_mean

_MAX_CATEGORIES = 200  # of a column; more are texts rather than categories
_MAX_LISTED = 100  # columns that the config names one by one
_MAX_LINES = 5  # on columns that are left out
_FEW_NUMBERS = 20  # different whole numbers that are still taken for classes
_STRAY = "; leave the cell empty if it stands for a missing value, remove the row if it holds totals, else correct it"
_IN_ONE_WAY = "; write all numbers of the file in one way, with the same decimal point and thousands separator"
_USUAL_TARGETS = ("target", "label", "class")


def plan(command: str, data: str, target: str | None = None, group: str | None = None, test: str | None = None) -> Plan:
    """Return the plan for a table. target: column to predict. group: column of groups. test: a table to test on."""
    require_kind(data, "table")
    table = read_table(data)
    target = _target(table, target)
    if group is not None:
        table.require_columns([group], "--group")
    others = [target, *([] if group is None else [group])]
    table, missing_marks = with_marks(table, others)
    kinds, left_out = _features(table, others)
    is_class = _is_class(table, target)
    labels = table.texts(target)
    classes, counts = _classes(table, target) if is_class else ([], [])
    split = choose_split(
        len(table),
        data,
        stratify=(target, labels) if is_class and group is None else None,
        groups=None if group is None else (group, _present(table, group)),
        tested=None if test is None else {"test_path": local_file(test, "--test", "the table")},
    )
    gaps, has_gaps = _gaps(table, kinds), False
    if test is not None:
        has_gaps = bool(_gaps(_tested(test, table.form, target, kinds, classes), kinds))
    codes = [len(set(table.texts(column).tolist())) + 1 for column in kinds.categorical]
    out_features = len(classes) if is_class else 1
    arch, optimizer, batch_size, length = table_net(len(split.train), out_features, len(kinds.numeric), codes)
    args, reading = _loader_args(data, target, is_class, kinds, left_out, table.form, has_gaps or bool(gaps))
    args |= {"batch_size": batch_size, **split.args}

    if is_class:
        metrics, monitor, why = measures(len(classes), counts, few=True)
        described = shares(classes, counts)
    else:
        metrics, monitor = [{"type": "RSquared", "name": "R2"}], "min val_loss"
        why = ABOUT_R_SQUARED
        described = numbers_text(_present_numbers(table, target))
    name_of_task = "classification" if is_class else "regression"
    config = config_for(
        f"Predicts the column {target} of a table",
        arch=arch,
        loaders={"data_loader": {"type": "TableDataLoader", "args": args}},
        optimizer=optimizer,
        loss="cross_entropy" if is_class else "torch.nn.MSELoss",
        metrics=metrics,
        length=length,
        monitor=monitor,
        histograms=20,
    )
    choices = {
        "task": f"{name_of_task}, since {target} {_why_class(table, target, is_class)}",
        "features": reading,
        "split": split.text,
        "model": ABOUT,
        "metrics": why,
        "training": duration_text(length, f"with {batch_size} rows in a batch; the learning rate falls to 0"),
    }
    found = [
        f"{len(table):,} rows and {len(table.names):,} columns{form_text(table.form, missing_marks)}",
        f"{target}: {described}",
        *kind_lines(
            {"numeric columns": kinds.numeric, "categorical columns": _with_sizes(kinds.categorical, codes)},
            {},
        ),
        *_left_out_lines(left_out),
        f"missing values: {_gaps_text(gaps)}",
    ]
    rooms = {
        "model/model.py": room("table_model.py"),
        "data_loader/data_loaders.py": loaders_file("TableDataLoader", "base/data/tables.py"),
    }
    if not is_class:
        rooms["model/metric.py"] = with_r_squared()
    return Plan(command, found, choices, config, rooms, shlex.quote(shown(test or data)))


def _target(table: Table, target: str | None) -> str:
    """The column to predict. Raises UserError if it is not there, or not named."""
    if target is None:
        usual = [name for name in table.names if name.lower() in _USUAL_TARGETS]
        if len(usual) != 1:
            listed = shortened(", ".join(table.names))
            raise UserError(f"--target: say which column of {table.place} to predict; there are {listed}")
        target = usual[0]
    if target not in table.names:
        raise UserError(f"--target: {table.place} has no column {brief(target)}{did_you_mean(target, table.names)}")
    table.require_columns([target], "--target")
    return target


def _features(table: Table, others: list[str]) -> tuple[Kinds, dict[str, str]]:
    """The columns to learn from, and {column: why it is left out}."""
    try:
        kinds, left_out = kinds_and_odd(table, others)
    except UserError as error:  # whose remedies are arguments of a config, of which there is none yet
        text = re.sub(r"^(numeric|path): ", "--data: ", str(error))
        text = re.sub(r'; if it stands for a missing value, give "missing".*', _STRAY, text)
        raise UserError(re.sub(r'; (give "|it has a decimal point, but).*', _IN_ONE_WAY, text)) from None
    used: dict[str, list[str]] = {"numeric": [], "categorical": []}
    for kind in used:
        for column in getattr(kinds, kind):
            number = _num_different(table, column, kind)
            if number == 1:
                left_out[column] = "holds a single value"
            elif kind == "numeric" and table.form.thousands and are_grouped(table.texts(column), table.form) is False:
                left_out[column] = (
                    f"holds groups of digits that are no numbers, such as {brief(_first_group(table, column))}"
                )
            elif kind == "categorical" and number > _MAX_CATEGORIES:
                left_out[column] = f"holds {number} different texts"
            else:
                used[kind].append(column)
    seen = {*others, *left_out, *used["numeric"], *used["categorical"]}
    left_out |= {column: "is empty" for column in table.names if column not in seen}
    if not used["numeric"] and not used["categorical"]:
        listed = ", ".join(f"{column} {why}" for column, why in left_out.items())
        raise UserError(f"--data: {table.place} has no column to learn from: {shortened(listed)}")
    return Kinds(**used), left_out


def _num_different(table: Table, column: str, kind: str) -> int:
    """The number of different values: of numbers without missing ones, as these will become one of the others."""
    if kind == "categorical":
        return len(set(table.texts(column).tolist()))
    numbers = table.numbers([column])[:, 0]
    return len(np.unique(numbers[~np.isnan(numbers)]))


def _first_group(table: Table, column: str) -> str:
    return next(text for text in table.texts(column) if str(table.form.thousands) in text)


def _is_class(table: Table, target: str) -> bool:
    """Whether a column holds classes: texts, or a few whole numbers. Raises UserError for some other value."""
    is_number, missing = table.are_numbers(target)
    if is_number.mean() > 0.5:
        remedy = "; correct it, or remove the row; if it is a class, write the others as texts, too"
        table.require(target, is_number | missing, "stands among numbers", remedy)
    if not (is_number | missing).all() or not is_number.any():
        return True
    table.require(target, is_number, "is missing", "; remove the row, or fill in its value")
    numbers = table.numbers([target])[:, 0]
    return bool((numbers % 1 == 0).all()) and len(np.unique(numbers)) <= _FEW_NUMBERS


def _why_class(table: Table, target: str, is_class: bool) -> str:
    if not is_class:
        return "holds numbers"
    are_texts = not table.are_numbers(target)[0].any()
    return "holds texts" if are_texts else f"holds at most {_FEW_NUMBERS} different whole numbers"


def _classes(table: Table, target: str) -> tuple[list[str], list[int]]:
    """(classes, number of rows of each). Raises UserError for one class, and for about as many as there are rows."""
    texts = table.texts(target)
    table.require(target, texts != "", "is missing", "; remove the row, or fill in its class")
    counts = Counter(texts.tolist())
    if len(counts) < 2:
        raise UserError(f"--target: all rows of {table.place} have the same {brief(target)}: {brief(texts[0])}")
    if 2 * len(counts) > len(table):
        raise UserError(
            f"--target: column {brief(target)} of {table.place} holds {len(counts)} different texts in {len(table)} "
            f"rows, such as {brief(texts[0])}; classes need several rows each, and numbers hold nothing else"
        )
    names = sorted(counts)
    return names, [counts[name] for name in names]


def _present(table: Table, column: str) -> np.ndarray:
    texts = table.texts(column)
    table.require(column, texts != "", "is missing", "; each row needs a group")
    return texts


def _present_numbers(table: Table, target: str) -> np.ndarray:
    """The numbers of a target. Raises UserError for rows that lack theirs."""
    numbers = table.numbers([target])[:, 0]
    table.require(target, ~np.isnan(numbers), "is missing", "; remove the row, or fill in its number")
    return numbers


def _tested(path: str, form: TableFormat, target: str, kinds: Kinds, classes: list[str]) -> Table:
    """The table to test on. classes: of the training data; none for a target of numbers. Raises UserError."""
    try:
        table = Table(path, "--test", form)
        table.require_columns([target, *kinds.numeric, *kinds.categorical], "--test")
        table.numbers(kinds.numeric)
    except UserError as error:  # whose remedies are arguments of a config
        remedy = form.as_trained().replace("\\", r"\\")
        raise UserError(re.sub(r"; (give |it has a decimal point, but).*", remedy, str(error))) from None
    if classes:
        table.require(target, np.isin(table.texts(target).astype(str), classes), "is no class of the training data")
    else:
        _present_numbers(table, target)
    return table


def _gaps(table: Table, kinds: Kinds) -> dict[str, int]:
    """{column: number of missing values}, without columns that miss none."""
    gaps = {column: int(table.are_numbers(column)[1].sum()) for column in kinds.numeric}
    gaps |= {column: int((table.texts(column) == "").sum()) for column in kinds.categorical}
    return {column: number for column, number in gaps.items() if number}


def _loader_args(
    data: str,
    target: str,
    is_class: bool,
    kinds: Kinds,
    left_out: dict[str, str],
    form: TableFormat,
    has_gaps: bool,
) -> tuple[dict[str, Any], str]:
    """The arguments of the TableDataLoader, and what to say about the features."""
    task = "classification" if is_class else "regression"
    args: dict[str, Any] = {"path": data, "target": target, "task": task}
    args |= {key: value for key, value in form.arguments().items() if value != TableFormat().arguments()[key]}
    if len(kinds.numeric) + len(kinds.categorical) <= _MAX_LISTED:
        args |= {"numeric": kinds.numeric, "categorical": kinds.categorical}
    elif left_out:
        args["leave_out"] = list(left_out)
    if has_gaps:
        args["fill"] = "median"
    if not is_class:
        args["standardize_target"] = True
    filled = "; missing numbers become the median, and a missing category is one of its own" if has_gaps else ""
    scaled = "numbers are scaled to mean 0 and deviation 1 of the training part"
    return args, f"{scaled}, and each category is a feature of 0 and 1{filled}"


def _left_out_lines(left_out: dict[str, str]) -> list[str]:
    lines = [f"left out: {shown(column)}, which {why}" for column, why in left_out.items()]
    return lines if len(lines) <= _MAX_LINES else [*lines[:_MAX_LINES], f"left out: {len(lines) - _MAX_LINES} more"]


def _with_sizes(columns: list[str], codes: list[int]) -> list[str]:
    return [f"{column} ({number - 1} values)" for column, number in zip(columns, codes, strict=True)]


def _gaps_text(gaps: dict[str, int]) -> str:
    if not gaps:
        return "none"
    listed = ", ".join(f"{number:,} in {column}" for column, number in list(gaps.items())[:5])
    return f"{listed}{f' and some in {len(gaps) - 5} more columns' if len(gaps) > 5 else ''}"
