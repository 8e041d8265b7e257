"""CSV files as people have them: each is read right, or refused in one line with the row and the remedy."""

import bz2
import zipfile

import numpy as np
import pytest

from base.data.table_file import NULLS, Table
from base.data.table_format import TableFormat, how_to_read
from utils import UserError


def table(path, content, **form):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Table(str(path), "path", TableFormat(**form))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "table.csv"


@pytest.mark.parametrize(
    ("content", "form"),
    [
        ("a,b\n1.5,x\n-2,y\n", {}),
        ("\ufeffa,b\n1.5,x\n-2,y\n", {}),
        ("a,b\r\n1.5,x\r\n-2,y\r\n", {}),
        ("a,b\r1.5,x\r-2,y\r", {}),
        ("a,b\n1.5,x\n-2,y", {}),
        ("\na,b\n\n1.5,x\n   \n-2,y\n\n", {}),
        (" a, b\n 1.5, x\n -2 ,y \n", {}),
        ('"a","b"\n"1.5","x"\n"-2","y"\n', {}),
        ("a;b\n1,5;x\n-2;y\n", {"separator": ";", "decimal": ","}),
        ('a,b\n"1,5",x\n-2,y\n', {"decimal": ","}),
        ("a\tb\n1.5\tx\n-2\ty\n", {"separator": "\t"}),
        ("a b\n1.5   x\n-2 y\n", {"separator": " "}),
        ("a,b\n1.5,x\n-2,y\n".encode("utf-16"), {"encoding": "utf-16"}),
    ],
)
def test_files_of_many_programs_give_the_same_table(path, content, form):
    read = table(path, content, **form)
    assert read.names == ["a", "b"] and len(read) == 2
    assert read.numbers(["a"]).tolist() == [[1.5], [-2.0]] and read.texts("b").tolist() == ["x", "y"]


@pytest.mark.parametrize(
    ("texts", "form", "numbers"),
    [
        (["1,234", "56", "1,234,567.5"], {"thousands": ","}, [1234, 56, 1234567.5]),
        (["1.234,5", "-56", "1.234.567"], {"decimal": ",", "thousands": "."}, [1234.5, -56, 1234567]),
        (["1\u00a0234,5", "56"], {"decimal": ",", "thousands": "\u00a0"}, [1234.5, 56]),
        (["1'234.5", "56"], {"thousands": "'"}, [1234.5, 56]),
        (["1e3", "-2.5E-1", ".5", "5."], {}, [1000, -0.25, 0.5, 5]),
        (["123456789012345678901234", "1"], {}, [123456789012345678901234.0, 1]),
        (["True", "False"], {}, [1, 0]),
        (["TRUE", ""], {}, [1, np.nan]),
        (["-999", "1"], {"missing": ["-999"]}, [np.nan, 1]),
        (["?", "1"], {"missing": ["?"]}, [np.nan, 1]),
        ([*NULLS, "", "1"], {}, [*[np.nan] * (len(NULLS) + 1), 1]),
        ([" ", "1"], {}, [np.nan, 1]),
        (["NA", "1,234", ""], {"thousands": ","}, [np.nan, 1234, np.nan]),
    ],
)
def test_numbers_are_read_as_they_are_written(path, texts, form, numbers):
    read = table(path, "a,b\n" + "".join(f'"{text}",0\n' for text in texts), **form)
    assert np.array_equal(read.numbers(["a"])[:, 0], numbers, equal_nan=True)


@pytest.mark.parametrize(
    "text", ["1_000", "0x1F", "\uff11\uff12", "12,5,0", "1,23", "--1", "1e", "ten", "1 000", "12,50"]
)
def test_other_texts_are_no_numbers(path, text):
    read = table(path, f'a,b\n"{text}",0\n1,0\n', thousands=",")
    with pytest.raises(UserError, match=r"row 1, column 'a': '.+' is not a number"):
        read.numbers(["a"])


