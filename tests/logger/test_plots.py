import pytest

from logger import CsvLog
from logger.plots import plot_curves
from utils import UserError


def test_curves_are_drawn(tmp_path):
    table = CsvLog(tmp_path / "metrics.csv")
    table.append({"epoch": 1, "loss": 0.5})
    table.append({"epoch": 2, "loss": 0.25, "val_loss": 1.0})
    plot_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no epochs to draw"):
        plot_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")


def test_a_table_from_elsewhere_is_drawn_or_refused_in_a_line(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,$\\frac{$,val_x\n1,word,\n")
    plot_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()
    (tmp_path / "metrics.csv").write_text(
        ",".join(["epoch", *(f"c{i}" for i in range(5000))]) + "\n" + "1," * 5000 + "1"
    )
    with pytest.raises(UserError, match="has 5000 columns"):
        plot_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
