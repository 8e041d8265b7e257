"""Compare runs: python compare.py shows all runs in saved/, best first; --diff and --same compare two of them."""

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from comparing.choose import columns, names_in, ordered, where
from comparing.rows import Row, grouped, rows_of
from comparing.table import csv_text, default_columns, heading, json_text, labels, notes, table_text
from logger.run_index import read_runs
from utils.distributed.launch import refuse_several
from utils.errors import UserError, clean_exit, in_one_line, shown


def main(given: argparse.Namespace) -> None:
    """Show the runs that were asked for, once, or every few seconds with --watch."""
    while True:
        rows, order = choose(given)
        if given.watch and sys.stdout.isatty():
            print("\x1b[2J\x1b[H", end="")  # clears the screen
        show(rows, order, given)
        if not given.watch:
            return
        sys.stdout.flush()
        time.sleep(given.watch)


def choose(given: argparse.Namespace) -> tuple[list[Row], str]:
    """Return (rows, what their order is) of the runs below the folders, as --where, --runs, --sort and --top ask."""
    runs = read_runs(*given.folders)
    if not runs:
        raise UserError(f"{shown(', '.join(given.folders))}: no runs there; python train.py makes them in saved/")
    rows = where(rows_of(runs), given.where)
    rows, order = ordered(rows if given.runs else grouped(rows), given.sort) if rows else ([], "")
    return rows[: given.top], order


def show(rows: Sequence[Row], order: str, given: argparse.Namespace) -> None:
    """Print the rows as a table, or write them in the form that was asked for."""
    names, further = default_columns(rows)
    if given.columns:
        names, further = list(dict.fromkeys([*labels(rows), *columns(rows, given.columns)])), []
    if given.json:
        print(json_text(rows, order))
    elif given.csv:
        print(csv_text(rows, names), end="")
    elif not rows:
        print("no run meets the conditions")
    elif given.html:
        from comparing.page import write_page

        write_page(given.html, rows, names, order)
        print(shown(given.html))
    elif given.plot:
        from comparing.curves import plot_runs

        plot_runs(given.plot, rows, given.metric)
        print(shown(given.plot))
    else:
        width = shutil.get_terminal_size().columns
        print(shown(heading(rows, order)), table_text(rows, names, width, names_in(rows)), sep="\n\n")
        if lines := notes(rows, further, width, by_best=given.sort is None):
            print("", *lines, sep="\n")


def arguments() -> argparse.Namespace:
    """Return what the command line asks for. Ends the program on errors."""
    parser = argparse.ArgumentParser(description="Compare runs.")
    add = parser.add_argument
    add("folders", nargs="*", metavar="FOLDER", help="where the runs are (saved)")
    add(
        "--where", action="append", default=[], metavar="CONDITION", help="as 'optimizer.args.lr<0.01' or 'name=Mnist*'"
    )
    add("--sort", metavar="NAME", help="value to sort by, best first; or 'min NAME', 'max NAME'")
    add("--top", type=_count, metavar="N", help="show the first N rows")
    add(
        "--columns",
        action="append",
        default=[],
        metavar="NAME,...",
        help="values to show, as 'val_*,optimizer.args.lr'",
    )
    add("--runs", action="store_true", help="show each run of a group that differs in seed or fold alone")
    add("--watch", nargs="?", const=5.0, type=_seconds, metavar="SECONDS", help="show them again every few seconds (5)")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--csv", action="store_true", help="print the table as CSV")
    add("--json", action="store_true", help="print all that is known of the runs as JSON")
    add("--html", type=Path, metavar="FILE", help="write a page with a table that can be sorted")
    add("--plot", type=Path, metavar="FILE", help="draw the curves of --metric into a PNG")
    add("--diff", nargs=2, metavar="RUN", help="how two runs differ: config, environment, code, results")
    add("--same", nargs=2, metavar="RUN", help="whether two runs are the same, bit for bit; exit status 0 or 1")
    parser.add_argument("--metric", metavar="NAME", help="value that --plot draws (the monitored one)")
    given = in_one_line(parser).parse_args()
    given.folders = given.folders or ["saved"]
    if given.metric and not given.plot:
        raise UserError("--metric: needs --plot FILE.png")
    if given.watch and (given.diff or given.same):
        raise UserError("--watch: cannot be combined with --diff or --same")
    return given


def _count(text):
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows from 1 on")
    return int(text)


def _seconds(text):
    if not 0.1 <= float(text) <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 on")
    return float(text)


if __name__ == "__main__":
    with clean_exit():
        refuse_several("compare.py")
        given = arguments()
        if given.same:
            from comparing.same import report_same

            raise SystemExit(0 if report_same(*given.same) else 1)
        if given.diff:
            from comparing.difference import report_differences

            report_differences(given.diff, given.folders)
        else:
            main(given)
