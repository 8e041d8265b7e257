"""A comparison as one HTML file: a table that is sorted by a click on a header and filtered by words."""

import base64
import hashlib
import html
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from comparing.choose import names_in
from comparing.rows import Row, Spread
from comparing.table import cell_text, headers, heading
from utils.errors import shown
from utils.files import write_whole

_TEMPLATE = Path(__file__).with_name("page.html")


def write_page(path: Path, rows: Sequence[Row], names: Sequence[str], order: str) -> None:
    """Write the rows into an HTML file that needs no other. names: of the columns. order: of the rows, for people.

    Names and values of runs may come from strangers: all are escaped, and the page's policy runs its own script only.
    """
    titles = headers(rows, names, names_in(rows))
    head = "".join(f"<th title={_quoted(name)}><button>{_escaped(titles[name])}</button></th>" for name in names)
    page = _TEMPLATE.read_text(encoding="utf-8")
    script = page.partition("<script>")[2].partition("</script>")[0]
    parts = {
        "hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "heading": _escaped(heading(rows, order)),
        "when": datetime.now().isoformat(" ", "minutes"),
        "head": head,
        "body": "\n".join(_line(row, names) for row in rows),
        "notes": "".join(f"<li>{_escaped(row.note)}</li>" for row in rows if row.note),
    }
    before, *pieces = page.split("{{")
    filled = [parts[name] + rest for name, _, rest in (piece.partition("}}") for piece in pieces)]
    write_whole(before + "".join(filled), path, "the page")


def _line(row, names):
    cells = (f"<td{_sort_key(row.cells.get(name))}>{_escaped(cell_text(name, row))}</td>" for name in names)
    return f"<tr class={_quoted(str(row.cells['state']).rstrip('?'))}>{''.join(cells)}</tr>"


def _sort_key(value: Any) -> str:
    """The attribute by which a cell is sorted; none for texts."""
    value = value.mean if isinstance(value, Spread) else value
    number = type(value) is int or (type(value) is float and math.isfinite(value))
    return f' data-number="{value!r}"' if number else ""


def _escaped(text):
    return html.escape(shown(text))


def _quoted(text):
    return f'"{_escaped(text)}"'
