"""The input of a table: the same features from a CSV file, from rows and in training, and from the state alone."""

import json

import numpy as np
import pandas
import pytest
import torch

from base.data.encoding import TableInput
from base.data.inputs import build_input
from base.data.outputs import Output
from base.data.tables import TableDataLoader
from base.trained_model import TrainedModel
from helpers import named
from utils import UserError


@pytest.fixture
def train(tmp_path):
    draw = np.random.RandomState(0)
    table = pandas.DataFrame(
        {
            "time": 1.7e9 + np.arange(40) * 0.25,
            "size": draw.normal(size=40).round(3),
            "town": draw.choice(["Bonn", "Köln"], 40),
            "kind": draw.choice(["cat", "dog"], 40),
        }
    )
    table.loc[3, "size"] = None
    table.to_csv(tmp_path / "train.csv", index=False, sep=";", decimal=",")
    return str(tmp_path / "train.csv")


FORM = {"separator": ";", "decimal": ","}


def loader(path, one_hot=False, **arguments):
    given = {"numeric": ["time", "size"], "categorical": ["town"], "fill": "mean", "shuffle": False, **FORM}
    return TableDataLoader(path, "kind", "classification", 8, one_hot=one_hot, **given, **arguments)


@pytest.mark.parametrize("one_hot", [False, True])
def test_a_file_gives_the_features_of_training_from_the_spec_alone(train, one_hot):
    trained = loader(train, one_hot)
    spec = json.loads(json.dumps(trained.state_dict()["input"]))
    input = build_input(spec)
    names, raw = zip(*named(input.examples(train)), strict=True)
    features = input(torch.from_numpy(np.stack(raw)))
    assert torch.equal(features, torch.cat([data for data, _ in trained])) and features.dtype == torch.float32
    assert names[0] == f"{train}:1" and features.shape == (40, 4 if one_hot else 3)
    time = pandas.read_csv(train, sep=";", decimal=",")["time"]
    assert np.allclose(features[:, 0], (time - time.mean()) / time.std(ddof=0), atol=1e-6)
    assert features[3, 1] == pytest.approx(0, abs=1e-6)  # filled with the mean


def test_float_of_a_model_does_not_round_the_arithmetic(train):
    trained = loader(train)
    raw = torch.as_tensor(trained.dataset.arrays[0])
    assert torch.equal(torch.nn.Sequential(build_input(trained.input.spec())).float()(raw), trained.input(raw))


