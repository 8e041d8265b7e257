"""The flag --json of train.py and test.py: the result as one JSON object, or with --check the errors of the config."""

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from utils.distributed.launch import is_main
from utils.errors import EndedByError, clean_exit
from utils.files import without_nan

Show = Callable[[dict[str, Any]], None]
"""Prints an object on a line of standard output; does nothing if --json was not given."""


@contextlib.contextmanager
def json_flag(parser: argparse.ArgumentParser, alone: bool = False) -> Iterator[Show | None]:
    """Give the parser a flag --json, and yield what prints the command's result; None without the flag.

    With --check, the context itself prints {"errors": [...]}, and nothing else goes to standard output.

    alone: what else is printed goes to standard error.
    """
    text = "print the result as a JSON object on the last line; with --check, the errors"
    parser.add_argument("--json", action="store_true", dest="_json", help=text)
    asked, checks = _asked(parser)
    if not asked:
        yield None
        return
    stdout = sys.stdout

    def show(value):
        if is_main():
            with contextlib.redirect_stdout(stdout), clean_exit():
                print(json.dumps(without_nan(value)), flush=True)

    with contextlib.redirect_stdout(sys.stderr if alone or checks else stdout):
        try:
            yield show
        except EndedByError as end:
            if checks:
                show({"errors": [error_object(line) for line in end.text.split("\n")]})
            raise
        except SystemExit as end:
            if checks and not end.code:
                show({"errors": []})
            raise
    if checks:  # the data too
        show({"errors": []})


def _asked(parser):
    """(whether the command line asks for JSON, whether --check comes with it), known before all flags of it are."""
    named = argparse.ArgumentParser(add_help=False, allow_abbrev=parser.allow_abbrev)
    for flag in ("--json", "--check", "--print-config", "--help", "-h"):
        named.add_argument(flag, action="store_true")
    given, _ = named.parse_known_args()
    return given.json and not (given.print_config or given.help or given.h), given.check


_GOT = re.compile(r"got (.+?); it should (?:be )?(.+)")
_MEANT = re.compile(r".*; did you mean (['\"])(.+)\1\?")


def error_object(line: str) -> dict[str, str | None]:
    """Return a line of a UserError as {"path", "given", "wanted", "message"}, None for what the line does not tell.

    path: what the line is about: a key of the config, a flag or a file. given: the value, as Python shows it. wanted:
    what it should be, or the name that was meant. message: the line after the path.
    """
    path, told, message = line.partition(": ")
    if not told:
        path, message = None, line
    got, meant = _GOT.fullmatch(message), _MEANT.fullmatch(message)
    wanted = got[2] if got else meant[2] if meant else None
    return {"path": path, "given": got[1] if got else None, "wanted": wanted, "message": message}
