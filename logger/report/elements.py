"""The HTML that reports are made of. All texts are escaped here, and a page's policy lets nothing run or be loaded."""

import html
import itertools
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.errors import shown

_STYLE = Path(__file__).with_name("style.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def document(title: str, sections: Iterable[str]) -> str:
    """Return a page as one HTML file that needs no network. sections: HTML; empty ones are left out."""
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>",
            *filter(None, sections),
            f"<footer>written {datetime.now().astimezone().isoformat(' ', 'minutes')}</footer>",
            "</main>\n</body>\n</html>\n",
        ]
    )


def escape(text: object) -> str:
    """Return the text for HTML, with unprintable characters escaped."""
    return html.escape(shown(text))


def short(text: object, most: int = 80) -> str:
    """Return the text for HTML, cut to this number of letters."""
    whole = str(text)
    return escape(whole if len(whole) <= most else f"{whole[: most - 3]}...")


def escape_lines(text: str) -> str:
    """Return the text for HTML, in its lines."""
    return "\n".join(escape(line.expandtabs()) for line in text.splitlines())


def section(title: str, *parts: str) -> str:
    """Return a section of the page; "" if all its parts are empty."""
    body = "\n".join(filter(None, parts))
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>" if body else ""


def table(rows: Iterable[tuple[Any, ...]], head: Iterable[str] = (), kind: str = "") -> str:
    """Return a table of up to 300 rows, the first cell of each as its heading; "" without rows. Cells are escaped."""
    body = "".join(
        f"<tr><th scope=row>{short(first)}</th>{''.join(f'<td>{short(cell, 2_000)}</td>' for cell in cells)}</tr>\n"
        for first, *cells in itertools.islice(rows, 300)
    )
    names = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    names = f"<thead><tr>{names}</tr></thead>" if names else ""
    return f'<div class="scroll"><table class="{kind}">{names}<tbody>{body}</tbody></table></div>' if body else ""


def folded(title: str, text: str, mark_diff: bool = False) -> str:
    """Return a text that is shown on demand; "" if it is empty. mark_diff: mark its added and removed lines."""
    if not text:
        return ""
    lines = escape_lines(text)
    if mark_diff:
        lines = re.sub(r"^\+.*$", r"<ins>\g<0></ins>", lines, flags=re.MULTILINE)
        lines = re.sub(r"^-.*$", r"<del>\g<0></del>", lines, flags=re.MULTILINE)
    return f"<details><summary>{escape(title)}</summary><pre>{lines}</pre></details>"