def test_a_file_may_lack_the_target_and_have_other_columns(train, tmp_path):
    (tmp_path / "new.csv").write_text("town;extra;size;time\nBonn;1;0,5;1700000001\nUlm;2;;1700000002\n")
    (_, first), (_, second) = named(loader(train).input.examples(str(tmp_path / "new.csv")))
    assert first.tolist() == [1700000001, 0.5, 1] and second[2] == 0 and np.isnan(second[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("town;size\nBonn;1\n", "source: .* has no column 'time', which the model is trained on; give it tables"),
        ("town;size;time\nBonn;much;1\n", "row 1, column 'size': 'much' is not a number"),
        ("town;size;time\nBonn;1\n", "row 1 has 2 values, but the header has 3"),
        ("town,size,time\nBonn,1,2\n", 'its header is one name, .*; write it as the training table was: ";"'),
        (
            "town;size;time\nBonn;1;1\nBonn;1;1\n",
            "has 2 rows, where one example is wanted; predict_files takes any number",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(train, tmp_path, content, message):
    (tmp_path / "new.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        loader(train).input.read(str(tmp_path / "new.csv"))


def test_raw_examples_of_another_width_are_refused(train):
    with pytest.raises(UserError, match=r"the raw examples are \(2, 5\); they should be \(N, 3\)"):
        loader(train).input(torch.zeros(2, 5))


def test_a_constant_column_is_0_whatever_comes_later():
    input = TableInput(["a", "b"], [], [0.1, 1.0], [0.0, 2.0], [0.1, 1.0], [])
    raw = torch.tensor([[0.1, 1.0], [5.0, 3.0]], dtype=torch.float64)
    assert input(raw).tolist() == [[0, 0], [0, 1]] and input.constant == ["a"]


def test_predictions_for_a_file_are_those_for_the_batches_of_training(train):
    trained = loader(train)
    model = TrainedModel(torch.nn.Linear(3, 2), trained.input, Output(trained.classes), torch.device("cpu"))
    parts = list(model.predict_files([train], batch_size=8))
    assert torch.equal(torch.cat([part.outputs for part in parts]), torch.cat([model(data) for data, _ in trained]))
    assert {row["prediction"] for part in parts for row in part.rows} <= {"cat", "dog"}


def test_an_object_of_json_gives_the_raw_example_of_its_row(train):
    input = loader(train).input
    (_, raw), *_ = named(input.examples(train))
    frame = pandas.read_csv(train, sep=";", decimal=",")
    row = json.loads(frame.iloc[0].to_json())
    assert np.array_equal(input.parse(row), raw)
    assert np.isnan(input.parse(row | {"size": None})[1])
    assert input.parse(row | {"town": "Rome"})[2] == 0
    assert input.parse(input.example).shape == (3,)


def test_the_schema_of_an_object_names_its_columns_and_known_categories(train):
    input = loader(train).input
    schema, strict = input.schema(), input.changed(fill=None).schema()
    assert schema["required"] == list(schema["properties"]) == ["time", "size", "town"]
    assert schema["properties"]["size"]["type"] == ["number", "null"]
    assert strict["properties"]["size"]["type"] == "number"
    assert strict["properties"]["town"] == {"type": "string", "examples": input.categories[0]}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"size": "large"}, "column 'size': got 'large'; it should be a number"),
        ({"size": float("inf")}, "column 'size': got inf; it should be a number"),
        ({"time": [1]}, r"column 'time': got \[1\]; it should be a number"),
        ({"time": True}, "column 'time': got True; it should be a number"),
        ({"time": 10**400}, "column 'time': got 1000.*; it should be a number"),
        ({"town": {}}, "column 'town': got {}; it should be a text, in quotes"),
    ],
)
def test_an_object_that_does_not_fit_is_refused_in_a_line(train, change, error):
    input = loader(train).input
    with pytest.raises(UserError, match=f"^{error}$"):
        input.parse(input.example | change)
    with pytest.raises(UserError, match=r"^column 'size' is missing in the example; null stands for"):
        input.parse({"time": 1, "town": "Bonn"})
    with pytest.raises(UserError, match=r"^an example should be an object with the columns 'time', 'size', 'town'$"):
        input.parse([1, 2, 3])
    with pytest.raises(UserError, match=r"^column 'size': null is a missing value, which the model cannot replace$"):
        input.changed(fill=None).parse(input.example | {"size": None})


def test_a_missing_value_in_use_asks_for_a_value_and_not_for_an_argument_of_training(train):
    input = loader(train).input.changed(fill=None)
    errors = [error for part in input.examples(train) for error in part.errors.values()]
    assert str(errors[0]).endswith(
        "column 'size': a value is missing; put one in, or train a model with \"fill\", which replaces missing values"
    )


def test_categories_that_training_did_not_hold_are_named_once_at_the_end(train, tmp_path, caplog):
    trained = loader(train)
    rows = ["1,5;1;Bonn", "1,5;1;Rom", "1,5;1;Paris", "much;1;Rom", "1,5;1;", "1,5;1;Rom"]  # of which one is read again
    (tmp_path / "new.csv").write_text("\n".join(["time;size;town", *rows]), encoding="utf-8")
    named(trained.input.examples(str(tmp_path / "new.csv")))
    (record,) = caplog.records
    what = "column 'town': 3 rows hold categories that training did not, such as 'Rom', 'Paris'; computed as unknown"
    assert record.getMessage() == f"{tmp_path}/new.csv: {what}"
    caplog.clear()
    named(trained.input.examples(train))
    assert not caplog.records
