"""report.html is made of what a run has left, whatever is missing or damaged, and nothing in it can run."""

import fcntl
import json
import math
import re
from html.parser import HTMLParser

import pytest
from made_runs import make_old_run
from report_runs import details_of_classes, details_of_values, make_run, run_with_test

from helpers import run_here
from logger.csv_log import CsvLog
from logger.details import NUM_BINS, Classes, load_details
from logger.report import write_report
from logger.report.charts import Chart, Line, calibration_error, confusions, curve_charts, histogram, scores
from logger.report.svg import draw, ticks
from utils import UserError
from utils.files import write_json
from utils.runs.run_folder import log_folder


class Page(HTMLParser):
    """The elements of a page: their tags with attributes, the headings of its sections, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.titles, self.text, self._open = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        self.text += data
        if self._open and self._open[-1] == "h2":
            self.titles.append(data)


def page_of(folders, **how):
    path = write_report(*folders, **how)
    assert path.stat().st_size < 2_000_000
    return Page(path.read_text())


def test_a_run_that_was_only_trained_shows_its_curves_its_config_and_its_environment(tmp_path):
    page = page_of(make_run(tmp_path))
    assert page.titles == ["Curves", "Config", "Environment", "Code"]
    charts = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert charts == ["loss over epoch", "lr over epoch", "batches per second, with validation over epoch"]
    assert "This run ended after epoch 3 of 3." in page.text and "best val_loss, epoch 30.66667" in page.text
    assert "train 0.3333" in page.text and "valid 0.6667" in page.text and " 1: 5" in page.text  # 10 / 2 s


@pytest.mark.parametrize("size", [2, 10, 200])
def test_all_counts_of_a_confusion_matrix_are_there_for_up_to_200_classes(size, tmp_path):
    details = details_of_classes(size)
    path = write_report(*run_with_test(tmp_path, details, {"accuracy": 0.67}))
    text = path.read_text()
    assert path.stat().st_size < 2_000_000
    matrix = re.search(r'<table class="matrix.*?</table>', text, re.DOTALL)[0]
    counts = [int(count) for count in re.findall(r"<td class=[rw]\d>(\d+)", matrix)]
    assert sorted(counts) == sorted(count for *_, count in details.classes.pairs) and sum(counts) == 2_000
    assert matrix.count("<td") == size * size and matrix.count("class number 1<") == 2
    assert f"colspan={size}>prediction<" in matrix and ">target<" in matrix
    page = Page(text)
    assert page.titles[:5] == ["Curves", "Test", "Classes", "Confusion matrix", "Calibration"]
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 50 and all(image["alt"] and image["width"] == "1" for image in images)
    assert "The 50 most confident of 60" in page.text and "test:49" in page.text


def test_too_many_classes_for_a_matrix_are_scored_the_worst_first(tmp_path):
    page = page_of(run_with_test(tmp_path, details_of_classes(400)))
    assert "not shown: 100 classes with a higher F1" in page.text and "A matrix of 400 classes" in page.text


@pytest.mark.parametrize(("number", "text"), [(100, None), (1130, "1,030 further results are in test_results.json.")])
def test_results_beyond_the_first_100_are_counted(tmp_path, number, text):
    run = run_with_test(tmp_path, details_of_values())
    results = {f"checkpoint-epoch{i}.pth": {"test": {"samples": 7, "loss": 0.5}} for i in range(number)}
    (run[0] / "test_results.json").write_text(json.dumps(results))
    page = page_of(run)
    assert page.text.count("on 7 test samples") == 100 and ("further results" in page.text) == (text is not None)
    assert text is None or text in page.text


def test_a_regression_shows_predictions_against_targets_and_residuals(tmp_path):
    page = page_of(run_with_test(tmp_path, details_of_values()))
    charts = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    wanted = ["predictions over target", "residuals over target"]
    assert charts[-3:] == [*wanted, "distribution of residuals over prediction - target"]
    assert "Confusion matrix" not in page.titles and "mean absolute error0.2" in page.text


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x1b[31m\n$\\frac"


def test_nothing_of_a_strangers_run_becomes_an_element_or_is_loaded(tmp_path):
    details = details_of_classes(3, names=[EVIL, EVIL + "1", "ok"])
    details.classes.mistakes[0].source = EVIL
    start = {
        "host": EVIL,
        "command": [EVIL, 3],
        "overridden": [EVIL, {}],
        "git_commit": EVIL,
        "libraries": {EVIL: EVIL},
    }
    start |= {"git_diff": "uncommitted.diff", "git_dirty": True}
    folders = run_with_test(tmp_path, details, {EVIL: 0.5}, starts=[start], description=EVIL, **{EVIL: EVIL})
    (folders[1] / "model.txt").write_text(EVIL)
    (folders[1] / "uncommitted.diff").write_text(f"+{EVIL}\n-{EVIL}")
    (folders[1] / "metrics.csv").write_text('epoch,"<script>alert(1)</script>""\'>"\n1,2\n2,3\n')
    page = page_of(folders)
    allowed = {"html", "head", "meta", "title", "style", "body", "main", "header", "h1", "h2", "h3", "small", "p", "br"}
    allowed |= {"dl", "div", "dt", "dd", "section", "figure", "figcaption", "svg", "path", "circle", "text", "footer"}
    allowed |= {"table", "thead", "tbody", "tr", "th", "td", "span", "b", "img", "details", "summary", "pre", "code"}
    assert {tag for tag, _ in page.tags} <= allowed | {"ins", "del"}
    names = {name for _, attributes in page.tags for name in attributes}
    assert not [name for name in names if name.startswith("on")] and "href" not in names
    assert all(attributes["src"].startswith("data:image/png;") for tag, attributes in page.tags if tag == "img")
    policy = next(attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'") and "script" not in policy
    assert page.text.count("alert(1)") > 15 and "\x1b" not in page.text


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("log/metrics.csv", "epoch,loss\n1,2,3\n", "metrics.csv: cannot read the table"),
        ("log/test_details.json", '{"checkpoint": 3', "test_details.json: damaged"),
        ("log/test_details.json", '{"checkpoint": "a", "split": "b", "samples": -1}', "damaged: samples: "),
        ("models/config.json", "{", "config.json: is not JSON"),
        ("models/environment.json", "[[]", "environment.json: is not JSON"),
        ("models/test_results.json", '{"a": 3, "model_best.pth": {"test": 3}}', ""),
        ("log/pace.csv", "epoch,seconds\n1,2,3,4\nx,y,z\n3,2.", ""),
    ],
)
def test_a_damaged_file_leaves_its_section_out_and_is_named(file, content, told, tmp_path):
    folders = run_with_test(tmp_path, details_of_classes(3))
    folder = folders[0] if file.startswith("models") else folders[1]
    (folder / file.partition("/")[2]).write_text(content)
    page = page_of(folders)
    problems = (
        page.text.count(told) if told else "class" not in [attributes.get("class") for _, attributes in page.tags]
    )
    assert problems and "Traceback" not in page.text
    assert page.titles


def test_a_picture_that_is_no_picture_is_refused(tmp_path):
    folders = run_with_test(tmp_path, details_of_classes(3))
    path = folders[1] / "test_details.json"
    path.write_text(path.read_text().replace("data:image/png;base64,", "javascript:alert(1)//", 1))
    with pytest.raises(UserError, match=r"damaged: classes.mistakes.0.picture.uri"):
        load_details(folders[1])
    path.write_text(
        path.read_text()
        .replace('"pairs":[[0,', '"pairs":[[7,', 1)
        .replace("javascript:alert(1)//", "data:image/png;base64,")
    )
    with pytest.raises(UserError, match="other classes than it names"):
        load_details(folders[1])


@pytest.mark.parametrize(
    ("epochs", "ended", "state"),
    [
        (3, True, "ended after epoch 3 of 3"),
        (4, True, "ended after epoch 4"),  # resumed with fewer epochs than it has trained
        (2, False, "stopped before its end; epoch 2 of 3 is complete"),
        (0, False, "stopped before its first epoch was complete"),
        (0, True, "ended before its first epoch was complete"),
    ],
)
def test_the_state_of_a_run_is_told(epochs, ended, state, tmp_path):
    page = page_of(make_run(tmp_path, epochs=epochs, ended=ended))
    assert f"This run {state}." in page.text and ("Curves" in page.titles) == bool(epochs)


def test_an_epoch_that_ends_while_the_report_is_written_is_left_out(tmp_path, monkeypatch):
    folders = make_run(tmp_path)
    rows = CsvLog.rows

    def rows_before_another_epoch(table):
        found = rows(table)
        with open(table.path, "a") as file:
            file.write("4,0.1,0.1,0.1\n")
        return found

    monkeypatch.setattr(CsvLog, "rows", rows_before_another_epoch)
    assert "epoch 3 of 3" in page_of(folders).text


def test_the_best_value_is_found_in_the_last_of_many_columns(tmp_path):
    folders = make_run(tmp_path, trainer={"epochs": 1, "monitor": "min val_z"})
    names = ["epoch", *(f"x{i}" for i in range(150)), "val_z"]
    (folders[1] / "metrics.csv").write_text(f"{','.join(names)}\n{','.join(['1'] * len(names))}\n")
    text = page_of(folders).text
    assert "best val_z, epoch 1" in text and "further columns." in text


def test_a_run_of_another_program_without_an_epoch_has_none(tmp_path):
    folders = make_run(tmp_path, epochs=0)
    (folders[0] / "environment.json").unlink()
    assert "This run has no complete epoch." in page_of(folders).text


def test_a_run_of_the_old_template_has_curves(tmp_path):
    folder = make_old_run(tmp_path)
    page = page_of((folder, log_folder(folder)))
    assert page.titles == ["Curves", "Config"] and "ended after epoch 2 of 2" in page.text


def test_a_run_that_is_still_trained_says_so(tmp_path):
    folders = make_run(tmp_path, epochs=2, ended=False)
    with open(folders[0] / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another process holds it
        page = page_of(folders)
    assert "This run is being trained; epoch 2 of 3 is complete." in page.text and "Curves" in page.titles


def test_what_the_command_line_set_and_the_uncommitted_changes_are_shown(tmp_path):
    start = {"overridden": ["trainer.epochs: 20 -> 3"], "git_dirty": True, "git_diff": "uncommitted-2.diff"}
    folders = make_run(tmp_path, starts=[{}, start])
    (folders[1] / "uncommitted-2.diff").write_text("+" + "x" * 300_000 + "\n")
    page = page_of(folders)
    assert "trainer.epochs20 -> 3" in page.text and "are in uncommitted-2.diff" in page.text
    assert page.text.count("x" * 149_999) == 1 and "... the rest is in uncommitted-2.diff" in page.text
    assert ("ins", {}) in page.tags


def test_the_command_takes_either_folder_and_refuses_what_is_no_run_in_a_line(tmp_path):
    save_dir, log_dir = make_run(tmp_path)
    for folder in (save_dir, log_dir):
        (log_dir / "report.html").unlink(missing_ok=True)
        assert run_here("logger/report/__main__.py", folder).stdout == f"{log_dir / 'report.html'}\n"
        assert (log_dir / "report.html").exists()
    for wrong, told in ((tmp_path / "none", "there is no such run"), (tmp_path, "not a run")):
        told = f"error: {wrong}: {told}; give its folder, saved/models/<name>/<run> or saved/log/<name>/<run>\n"
        assert run_here("logger/report/__main__.py", wrong, status=2).stderr == told
    assert not (tmp_path / "report.html").exists()


def test_nothing_is_written_where_a_link_of_a_strangers_run_leads(tmp_path):
    save_dir, log_dir = make_run(tmp_path / "saved")
    log_dir.rename(tmp_path / "elsewhere")
    log_dir.symlink_to(tmp_path / "elsewhere")
    assert "leads out of" in run_here("logger/report/__main__.py", save_dir, status=2).stderr
    assert not (tmp_path / "elsewhere" / "report.html").exists()


def test_scores_and_the_calibration_error_are_those_of_their_definitions():
    classes = Classes(
        names=["a", "b", "c"],
        per_class=[(4, 3, 2), (2, 3, 1), (0, 0, 0)],
        pairs=[(0, 0, 2), (0, 1, 2), (1, 1, 1), (1, 0, 1)],
        bins=[(0, 0.0, 0)] * (NUM_BINS - 2) + [(2, 1.6, 1), (4, 3.8, 2)],
        num_mistakes=3,
        mistakes=[],
    )
    (_, _, *first), (_, _, *second), (_, _, *third) = scores(classes)
    assert first == pytest.approx([2 / 3, 0.5, 4 / 7]) and second == pytest.approx([1 / 3, 0.5, 0.4])
    assert all(map(math.isnan, third))
    assert calibration_error(classes) == pytest.approx((0.6 + 1.8) / 6)
    assert confusions(classes) == [("a", "b", 2, 0.5), ("b", "a", 1, 0.5)]


@pytest.mark.parametrize("largest", [1.0, 700_000.0, 7_000_000.0, 1.2e-7])
def test_the_numbers_beside_an_axis_do_not_cover_its_label(largest):
    svg = draw(
        Chart("predictions", "target", y_label="prediction", lines=[Line("", [(0.0, -largest), (1.0, largest)])])
    )
    ends = re.findall(r'<text x="(\d+)" y="[^"]*" dy=".35em" class="end">([^<]*)</text>', svg)
    label = int(re.search(r"translate\((\d+) ", svg)[1]) + 6  # half of its height
    assert len(ends) >= 3 and min(int(x) - 6.2 * len(text) for x, text in ends) > label


def test_charts_have_the_values_of_the_table_and_a_learning_rate_that_falls_far_is_on_a_log_scale():
    nan = math.nan
    loss, rate, alone = (
        curve_charts([1, 2], {"loss": [2.0, nan], "lr": [1.0, 0.01], "val_loss": [3.0, 4.0], "val_x": [1.0, 1.0]})[0:1]
        + curve_charts([1, 2], {"lr": [1.0, 0.01]})
        + curve_charts([1], {"val_x": [1.0]})
    )
    assert [(line.label, line.points[0]) for line in loss.lines] == [("train", (1, 2.0)), ("valid", (1, 3.0))]
    assert rate.log_y and not loss.log_y and alone.lines[0].label == "valid"
    assert sum(count for *_, count in histogram([1.0, 1.5, 2.0], 4)) == 3 and histogram([1.0, 1.0])
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10] and ticks(1, 3, whole=True) == [1, 2, 3]
    assert ticks(-0.04, 1.04) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_values_that_cannot_be_drawn_interrupt_a_line(tmp_path):
    folders = make_run(tmp_path)
    (folders[1] / "metrics.csv").write_text("epoch,loss,note\n1,nan,x\n2,1e300,\n3,inf,x\n4,0.5,x\n")
    charts = [attributes["aria-label"] for tag, attributes in page_of(folders).tags if tag == "svg"]
    assert charts[0] == "loss over epoch" and "note over epoch" not in charts
    write_json({"trainer": {"monitor": 3, "epochs": "x"}, "data_loader": []}, folders[0] / "config.json")
    assert page_of(folders).titles
