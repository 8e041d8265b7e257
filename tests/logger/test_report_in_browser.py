"""A browser shows the report: no error, each picture has a size, no page is wider than a phone, and no script runs."""

import os

import pytest
from report_runs import details_of_classes, details_of_values, make_run, run_with_test

from logger.report import write_report

CHROMIUM = "/usr/bin/chromium"
EVIL = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not os.path.exists(CHROMIUM):
        pytest.skip(f"there is no Chromium at {CHROMIUM}")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """{name: path} of reports of several kinds."""
    names = [f"{EVIL} {i} " + "a long name " * 9 for i in range(30)]
    details = {"10": details_of_classes(10), "200": details_of_classes(200), "values": details_of_values()}
    details["evil"] = details_of_classes(30, names=names)
    runs = {name: run_with_test(tmp_path_factory.mktemp("run"), found) for name, found in details.items()}
    runs["early"] = make_run(tmp_path_factory.mktemp("run"), epochs=0, ended=False, description=EVIL)
    return {name: write_report(*folders) for name, folders in runs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("name", ["10", "200", "values", "evil", "early"])
def test_a_browser_shows_the_report_without_errors(name, width, browser, reports):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme="dark")
    page = context.new_page()
    errors, asked = [], []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{reports[name]}")
    assert errors == [] and [url for url in asked if not url.startswith("data:")] == [f"file://{reports[name]}"]
    sizes = page.evaluate("[...document.images].map(i => [i.naturalWidth, i.width, i.height])")
    assert all(min(size) > 0 for size in sizes) and len(sizes) == (0 if name in ("values", "early") else 50)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.title().startswith("job ")
    ink, paper = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    page.emulate_media(media="print")
    printed = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    assert printed == ["rgb(27, 31, 36)", "rgb(255, 255, 255)"] and [ink, paper] != printed
    context.close()
