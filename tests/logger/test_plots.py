import pytest
from report_runs import details_of_classes, details_of_values, make_run, run_with_test

from helpers import run_here
from logger import CsvLog
from logger.plots import WHAT, plot
from logger.run_files import RunFiles
from utils import UserError


def draw(folder, what="curves"):
    plot(RunFiles(folder, folder), what, folder / "a.png")
    return (folder / "a.png").read_bytes()


def test_curves_are_drawn(tmp_path):
    table = CsvLog(tmp_path / "metrics.csv")
    table.append({"epoch": 1, "loss": 0.5})
    table.append({"epoch": 2, "loss": 0.25, "val_loss": 1.0})
    assert draw(tmp_path).startswith(b"\x89PNG")


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no epochs to draw"):
        draw(tmp_path)
    _, log_dir = make_run(tmp_path)
    for what in WHAT[1:]:
        with pytest.raises(UserError, match=f"nothing to draw as {what}, which test.py finds; it has curves$"):
            draw(log_dir, what)


def test_a_table_from_elsewhere_is_drawn_or_refused_in_a_line(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,$\\frac{$,val_x\n1,word,\n")
    assert draw(tmp_path)
    names = ",".join(["epoch", *(f"c{i}" for i in range(5000))])
    (tmp_path / "metrics.csv").write_text(f"{names}\n{'1,' * 5000}1")
    with pytest.raises(UserError, match="are 5000 charts to draw"):
        draw(tmp_path)
    (tmp_path / "metrics.csv").write_text("epoch,loss\n1\n")
    with pytest.raises(UserError, match="cannot read the table"):
        draw(tmp_path)


@pytest.mark.parametrize("size", [3, 40])
def test_plots_of_a_test_are_drawn_by_the_command(size, tmp_path):
    names = [f"$c_{i}$" for i in range(size)]
    save_dir, log_dir = run_with_test(tmp_path, details_of_classes(size, names=names))
    for what in ("confusion", "reliability", "mistakes") if size == 3 else ("confusion",):
        done = run_here("logger/plots.py", save_dir, "--what", what)
        assert done.stdout == f"{log_dir / what}.png\n"
        assert (log_dir / f"{what}.png").read_bytes().startswith(b"\x89PNG")


def test_residuals_are_drawn(tmp_path):
    _, log_dir = run_with_test(tmp_path, details_of_values())
    assert draw(log_dir, "residuals")
