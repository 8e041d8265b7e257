import pytest

from logger import TensorboardWriter
from logger.tables import show_tables, table_text
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


def test_file_that_cannot_be_written_is_named(tmp_path):
    class Writer:
        mode = "valid"

        def add_image(self, name, image, dataformats):
            assert image.shape == (256, 256) and image[0, 0] == 0.25

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
