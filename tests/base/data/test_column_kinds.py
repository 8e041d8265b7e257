"""Columns whose kind a config does not say: what they are, and what is hardly meant as it stands."""

import re

import numpy as np
import pandas
import pytest

from base.data.column_kinds import found_kinds
from base.data.table_file import Table
from base.data.table_format import TableFormat
from base.data.tables import TableDataLoader
from utils import UserError

NUMBER = 40
DRAW = np.random.RandomState(0)
A, B = DRAW.normal(size=NUMBER).round(2) * 1.0, (DRAW.normal(size=NUMBER) * 1e5).round(2)
DAYS = pandas.date_range("2020-01-01", periods=NUMBER)


def kinds(path, content, others=("y",), **form):
    if isinstance(content, dict):
        content = pandas.DataFrame({"a": A, **content, "y": A}).to_csv(index=False)
    path.write_text(content)
    return found_kinds(Table(str(path), "path", TableFormat(**form)), others)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (A, "numeric"),
        ([1, 2] * 20, "numeric"),
        (range(NUMBER), "numeric"),
        (["NA", "1", "2", "3"] * 10, "numeric"),
        ([None, 1.5] * 20, "numeric"),
        (["1e-3", "2.5E4"] * 20, "numeric"),
        (["Bonn", "Köln"] * 20, "categorical"),
        ([True, False] * 20, "categorical"),
        ([True, None] * 20, "categorical"),
        (["NA", "None", "Ex", "Gd"] * 10, "categorical"),
        (["None"] * NUMBER, "categorical"),
        (["20-29", "30-39", "80+"] * 13 + [""], "categorical"),
        (["3 rooms", "4 rooms"] * 20, "categorical"),
        (["1.2.3", "1.3.0"] * 20, "categorical"),
        (["A1", "B2", "10", "C3"] * 10, "categorical"),
        (["<=50K", ">50K"] * 20, "categorical"),
        ([None] * NUMBER, "left out"),
    ],
)
def test_columns_are_what_they_hold(tmp_path, column, kind):
    found = kinds(tmp_path / "a.csv", {"x": list(column)})
    assert found.numeric == (["a", "x"] if kind == "numeric" else ["a"])
    assert found.categorical == (["x"] if kind == "categorical" else [])


LEAVE_OUT = r'give "leave_out": \["x"\], or name the columns to use as numeric and categorical'


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([f"{v:.2f}".replace(".", ",") for v in B], "numeric: .*row 1, column 'x': .* stands among numbers; give .dec"),
        ([f"{v:,.0f}" for v in B], 'stands among numbers; give "thousands": ","'),
        (["950", "1,200", "15", "20"] * 10, "row 2, column 'x': '1,200' stands among numbers; give .thousands"),
        ([f"${v:.2f}" for v in B], "stands among numbers; take the signs of currency"),
        ([f"{v:.1f}%" for v in A], "stands among numbers; take the signs of currency and percent"),
        (["?", "1", "2", "3"] * 10, r"row 1, column 'x': '\?' stands among numbers; .* give \"missing\": \[\"\?\"\]"),
        (["0-1", *range(39)], "row 1, column 'x': '0-1' stands among numbers; if it stands for a missing value"),
        (DAYS.strftime("%Y-%m-%d"), f"leave_out: .*: column 'x' holds dates or times, such as '2020.*; {LEAVE_OUT}"),
        (DAYS.strftime("%m/%d/%Y"), "holds dates"),
        (DAYS.strftime("%d.%m.%y"), "holds dates"),
        (DAYS.strftime("%Y-%m-%dT%H:%M:%SZ"), "holds dates"),
        (DAYS.strftime("%d %b %Y"), "holds dates"),
        (DAYS.strftime("%B %d, %Y"), "holds dates"),
        (["2020-01", "2020-02"] * 20, "holds dates"),
        (["08:15", "9:30 am"] * 20, "holds dates or times"),
        ([f"H{i:05d}" for i in range(NUMBER)], f"holds 40 different texts in 40 rows, such as 'H0.*; {LEAVE_OUT}"),
        ([f"said {i} times" for i in range(38)] + [None, None], "holds 38 different texts in 38 rows"),
        ([f"{1000 + i} CC" for i in range(30)] * 1 + ["1000 CC"] * 10, "holds numbers with a unit, such as '1000 CC'"),
    ],
)
def test_columns_that_are_hardly_meant_as_categories_are_refused(tmp_path, column, message):
    with pytest.raises(UserError, match=message) as refused:
        kinds(tmp_path / "a.csv", {"x": list(column)})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    (
        *("id", "Id", "ID", "PassengerId", "customerID", "user_id", "index", "row", "No", "Bestellnummer"),
        *("Kundennr", "KUNDENNR.", "lfd.Nr.", "KursNr", "Nr.", "alte_Rechnungsnr", "Auftragnr"),
    ),
)
def test_numbers_of_the_rows_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=f"column '{name}' numbers the rows, or names them; give \"leave_out\": "):
        kinds(tmp_path / "a.csv", {name: range(1, NUMBER + 1)})
    assert kinds(tmp_path / "a.csv", {name: [1, 2] * 20}).numeric == ["a", name]
    assert kinds(tmp_path / "a.csv", {name: range(1, NUMBER + 1)}, ["y", name]).numeric == ["a"]


