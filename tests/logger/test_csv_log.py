import pytest

from logger import CsvLog
from utils import UserError


def test_rows_are_added_and_new_columns_too(tmp_path):
    table = CsvLog(tmp_path / "a.csv")
    assert table.rows() == []
    table.append({"epoch": 1, "loss": 0.5})
    table.append({"epoch": 2, "loss": 0.25, "val_loss": 1.0})
    assert (tmp_path / "a.csv").read_text().splitlines() == ["epoch,loss,val_loss", "1,0.5,", "2,0.25,1.0"]


def test_a_repeated_epoch_replaces_itself_and_all_after_it(tmp_path):
    table = CsvLog(tmp_path / "a.csv")
    for epoch in (1, 2, 3):
        table.append({"epoch": epoch, "loss": 0.1})
    table.append({"epoch": 2, "loss": 0.2})
    assert [(row["epoch"], row["loss"]) for row in table.rows()] == [("1", "0.1"), ("2", "0.2")]


def test_numbers_are_written_in_full(tmp_path):
    table = CsvLog(tmp_path / "a.csv")
    table.append({"epoch": 1, "loss": 0.1 + 0.2})
    assert float(table.rows()[0]["loss"]) == 0.1 + 0.2


def test_a_table_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r"metrics.csv: cannot save the table"):
        CsvLog(tmp_path / "gone" / "metrics.csv").append({"epoch": 1})


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"epoch,loss\n1," + b"9" * 200_000, None])
def test_a_table_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "metrics.csv"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"metrics.csv: cannot read the table"):
        CsvLog(path).rows()


@pytest.mark.parametrize(
    "content", ["epoch,loss\n1,2,3\n", "epoch,loss\n1\n", "epoch\n1e999\n", "epoch\nnan\n", "loss\n1\n"]
)
def test_a_table_that_no_run_has_written_is_named(tmp_path, content):
    (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(UserError, match=r"metrics.csv: .*mend or move the file"):
        CsvLog(tmp_path / "metrics.csv").epochs()
