"""What --where, --sort and --columns ask for: names of values, conditions on them, and an order."""

import fnmatch
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from comparing.rows import Row, Spread, as_text
from utils.errors import UserError, shown
from utils.nearest import nearest

_CONDITION = re.compile(r"\s*([^<>=!\s]+)\s*(<=|>=|!=|==|=|<|>)\s*(.*?)\s*", re.DOTALL)
_HIGH_IS_GOOD = {"acc", "accuracy", "auc", "bleu", "dice", "f1", "iou", "precision", "psnr", "r2", "recall", "score"}


def names_in(rows: Iterable[Row]) -> list[str]:
    """Return the names of all values that one of the rows has."""
    known: dict[str, Any] = {}
    for row in rows:
        known.update(row.cells)
    return list(known)


def full_name(name: str, known: Sequence[str], flag: str) -> str:
    """Return the known name that is meant: the name itself, or the only one that ends with it after a dot."""
    if name in known:
        return name
    ending = [other for other in known if other.endswith(f".{name}")]
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise UserError(f"{flag} {shown(name)}: may be {' or '.join(map(shown, ending))}; give one of them")
    raise UserError(f"{flag} {shown(name)}: no run has such a value{_nearest(name, known)}")


def _nearest(name, known):
    last_words = {other.rpartition(".")[2]: other for other in known}
    close = nearest(name, [*last_words, *known], cutoff=0.6)
    meant = close if close in known else last_words.get(close)
    return f"; did you mean {meant!r}?" if meant else "; --json shows which there are"


def short_names(names: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Return {name: its shortest ending after a dot that full_name knows}."""
    endings: dict[str, int] = {}
    for name in dict.fromkeys([*known, *names]):
        parts = name.split(".")
        for i in range(1, len(parts)):
            ending = ".".join(parts[i:])
            endings[ending] = endings.get(ending, 0) + 1
    taken, short = set(known), {}
    for name in names:
        parts = name.split(".")
        candidates = (".".join(parts[i:]) for i in range(len(parts) - 1, 0, -1))
        short[name] = next((text for text in candidates if endings[text] == 1 and text not in taken), name)
    return short


# ---- --where


def where(rows: Sequence[Row], conditions: Iterable[str]) -> list[Row]:
    """Return the rows that meet all conditions, each as "optimizer.args.lr<0.01" or "name=Mnist*".

    A text is compared with `=` as a shell pattern, with `<` by the order of letters, as dates are. A value that a run
    does not have is null. Raises UserError for a name that no run has, and for a comparison that fits no run.
    """
    known = names_in(rows)
    left = list(rows)
    for text in conditions:
        found = _CONDITION.fullmatch(text)
        if not found:
            example = "give a name, one of = != < <= > >= and a value, as in 'optimizer.args.lr<0.01'"
            raise UserError(f"--where {shown(text)}: {example}")
        name, sign, value = full_name(found[1], known, "--where"), found[2], _parsed(found[3])
        if sign in ("=", "==", "!="):
            left = [row for row in left if _equal(row.cells.get(name), value, found[3]) != (sign == "!=")]
            continue
        kind = str if isinstance(value, str) else float
        given = [row.cells.get(name) for row in rows if row.cells.get(name) is not None]
        if not given:
            raise UserError(f"--where {shown(text)}: no run has a value of {name}")
        if isinstance(value, (list, dict, bool)) or not found[3] or not any(_is(item, kind) for item in given):
            what = f"{name} is {'a number' if any(_is(item, float) for item in given) else 'a text'}"
            raise UserError(f"--where {shown(text)}: cannot compare; {what}, as in {shown(as_text(given[0]))}")
        left = [row for row in left if _is(item := row.cells.get(name), kind) and _holds(item, sign, value)]
    return left


def _parsed(text):
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _is(value, kind):
    return isinstance(value, str) if kind is str else type(value) in (int, float)


def _equal(value, wanted, text):
    if _is(value, float) and _is(wanted, float):
        return value == wanted
    return fnmatch.fnmatchcase(as_text(value), text) or as_text(value) == as_text(wanted)


def _holds(value, sign, wanted):
    return {"<": value < wanted, "<=": value <= wanted, ">": value > wanted, ">=": value >= wanted}[sign]


# ---- --sort, --columns


def ordered(rows: Sequence[Row], by: str | None) -> tuple[list[Row], str]:
    """Return (the rows in order, what the order is, for people).

    by: a name, best first for what was logged and else smallest first; or "min <name>", "max <name>". None sorts by the
        best value if all runs monitor the same, else by name and run. Rows without the value are last.

    Raises UserError for a name that no run has.
    """
    monitors = {row.cells.get("monitor") for row in rows if row.cells.get("best") is not None}
    common = monitors.pop() if len(monitors) == 1 else None
    if by is None:
        if common is None:
            return sorted(rows, key=lambda row: (row.cells["name"], row.cells["run"])), "by name"
        by = "best"
    mode, _, name = by.partition(" ") if by.startswith(("min ", "max ")) else ("", "", by)
    name = full_name(name.strip(), names_in(rows), "--sort")
    mode = mode or _best_first(name, rows)
    keys = [(key, row) for row in rows if (key := _sortable(row.cells.get(name))) is not None]
    in_order = [row for _, row in sorted(keys, key=lambda pair: pair[0], reverse=mode == "max")]
    without = [row for row in rows if _sortable(row.cells.get(name)) is None]
    label = f"best {common.partition(' ')[2]}" if name == "best" and common else name
    return in_order + without, f"by {label}, {'largest' if mode == 'max' else 'smallest'} first"


def _best_first(name, rows):
    """ "max" or "min": which of a value is best, where a run monitors it or its name says so; "min" otherwise."""
    plain = name.removeprefix("test_").removeprefix("val_")
    for row in rows:
        mode, _, monitored = str(row.cells.get("monitor")).partition(" ")
        watched = row.cells.get("best") is not None if name == "best" else monitored.removeprefix("val_") == plain
        if watched and mode in ("min", "max"):
            return mode
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+\d*|[A-Z]+\d*", plain)}
    return "max" if _HIGH_IS_GOOD & words else "min"


def _sortable(value):
    """A key by which numbers come before texts; None for no value, which includes nan."""
    value = value.mean if isinstance(value, Spread) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return (0, value, "") if _is(value, float) else (1, 0, as_text(value))


def columns(rows: Sequence[Row], asked: Iterable[str]) -> list[str]:
    """Return the names that --columns asks for: names and shell patterns, separated by commas. Raises UserError."""
    known = names_in(rows)
    chosen: dict[str, Any] = {}
    for name in (word.strip() for text in asked for word in text.split(",")):
        matching = fnmatch.filter(known, name) if "*" in name else [full_name(name, known, "--columns")]
        if not matching:
            raise UserError(f"--columns {shown(name)}: no run has such a value; --json shows which there are")
        chosen |= dict.fromkeys(matching)
    return list(chosen)
