"""--where, --sort and --columns."""

import pytest
from made_runs import make_run

from comparing.choose import columns, names_in, ordered, short_names, where
from comparing.rows import rows_of
from logger.run_index import read_runs
from utils import UserError


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder, "a", optimizer__args__lr=0.5, accuracies=(0.5,), arch__args__dropout=True)
    make_run(folder, "b", optimizer__args__lr=0.01, accuracies=(0.75,), ended=False)
    make_run(folder, "c", name="Other", optimizer__args__lr=0.1, accuracies=())
    make_run(folder, "d", optimizer__args__lr="auto", accuracies=(0.25,), arch__args__dropout=0.1)
    return rows_of(read_runs(folder))


def runs(rows):
    return "".join(row.runs[0].run for row in rows)


@pytest.mark.parametrize(
    "condition, left",
    [
        ("optimizer.args.lr<0.1", "b"),
        ("optimizer.args.lr <= 0.1", "cb"),
        ("args.lr>0.1", "a"),
        ("optimizer.args.lr=auto", "d"),
        ("optimizer.args.lr=5e-1", "a"),
        ("args.lr!=0.1", "abd"),
        ("name=Oth*", "c"),
        ("name!=Oth*", "abd"),
        ("state==died", "b"),
        ("val_accuracy>=0.5", "ab"),
        ("dropout=true", "a"),
        ("dropout=1", ""),
        ("dropout=null", "cb"),
        ("run>b", "cd"),
        ("started>2026-01", "cabd"),
        ("best<0.6", "ad"),
        ('metrics=["accuracy"]', "cabd"),
    ],
)
def test_conditions(condition, left, rows):
    assert runs(where(rows, [condition])) == left


def test_all_conditions_hold_together(rows):
    assert runs(where(rows, ["name=job", "optimizer.args.lr<1", "state=finished"])) == "a"


@pytest.mark.parametrize(
    "condition, told",
    [
        ("lr", "give a name"),
        ("=3", "give a name"),
        ("optimizer.args.lrr<1", "did you mean 'optimizer.args.lr'"),
        ("dropot=1", "did you mean 'arch.args.dropout'"),
        ("type=Net", "may be"),
        ("val_accuracy<high", "is a number, as in"),
        ("name<3", "is a text, as in"),
        ("val_accuracy<", "is a number"),
        ("val_accuracy<[1]", "is a number"),
        ("val_accuracy<true", "is a number"),
    ],
)
def test_bad_conditions_are_one_clear_line(condition, told, rows):
    with pytest.raises(UserError, match=told) as caught:
        where(rows, [condition])
    assert str(caught.value).startswith("--where ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "by, order, told",
    [
        (None, "badc", "by best val_accuracy, largest first"),
        ("val_accuracy", "badc", "largest"),
        ("val_loss", "badc", "smallest"),
        ("max val_loss", "dabc", "largest"),
        ("args.lr", "bcad", "smallest"),
        ("run", "abcd", "smallest"),
        ("max run", "dcba", "largest"),
        ("dropout", "dacb", "smallest"),
    ],
)
def test_order(by, order, told, rows):
    found, text = ordered(rows, by)
    assert runs(found) == order and told in text


def test_best_is_first_whatever_the_first_row_is(tmp_path):
    make_run(tmp_path, "a", accuracies=(0.25,), trainer__monitor="off")
    damaged = make_run(tmp_path, "b")
    (damaged / "config.json").write_text("{")
    make_run(tmp_path, "c", accuracies=(), trainer__monitor="min val_loss")
    make_run(tmp_path, "d", accuracies=(0.5,))
    make_run(tmp_path, "e", accuracies=(0.75,))
    rows = rows_of(read_runs(tmp_path))
    for by in (None, "best"):
        assert runs(ordered(rows, by)[0])[:2] == "ed"


def test_a_value_that_is_known_of_no_run_is_compared_with_nothing(tmp_path):
    make_run(tmp_path, "a", trainer__monitor="off")
    with pytest.raises(UserError, match=r"--where best>0\.9: no run has a value of best"):
        where(rows_of(read_runs(tmp_path)), ["best>0.9"])


def test_runs_of_different_monitors_are_ordered_by_name(tmp_path):
    make_run(tmp_path, "b")
    make_run(tmp_path, "a", trainer__monitor="min val_loss", accuracies=(0.1,))
    assert (runs(ordered(rows_of(read_runs(tmp_path)), None)[0]), ordered(rows_of([]), None)[1]) == ("ab", "by name")


def test_columns_are_names_endings_and_patterns(rows):
    assert columns(rows, ["dropout, val_*", "run"]) == ["arch.args.dropout", "val_loss", "val_accuracy", "run"]
    with pytest.raises(UserError, match="did you mean 'val_loss'"):
        columns(rows, ["val_los"])
    with pytest.raises(UserError, match="no run has such a value"):
        columns(rows, ["x*"])


def test_short_names_are_understood_and_mean_one_value(rows):
    known = names_in(rows)
    short = short_names(known, known)
    assert short["optimizer.args.lr"] == "args.lr"  # "lr" is logged, too
    assert short["arch.args.dropout"] == "dropout" and short["arch.type"] == "arch.type"
    assert len(set(short.values())) == len(known)
    assert [columns(rows, [text]) for text in short.values()] == [[name] for name in short]