@pytest.mark.parametrize(
    "name", ["paid", "valid", "width", "time", "month", "void", "key signature", "SNR", "snr", "PSNR", "CNR", "TNR"]
)
def test_other_names_are_not_those_of_row_numbers(tmp_path, name):
    assert kinds(tmp_path / "a.csv", {name: range(1, NUMBER + 1)}).numeric == ["a", name]


@pytest.mark.parametrize("index", [range(NUMBER), [f"r{i}" for i in range(NUMBER)]])
def test_a_column_without_a_name_is_refused_unless_it_is_named(tmp_path, index):
    path = tmp_path / "a.csv"
    table = pandas.DataFrame({"a": A, "y": A}, index=list(index))
    for content in (table.to_csv(), "Unnamed: 0" + table.to_csv()):
        with pytest.raises(UserError, match=r"column 'Unnamed: 0' has no name|holds 40 different"):
            kinds(path, content)
    arguments = {"path": str(path), "target": "y", "task": "regression", "batch_size": 8}
    assert TableDataLoader(**arguments, leave_out=["Unnamed: 0"]).columns == ["a"]
    assert TableDataLoader(**arguments, categorical=["Unnamed: 0"]).columns == ["Unnamed: 0"]


def test_all_columns_to_leave_out_are_named_at_once(tmp_path):
    columns = {"id": range(NUMBER), "name": [f"n{i}" for i in range(NUMBER)], "when": DAYS.strftime("%Y-%m-%d")}
    message = (
        "column 'id' numbers the rows, or names them, column 'name' holds 40 different texts in 40 rows, such as 'n0', "
        'column \'when\' holds dates or times, such as \'2020-01-01\'; give "leave_out": ["id", "name", "when"], or'
    )
    with pytest.raises(UserError, match=re.escape(message)):
        kinds(tmp_path / "a.csv", columns)
    assert kinds(tmp_path / "a.csv", columns, ["y", "id", "name", "when"]).numeric == ["a"]


def test_an_empty_column_at_the_ends_of_the_rows_is_left_out(tmp_path):
    assert kinds(tmp_path / "a.csv", "a,y,\n1,2,\n3,4,\n").numeric == ["a"]


@pytest.mark.parametrize(
    ("content", "is_refused"),
    [
        ("5.1,3.5,1.4,0.2,setosa\n4.9,3.9,1.1,0.1,setosa\n6.9,3.0,5.4,2.2,virginica\n", True),
        ("39,Private,77516,13,40,y\n50,Private,83311,13,20,n\n", True),
        ("0,1,2,y\n0.5,0.1,9,1\n0.1,0.7,0.3,0\n", False),
        ("400.5,401.5,402.5,y\n0.1,0.2,0.3,1\n0.2,0.1,0.4,0\n", False),
        ("2021,2020,2019,y\n0.1,0.2,0.3,1\n0.2,0.1,0.4,0\n", False),
    ],
)
def test_a_first_row_of_values_is_refused(tmp_path, content, is_refused):
    if not is_refused:
        assert len(kinds(tmp_path / "a.csv", content).numeric) == 3
        return
    with pytest.raises(UserError, match=r"its first row looks like values, not names of columns: .*; put a row of"):
        kinds(tmp_path / "a.csv", content)


def loader(path, target, task, **columns):
    pandas.DataFrame({"a": A, **columns}).to_csv(path, index=False)
    return TableDataLoader(str(path), target, task, 8, numeric=["a"])


def test_a_target_that_fits_the_other_task_is_refused(tmp_path):
    with pytest.raises(UserError, match='\'cat\' is not a number; for classes give "task": "classification"'):
        loader(tmp_path / "a.csv", "y", "regression", y=["cat", "dog"] * 20)
    with pytest.raises(UserError, match='has 40 classes in 40 rows; for numbers give "task": "regression"'):
        loader(tmp_path / "a.csv", "y", "classification", y=B)


def test_a_target_with_a_decimal_comma_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"row 1 \(and in 39 more\), column 'y': .* is not a number; give \"decimal\""):
        loader(tmp_path / "a.csv", "y", "regression", y=[f"{v:.2f}".replace(".", ",") for v in B])


def test_classes_may_be_called_none_and_nan(tmp_path):
    names = ["None", "NA", "nan", "10", "9", "inf", "null", "x"]
    assert loader(tmp_path / "a.csv", "y", "classification", y=names * 5).classes == [
        "9",
        "10",
        *sorted(names[:3] + names[5:]),
    ]


def test_a_constant_target_cannot_be_standardized(tmp_path):
    pandas.DataFrame({"a": A, "y": 0.1}).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(UserError, match=r"standardize_target: column 'y' of .* is the same in all rows to train"):
        TableDataLoader(str(tmp_path / "a.csv"), "y", "regression", 8, standardize_target=True)
