"""A CSV file is read in parts, and a row that cannot be read fails alone."""

import numpy as np
import pytest

import base.data.table_parts
from base.data.encoding import TableInput
from base.data.inputs import Examples
from base.data.outputs import Output
from helpers import named
from utils import UserError


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(base.data.table_parts, "_ROWS_AT_ONCE", 16)


def input_of(**form):
    return TableInput(["size"], ["town"], [0.0], [1.0], [0.0], [["Bonn", "Ulm"]], form=form)


def written(path, rows, header="size,town", encoding="utf-8"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding)
    return str(path)


def test_parts_give_the_rows_of_the_whole_file(tmp_path):
    rows = [f'{i}.5," Ulm"' if i % 2 else f" {i}.5,Bonn\n" for i in range(37)]
    file = written(tmp_path / "t.csv", rows, "\ufeffsize, town")
    found = named(input_of().examples(file))
    assert [name for name, _ in found] == [f"{file}:{i}" for i in range(1, 38)]
    assert np.array_equal([row for _, row in found], [[i + 0.5, 1 + i % 2] for i in range(37)])


def test_a_row_that_cannot_be_read_fails_alone_and_is_named(tmp_path):
    rows = [f"{i},Ulm" for i in range(40)]
    rows[11], rows[12], rows[30], rows[39] = "much,Ulm", ",Ulm", "3,Ulm,4", "9,Rome"
    found = [row for _, row in named(input_of().examples(written(tmp_path / "t.csv", rows)))]
    errors = {i: str(row) for i, row in enumerate(found, 1) if isinstance(row, UserError)}
    assert len(found) == 40 and list(errors) == [12, 13, 31]
    assert "row 12, column 'size': 'much' is not a number" in errors[12]
    assert "row 13, column 'size': a value is missing" in errors[13]
    assert "row 31 has 3 values, but the header has 2" in errors[31]
    assert found[39].tolist() == [9, 0] and found[13].tolist() == [13, 2]


def test_a_file_that_is_another_table_is_refused_as_a_whole(tmp_path):
    for rows, header, error in (
        (["1,Rome"] * 20, "size,town", "is no category of the training part"),
        (["1,Ulm"], "size,place", "has no column 'town'"),
        (["1;Ulm"], "size;town", '\'size;town\'; write it as the training table was: "," between values, "." before'),
        ([], "size,town", "has no rows"),
        (['1,"Ulm', "2,Ulm"], "size,town", "it ends within a value; is a quotation mark not closed"),
        (['1,"Ulm'] + ["1,Ulm"] * 30_000, "size,town", "is a quotation mark not closed"),
    ):
        with pytest.raises(UserError, match=error):
            list(input_of().examples(written(tmp_path / "t.csv", rows, header)))


def test_what_the_loader_of_training_could_be_given_is_no_advice_in_use(tmp_path):
    file = written(tmp_path / "t.csv", ['"1,5",Ulm,none'], "size,town,goal")
    for input, output, error in (
        (input_of(), None, "'1,5' is not a number; write it as the training table was: \",\" between values"),
        (input_of(decimal=","), Output(column="goal"), "'none' is not a number"),
    ):
        ((_, found),) = named(input.examples(file, output))
        assert error in str(found) and 'give "' not in str(found)
    (tmp_path / "t.csv").write_bytes(b"\x89PNG\r\n\0\0")
    with pytest.raises(UserError, match=r"t\.csv: is not a text file; save the table as CSV"):
        list(input_of().examples(file))


def test_a_file_with_many_wrong_rows_is_given_up(tmp_path):
    file = written(tmp_path / "t.csv", ["1,Ulm"] * 8 + ["much,Ulm"] * 5000)
    found = []
    with pytest.raises(UserError, match=r"more than 100 rows cannot be read; the rest is left out"):
        for one in input_of().examples(file):
            found.append(one)
    assert len(named(found)) == 109


def test_a_quotation_mark_that_is_not_closed_costs_no_row_before_it(tmp_path):
    rows = [f"{i},Ulm" for i in range(20)] + ['20,"Ulm'] + ["1,Ulm"] * 30_000
    parts, wanted = [], r"row 21 and what follows are left out: .*; is a quotation mark not closed"
    with pytest.raises(UserError, match=wanted):
        for part in input_of().examples(written(tmp_path / "t.csv", rows)):
            parts.append(part)
    assert [row[0] for part in parts for row in part.raw] == list(range(20))


def test_text_in_another_encoding_is_said(tmp_path):
    file = written(tmp_path / "t.csv", ["1,Ulm"] * 20 + ["1,K\xf6ln"], encoding="latin-1")
    with pytest.raises(UserError, match=r"line 22 is not 'utf-8' text; write it as the training table was: .*, utf-8"):
        list(input_of().examples(file))
    assert len(named(input_of(encoding="latin-1").examples(file))) == 21


@pytest.mark.parametrize("classes", [["cat", "dog"], None])
def test_the_column_of_the_targets_is_read_if_it_is_there(tmp_path, classes):
    output = Output(classes, mean=10.0, std=2.0, column="goal")
    values = ["dog", "", "cow", "cat"] if classes else ["12", "", "much", "nan"]
    rows = [f"{i},Ulm,{value}" for i, value in enumerate(values)]
    found = Examples.joined(list(input_of().examples(written(tmp_path / "t.csv", rows, "size,town,goal"), output)))
    assert list(found.errors) == [2] and found.target is not None
    if classes:
        assert found.target.tolist() == [1, -1, 0]
        assert "'cow' is a class that the model does not know; to predict without targets" in str(found.errors[2])
    else:
        assert found.target[0].item() == 1.0 and np.isnan(found.target[1:]).all()
    (without,) = input_of().examples(written(tmp_path / "t.csv", ["1,Ulm"]), output)
    assert without.target is None and len(without) == 1
    with pytest.raises(UserError, match="its header names two columns 'goal'"):
        list(input_of().examples(written(tmp_path / "t.csv", ["1,Ulm,1,2"], "size,town,goal,goal"), output))
