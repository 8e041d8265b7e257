import pytest

from logger.tables import show_tables, table_text
from utils import UserError


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
