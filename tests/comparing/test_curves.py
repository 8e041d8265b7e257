"""--plot: curves of many runs over each other."""

import pytest
from made_runs import make_old_run, make_run

from comparing.curves import plot_runs
from comparing.rows import grouped, rows_of
from logger.run_index import read_runs
from utils import UserError


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn."""
    figures = []
    monkeypatch.setattr("comparing.curves.save_figure", lambda figure, path: figures.append(figure))
    return figures


def test_each_row_is_a_curve_with_a_label_of_its_own(tmp_path, drawn):
    make_run(tmp_path, "a", optimizer__args__lr=0.5)
    make_run(tmp_path, "b", optimizer__args__lr=0.25)
    make_run(tmp_path, "c", optimizer__args__lr=0.25)
    make_run(tmp_path, "s1", seed=1, arch__args__width=9, accuracies=(0.25, 0.5))
    make_run(tmp_path, "s2", seed=2, arch__args__width=9, accuracies=(0.75, 1.0, 0.5))
    plot_runs(tmp_path / "p.png", grouped(rows_of(read_runs(tmp_path))), None)
    (axis,) = drawn[0].axes
    curves = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines}
    assert len(curves) == 4 and axis.get_ylabel() == "val_accuracy" and len(axis.collections) == 4
    group = next(label for label in curves if "2 values" in label)
    assert curves[group] == ([1, 2, 3], [0.5, 0.75, 0.5])
    assert any("args.lr 0.5" in label for label in curves)
    assert all(any(f"job/{run}" in label for label in curves) for run in "bc")  # equal but for the run


def test_runs_of_the_old_template_are_drawn(tmp_path, drawn):
    make_old_run(tmp_path)
    plot_runs(tmp_path / "p.png", rows_of(read_runs(tmp_path)), "loss")
    assert list(drawn[0].axes[0].lines[0].get_ydata()) == [0.5, 0.5]


def test_a_picture_is_written(tmp_path):
    make_run(tmp_path, "a", arch__args__note="$x$")
    plot_runs(tmp_path / "p.png", rows_of(read_runs(tmp_path)), "val_loss")
    assert (tmp_path / "p.png").read_bytes()[1:4] == b"PNG"


def test_what_cannot_be_drawn_is_refused_in_a_line(tmp_path):
    make_run(tmp_path, "a")
    rows = rows_of(read_runs(tmp_path))
    for path, metric, why in (
        ("p.png", "val_los", "did you mean 'val_loss'"),
        ("p.jpg", None, "give the name of a .png"),
    ):
        with pytest.raises(UserError, match=why):
            plot_runs(tmp_path / path, rows, metric)
    make_run(tmp_path, "b", trainer__monitor="min val_loss")
    with pytest.raises(UserError, match="monitor val_accuracy and val_loss; say what to draw"):
        plot_runs(tmp_path / "p.png", rows_of(read_runs(tmp_path)), None)
    with pytest.raises(UserError, match="42 curves"):
        plot_runs(tmp_path / "p.png", rows * 42, "loss")
    assert not (tmp_path / "p.png").exists()