def test_texts_are_kept_as_they_are(path):
    texts = [*NULLS, "1", "1.0", "01", "true", "True", "inf", "x, y"]
    read = table(path, "a,b\n" + "".join(f'"{text}",0\n' for text in texts) + ",0\n?,0\n", missing=["?"])
    assert read.texts("a").tolist() == [*texts, "", ""]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2,3\n1,2,3\n", "path: .*csv: row 1 has 3 values, but the header has 2"),
        ("a,b\n1,2\n1,2,3\n", "row 2 has 3 values, but the header has 2"),
        ("a,b,c\n1,2,3\n1,2\n", "row 2 has 2 values, but the header has 3"),
        ('a,b\n1,"2,\n2"\n1,"x",3\n', "row 2 has 3 values, but the header has 2"),
        ("a,b\r1,2\r1,2,3\r", "row 2 has 3 values"),
        ("a,b\n1,2,\n1,2,\n", "row 1 has 3 values, .*; the row ends with a separator"),
        ("Report\na,b\n1,2\n", "row 1 has 2 values, but the header has 1"),
        ("a;b\n1;2\n", 'its header is one name, \'a;b\'; give "separator": ";"'),
        ("a\tb\n1\t2\n", r'its header is one name, .*; give "separator": "\\t"'),
        ("", "csv is empty"),
        ("\n\n", "csv is empty"),
        ("a,b\n", "csv has no rows"),
        ('a,b\n1,"2\n3,4\n', "not a CSV table: "),
        (b"PK\x03\x04...", "is a spreadsheet or an archive; save the table as CSV"),
        (
            "a,b\n1,2\n3,Köln\n".encode("latin-1"),
            'line 3 is not \'utf-8\' text; give its "encoding", such as "latin-1"',
        ),
        ("a,b\n1,2\n".encode("utf-16"), 'such as "utf-16"'),
    ],
)
def test_files_that_are_no_table_are_refused(path, content, message):
    with pytest.raises(UserError, match=message) as refused:
        table(path, content).numbers(["b"])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"separator": ";;"}, "separator: got ';;'; it should be one character"),
        ({"separator": '"'}, "separator: got"),
        ({"decimal": ";"}, "decimal: got ';'"),
        ({"thousands": "."}, "thousands: got '.'; it should be another character than \"decimal\""),
        ({"thousands": "3"}, "thousands: got '3'"),
        ({"encoding": "utf-9"}, "encoding: 'utf-9' is unknown"),
        ({"encoding": "zip"}, "encoding: 'zip' is unknown"),
    ],
)
def test_formats_that_will_not_do_are_refused(form, message):
    with pytest.raises(UserError, match=message):
        TableFormat(**form)


@pytest.mark.parametrize(
    ("texts", "form", "remedy"),
    [
        (["12,50"], {}, 'give "decimal": ","'),
        (["50,123"], {}, 'give "thousands": ",", or "decimal": "," if the comma is a decimal one'),
        (["50,123", "7,5"], {}, 'give "decimal": ","'),
        (["0,123"], {}, 'give "decimal": ","'),
        (["50,123", "1,250,123"], {}, 'give "thousands": ","'),
        (["1,250.50"], {}, 'give "thousands": ","'),
        (["1.250,50"], {}, 'give "decimal": "," and "thousands": "."'),
        (["1 250"], {}, 'give "thousands": " "'),
        (["1\u202f250,5"], {}, 'give "thousands": "\\u202f" and "decimal": ","'),
        (["$12.50"], {}, "take the signs of currency and percent out of the file"),
        (["12,50 €"], {}, "take the signs of currency and percent out of the file"),
        (["($1,250)"], {}, "take the signs of currency and percent out of the file"),
        (["45%"], {}, "take the signs of currency and percent out of the file"),
        (["\u221212.5"], {}, 'write negative numbers with "-"'),
        (["(12.5)"], {}, 'write negative numbers with "-"'),
        (["12.5"], {"decimal": ","}, 'it has a decimal point, but "decimal" is ","'),
        (
            ["1.250"],
            {"decimal": ","},
            'it has a decimal point, but "decimal" is ","; give "thousands": "." if it groups digits',
        ),
        (["1.2.3"], {}, None),
        (["20-29"], {}, None),
        (["100% cotton"], {}, None),
        (["?"], {}, None),
    ],
)
def test_the_remedy_for_a_text_is_known(texts, form, remedy):
    assert how_to_read(texts, TableFormat(**form)) == ("" if remedy is None else f"; {remedy}")


def test_names_are_told_apart(path):
    read = table(path, "a,,b,a\n1,2,3,4\n")
    assert read.names == ["a", "Unnamed: 1", "b", "a"] and read.unnamed == ["Unnamed: 1"]
    read.require_columns(["b"], "numeric")
    with pytest.raises(UserError, match="its header names two columns 'a'; rename one"):
        read.require_columns(["a"], "numeric")
    with pytest.raises(UserError, match=r"numeric: .* has no column 'c'"):
        read.require_columns(["c"], "numeric")


def test_archives_hold_one_table(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.csv", "a,b\n1,2\n")
        archive.writestr("__MACOSX/._a.csv", "odd")
    assert Table(str(tmp_path / "a.zip"), "path", TableFormat()).numbers(["b"]).tolist() == [[2]]
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("b.csv", "a,b\n1,2\n")
    with pytest.raises(UserError, match="holds 2 files; unpack it, and give the path of the table"):
        Table(str(tmp_path / "a.zip"), "path", TableFormat())
    (tmp_path / "a.csv.bz2").write_bytes(bz2.compress(b"a,b\n1,2\n"))
    assert Table(str(tmp_path / "a.csv.bz2"), "path", TableFormat()).numbers(["b"]).tolist() == [[2]]


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/a.csv", "http://[::1/a.csv", "http:///a.csv"])
def test_addresses_that_cannot_be_fetched_are_refused(address):
    with pytest.raises(UserError, match=r"path: http:.*: cannot read the table: "):
        Table(address, "path", TableFormat())
