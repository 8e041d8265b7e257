"""TableDataLoader: what columns become, what is refused, and which files are read."""

import io
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

from base.data.tables import TableDataLoader
from helpers import whole
from utils import UserError


@pytest.fixture
def table(tmp_path):
    """Path of a table of 40 rows: two numbers, a text, a patient, a class and a value."""
    rows = range(40)
    data = pandas.DataFrame(
        {
            "age": [20 + i for i in rows],
            "size": [1.5 * i * i for i in rows],
            "town": [("Bonn", "Köln", "Trier")[i % 3] for i in rows],
            "patient": [i // 4 for i in rows],
            "sick": [("yes", "no")[i % 4 == 0] for i in rows],
            "value": [3.0 * i for i in rows],
        }
    )
    path = tmp_path / "table.csv"
    data.to_csv(path, index=False)
    return str(path)


def edited(path, **columns):
    """The table with {column: {row: value}} changed, in a file beside it."""
    data = pandas.read_csv(path, dtype=str)
    for column, cells in columns.items():
        for row, value in cells.items():
            data.loc[row, column] = value
    data.to_csv(path + ".edited.csv", index=False)
    return path + ".edited.csv"


def test_numbers_are_standardized_by_the_training_part_alone(table):
    loader = TableDataLoader(table, "value", "regression", 8, validation_split=0.25, numeric=["age", "size"])
    features, target = whole(loader)
    assert features.shape == (30, 2) and target.shape == (30, 1) and target.dtype == torch.float32
    assert torch.allclose(features.mean(0), torch.zeros(2), atol=1e-6)
    assert torch.allclose(features.std(0, correction=0), torch.ones(2), atol=1e-6)
    valid, valid_target = whole(loader.split_validation())
    age = pandas.read_csv(table)["age"].to_numpy()
    train = target.flatten().numpy() / 3 + 20
    expected = (valid_target.flatten().numpy() / 3 + 20 - train.mean()) / train.std()
    assert np.allclose(valid[:, 0], expected, atol=1e-5) and len(age) == 40


def test_categories_are_codes_and_one_that_is_new_has_the_code_0(table):
    test = edited(table, town={0: "Ulm", 1: "Bonn"})
    args = {"numeric": ["age"], "categorical": ["town"], "shuffle": False}
    loader = TableDataLoader(table, "sick", "classification", 8, **args)
    features, labels = whole(loader)
    assert features[:4, 1].tolist() == [1, 2, 3, 1] and loader.num_codes == [4]
    assert labels[:5].tolist() == [0, 1, 1, 1, 0] and loader.classes == ["no", "yes"] and labels.dtype == torch.int64
    testing = {"training": False, "test_path": test, **args}
    assert whole(TableDataLoader(table, "sick", "classification", 8, **testing))[0][:3, 1].tolist() == [0, 1, 3]
    hot = TableDataLoader(table, "sick", "classification", 8, one_hot=True, **testing)
    assert whole(hot)[0][:3, 1:].tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert hot.columns == ["age", "town=Bonn", "town=Köln", "town=Trier"]


def test_category_of_the_validation_part_alone_has_the_code_0(table):
    lonely = pandas.read_csv(table)
    (row,) = np.random.RandomState(0).permutation(40)[:1]
    path = edited(table, town={row: "Ulm"})
    loader = TableDataLoader(path, "value", "regression", 8, validation_split=1, categorical=["town"])
    assert whole(loader.split_validation())[0].tolist() == [[0]] and loader.num_codes == [4] and len(lonely) == 40


def test_test_data_are_prepared_by_the_training_part(table):
    args = {"validation_split": 0.25, "numeric": ["age"], "shuffle": False, "standardize_target": True}
    loader = TableDataLoader(table, "value", "regression", 8, **args)
    test = TableDataLoader(table, "value", "regression", 8, training=False, test_path=table, **args)
    features, target = whole(test)
    order = np.random.RandomState(0).permutation(40)
    valid, valid_target = whole(loader.split_validation())
    assert len(features) == 40 and torch.equal(features[order[:10]], valid)
    assert torch.equal(target[order[:10]], valid_target)


def test_columns_are_told_apart_by_what_they_hold(table):
    loader = TableDataLoader(table, "value", "regression", 8, groups="patient", validation_split=0.2)
    assert loader.columns == ["age", "size", "town", "sick"] and loader.num_codes == [4, 3]


def test_classes_that_are_numbers_keep_their_order(table):
    path = edited(table, sick={i: str(i % 11) for i in range(40)})
    loader = TableDataLoader(path, "sick", "classification", 8, shuffle=False, numeric=["age"])
    assert loader.classes == [str(i) for i in range(11)] and whole(loader)[1][:12].tolist() == [*range(11), 0]


@pytest.mark.parametrize("fill", ["mean", "median"])
def test_missing_values_are_filled_by_the_training_part_if_the_config_says_so(table, fill):
    path = edited(table, size={7: None}, town={9: None})
    with pytest.raises(UserError, match=r'row 8, column \'size\': a value is missing; give "fill": "mean" or "median"'):
        TableDataLoader(path, "value", "regression", 8, numeric=["size"])
    with pytest.raises(UserError, match="row 10, column 'town': a value is missing"):
        TableDataLoader(path, "value", "regression", 8, categorical=["town"])
    loader = TableDataLoader(
        path, "value", "regression", 8, numeric=["size"], categorical=["town"], fill=fill, shuffle=False
    )
    features, _ = whole(loader)
    sizes = pandas.read_csv(path)["size"]
    filled = sizes.fillna(getattr(sizes, fill)())
    assert features[7, 0].item() == pytest.approx((filled[7] - filled.mean()) / filled.std(ddof=0), abs=1e-6)
    assert features[9, 1] == 1 and loader.num_codes == [5]  # a category of its own, the first by name


@pytest.mark.parametrize(
    ("cells", "arguments", "message"),
    [
        ({}, {"target": "valeu"}, "target: .* has no column 'valeu'; did you mean 'value'"),
        ({}, {"groups": "patent"}, "groups: .* has no column 'patent'; did you mean 'patient'"),
        ({}, {"stratify": "ill"}, "stratify: .* has no column 'ill'"),
        ({}, {"numeric": ["age", "hight"]}, "numeric: .* has no column 'hight'"),
        ({}, {"numeric": ["age", "value"]}, "numeric: column 'value' is named twice"),
        ({}, {"numeric": []}, "has no columns to learn from"),
        ({}, {"task": "clustering"}, "task: got 'clustering'"),
        ({}, {"fill": "zero"}, "fill: got 'zero'"),
        ({}, {"balance_classes": True}, "balance_classes: a regression target has no classes"),
        ({}, {"training": False}, "test_path: the config names no table"),
        ({}, {"path": "none.csv"}, "path: none.csv: cannot read the table: No such file"),
        ({}, {"path": "no\x1b\nne.csv"}, r"path: no\\x1b\\nne.csv: cannot read the table: No such file"),
        ({}, {"path": "/dev/zero"}, "path: /dev/zero: cannot read the table: not an ordinary file"),
        ({}, {"path": "http://127.0.0.1:9/a.csv"}, 'path: http:.*: is an address; .* give "allow_urls": true'),
        (
            {},
            {"path": "s3://a/b.csv", "allow_urls": True},
            "path: s3://a/b.csv: is an address; give the path of a file",
        ),
        ({}, {"path": "file:///a.csv", "allow_urls": True}, "path: file:///a.csv: is an address"),
        ({}, {"path": "simplecache::http://a/b", "allow_urls": True}, "path: simplecache::http://a/b: is an address"),
        ({}, {"training": False, "test_path": "ftp://a/b.csv"}, "test_path: ftp://a/b.csv: is an address"),
        ({"value": {3: None}}, {}, "row 4, column 'value': a value is missing"),
        ({"value": {3: "much"}}, {}, "row 4, column 'value': 'much' is not a number"),
        ({"age": {3: "?"}}, {}, "row 4, column 'age': '\\?' stands among numbers"),
        ({"age": {3: "?"}}, {"numeric": ["age"]}, "row 4, column 'age': '\\?' is not a number"),
        ({"age": {3: "inf", 5: "inf"}}, {}, "row 4 \\(and in 1 more\\), column 'age': inf is infinite"),
        ({"age": dict.fromkeys(range(40))}, {"fill": "mean", "numeric": ["age"]}, "'age' of .* is empty"),
        ({}, {"stratify": "town", "fold": "1/14"}, "fold: class Köln has 13 samples for 14 folds, so some would"),
        ({}, {"groups": "patient", "fold": "1/11"}, "fold: 11 folds of 10 groups"),
        ({}, {"groups": "patient", "stratify": "town", "fold": "1/5"}, "groups: a split goes by stratify or by groups"),
        ({}, {"fold": "1/5", "validation_split": 0.1}, "fold: validation_split sets samples aside too"),
    ],
)
def test_tables_and_arguments_that_will_not_do_are_refused(table, cells, arguments, message):
    args = {"path": edited(table, **cells), "target": "value", "task": "regression", "batch_size": 8, **arguments}
    with pytest.raises(UserError, match=message) as refused:
        TableDataLoader(**args)
    assert "\n" not in str(refused.value)


def test_class_that_the_training_table_does_not_hold_is_refused(table):
    test = edited(table, sick={2: "perhaps"})
    loader = TableDataLoader(table, "sick", "classification", 8, numeric=["age"], training=False, test_path=test)
    with pytest.raises(UserError, match="row 3, column 'sick': 'perhaps' is a class that the training table"):
        loader.as_validation()


def test_tables_are_fetched_only_where_that_is_allowed(table, monkeypatch):
    asked, csv = [], Path(table).read_bytes()
    monkeypatch.setattr("urllib.request.urlopen", lambda path, timeout: asked.append(path) or io.BytesIO(csv))
    address = "https://example.org/a.csv"
    args = {"target": "value", "task": "regression", "batch_size": 8, "numeric": ["age"], "fill": "mean"}
    with pytest.raises(UserError, match="allow_urls"):
        TableDataLoader(address, **args)
    assert asked == []
    assert TableDataLoader(address, **args, allow_urls=True).n_samples > 0 and asked == [address]


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zip"])
def test_compressed_tables_are_read_unless_they_are_damaged_or_bombs(tmp_path, monkeypatch, ending):
    path, args = str(tmp_path / f"a.csv.{ending}"), ("b", "regression", 8)
    pandas.DataFrame({"a": np.zeros(20_000), "b": np.zeros(20_000)}).to_csv(path, index=False)
    assert TableDataLoader(path, *args).n_samples == 20_000
    monkeypatch.setattr("base.data.local_files._ALWAYS_BYTES", 100_000)
    with pytest.raises(UserError, match=f"path: .*a.csv.{ending}: unpacks to more than 100 times its size"):
        TableDataLoader(path, *args)
    (tmp_path / f"a.csv.{ending}").write_bytes((tmp_path / f"a.csv.{ending}").read_bytes()[:30])
    with pytest.raises(UserError, match=f"path: .*a.csv.{ending}: cannot read the table"):
        TableDataLoader(path, *args)


def test_archives_are_to_be_unpacked_first(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    with pytest.raises(UserError, match=r"path: .*a\.tar\.gz: unpack it first"):
        TableDataLoader(str(tmp_path / "a.tar.gz"), "b", "regression", 8)
