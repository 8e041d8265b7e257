import pytest

from logger import TensorboardWriter
from logger.tables import show_tables, table_text
from utils import UserError
from utils.run_folder import RunLock


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


def test_file_that_cannot_be_written_is_named(tmp_path):
    class Writer:
        mode = "valid"

        def add_image(self, name, image, dataformats):
            assert image.shape == (256, 256) and image[0, 0] == 0.25

    with pytest.raises(UserError, match=r"valid_matrix.csv: cannot write the table"):
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
