"""The page: one file that escapes what it shows, sorts, and filters."""

import html.parser
import os
import re

import pytest
from made_runs import make_run

from comparing.choose import ordered
from comparing.page import write_page
from comparing.rows import grouped, rows_of
from comparing.table import default_columns
from logger.run_index import read_runs

_CHROMIUM = "/usr/bin/chromium"


@pytest.fixture
def page(tmp_path):
    make_run(tmp_path, "a", accuracies=(0.5,), arch__args__note="<script>alert(1)</script>\"'&")
    make_run(tmp_path, "b", accuracies=(0.75,), arch__args__note="{{body}}")
    make_run(tmp_path, "c", accuracies=(), arch__args__note="</td>")
    make_run(tmp_path, "s1", seed=1, accuracies=(0.0,))
    make_run(tmp_path, "s2", seed=2, accuracies=(1.0,))
    rows, order = ordered(grouped(rows_of(read_runs(tmp_path))), None)
    write_page(tmp_path / "page.html", rows, default_columns(rows)[0], order)
    return tmp_path / "page.html"


def test_a_page_shows_the_rows_and_escapes_what_strangers_may_have_written(page):
    cells, tags = [], []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append(tag)
            cells.append("") if tag == "td" else None

        def handle_endtag(self, tag):
            tags.append(f"/{tag}")

        def handle_data(self, data):
            if tags[-1:] == ["td"]:
                cells[-1] += data

    text = page.read_text()
    Reader().feed(text)
    assert tags.count("script") == 1 and tags.count("tr") == 5 and "<script>alert(1)</script>\"'&" in cells
    assert "{{body}}" in cells and "</td>" in cells and "2 runs" in cells
    assert not re.search(r"(src|href)=|url\(|@import", text)  # it needs no other file


@pytest.mark.slow
def test_a_browser_sorts_and_filters(page):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not os.path.exists(_CHROMIUM):
        pytest.skip(f"there is no browser at {_CHROMIUM}")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        tab, errors = browser.new_page(), []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda message: errors.append(message.text))
        tab.goto(page.as_uri())

        def runs():
            return [row.split()[0] for row in tab.locator("tbody tr:visible").all_inner_texts()]

        assert runs() == ["b", "a", "2", "c"]
        tab.click("th button:text-is('val_accuracy')")
        assert runs() == ["a", "2", "b", "c"]  # what has no value is last
        tab.click("th button:text-is('val_accuracy')")
        assert runs() == ["b", "2", "a", "c"] or runs() == ["b", "a", "2", "c"]
        tab.click("th button:text-is('run')")
        assert runs() == ["2", "a", "b", "c"]
        tab.fill("input", "FINISHED alert")
        assert runs() == ["a"] and not errors
        browser.close()
