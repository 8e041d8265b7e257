import itertools

import pytest

from logger import TensorboardWriter
from logger.tables import show_tables, table_figure, table_text
from utils import UserError
from utils.runs.run_folder import RunLock


def test_text_has_the_classes_at_its_edges():
    assert table_text([[10, 2], [0, 300]]).splitlines() == [
        "             0    1",
        "        0   10    2",
        "        1    0  300",
    ]


def test_text_that_would_be_wider_than_80_columns_is_left_out():
    for size in (5, 12, 20, 40):
        text = table_text([[123] * size] * size)
        assert max(map(len, text.splitlines())) <= 80
    assert text.strip() == "40 x 40, too wide to show"


def test_text_has_the_names_of_the_classes_and_cuts_them_to_80_columns():
    assert table_text([[10, 2], [0, 300]], ["cat", "dog"]).splitlines() == [
        "           cat  dog",
        "      cat   10    2",
        "      dog    0  300",
    ]
    assert table_text([[1, 2], [3, 4]], ["only one"]) == table_text([[1, 2], [3, 4]])
    lines = table_text([[123] * 12] * 12, [f"number {i} of the classes" for i in range(12)]).splitlines()
    assert max(map(len, lines)) <= 80 and lines[3].startswith("      number 2 of th  123") and "  num  num" in lines[0]


def test_names_stand_in_the_csv_file_and_in_the_picture(tmp_path):
    drawn = []

    class Writer:
        mode, enabled = "valid", True

        def add_image(self, name, image, dataformats):
            drawn.append((image.shape[2], str(image.dtype), dataformats, image))

    for names in (["cat", "dog"], ["cow", "pig"]):
        show_tables({"counts": [[1, 2], [3, 4]]}, Writer(), tmp_path, names)
    assert (tmp_path / "valid_counts.csv").read_text().splitlines() == [",cow,pig", "cow,1,2", "pig,3,4"]
    assert [one[:3] for one in drawn] == [(3, "uint8", "HWC")] * 2
    assert (drawn[0][3] != drawn[1][3]).any()  # by nothing but the names
    show_tables({"counts": [[1, 2], [3, 4]]}, type("Writer", (Writer,), {"enabled": False})(), tmp_path, names)
    assert len(drawn) == 2


def test_a_picture_has_targets_down_predictions_across_and_each_number_but_zero():
    (axis,) = table_figure([[30, 1, 0], [0, 2, 0], [0, 8, 4]], ["cat", "$dog$", "a long name of a class"]).axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("prediction", "target")
    labels = ["cat", r"\$dog\$", "a long name of a"]
    for ticks in (axis.get_xticklabels(), axis.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == labels
    shown = {text.get_position()[::-1]: (text.get_text(), text.get_color()) for text in axis.texts}  # (row, column)
    light, dark = "white", "black"  # on dark cells, and on light ones
    assert shown == {
        (0, 0): ("30", light),
        (0, 1): ("1", dark),
        (1, 1): ("2", light),
        (2, 1): ("8", light),
        (2, 2): ("4", dark),
    }
    grays = axis.images[0].cmap([0.0, 0.25, 0.5, 0.75, 1.0])[:, :3] @ [0.299, 0.587, 0.114]  # as a printer prints them
    assert all(left - right > 0.08 for left, right in itertools.pairwise(grays)) and grays[0] > 0.95


@pytest.mark.parametrize(("size", "numbers", "names"), [(30, 30, 30), (50, 0, 50), (60, 0, 8)])
def test_a_picture_of_many_classes_has_no_numbers_and_then_no_names(size, numbers, names):
    (axis,) = table_figure([[int(i == j) for j in range(size)] for i in range(size)]).axes
    assert len(axis.texts) == numbers and len(axis.get_yticklabels()) <= names and axis.get_xlabel() == "prediction"


def test_file_that_cannot_be_written_is_named(tmp_path):
    class Writer:
        mode, enabled = "valid", False

    with pytest.raises(UserError, match=r"valid_matrix.csv: cannot save the table"):
        show_tables({"matrix": [[1, 3], [0, 0]]}, Writer(), tmp_path / "none")


def test_a_link_in_a_received_run_is_not_written_through(tmp_path):
    outside, folder = tmp_path / "outside.txt", tmp_path / "run"
    folder.mkdir()
    outside.write_text("mine")
    (folder / "valid_counts.csv").symlink_to(outside)
    writer = TensorboardWriter(folder, None, enabled=False)
    writer.set_step(1, "valid", timed=False)
    show_tables({"counts": [[1, 2], [3, 4]]}, writer, folder)
    assert outside.read_text() == "mine" and (folder / "valid_counts.csv").read_text().split() == ["1,2", "3,4"]
    (folder / ".lock").symlink_to(tmp_path / "made.txt")
    with pytest.raises(OSError, match="lock"):
        RunLock(folder)
    assert not (tmp_path / "made.txt").exists()


def test_of_several_processes_the_first_one_writes(tmp_path, monkeypatch):
    writer = TensorboardWriter(tmp_path, None, enabled=False)
    monkeypatch.setattr("logger.tables.is_main", lambda: False)
    show_tables({"counts": [[1, 2], [3, 4]]}, writer, tmp_path)
    assert not list(tmp_path.iterdir())
