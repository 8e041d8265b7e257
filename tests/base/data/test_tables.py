"""TableDataLoader: what is fitted is its state, so that a checkpoint's numbers keep their meaning."""

import json
import pickle

import numpy as np
import pandas
import pytest
import torch

from base.data.encoding import TableInput
from base.data.inputs import build_input
from base.data.table_file import Table
from base.data.table_format import TableFormat
from base.data.tables import TableDataLoader
from base.data.target_encoding import TargetEncoding, scale_of
from base.training.evaluate import split_loader
from helpers import tiny_config
from parse_config import ConfigParser
from utils import UserError
from utils.runs.weights import load_state

CPU = torch.device("cpu")


def rows(number=40, seed=0):
    """A table of two numbers, a town, a kind (a class) and a value."""
    draw = np.random.RandomState(seed)
    return pandas.DataFrame(
        {
            "area": draw.normal(50, 10, number).round(2),
            "rooms": draw.normal(0, 1, number).round(3),
            "town": draw.choice(["Bonn", "Köln", "Trier"], number),
            "kind": draw.choice(["cat", "dog", "emu"], number),
            "value": draw.normal(3, 2, number).round(3),
        }
    )


def written(table, path):
    table.to_csv(path, index=False)
    return str(path)


def appended(table, **values):
    return pandas.concat([table, pandas.DataFrame([{**table.iloc[0], **values}])], ignore_index=True)


@pytest.fixture
def files(tmp_path):
    """Paths of a table to train on and of one to test on."""
    return written(rows(), tmp_path / "train.csv"), written(rows(12, seed=1), tmp_path / "test.csv")


def trained(path, target="kind", task="classification", **arguments):
    return TableDataLoader(path, target, task, 8, **{"shuffle": False, **arguments})


def edited(state, **arguments):
    """The input of a state with other arguments."""
    return {**state["input"], "args": state["input"]["args"] | arguments}


def whole(loader):
    return [torch.cat(parts) for parts in zip(*loader, strict=True)]


def equal(one, other):
    return all(map(torch.equal, whole(one), whole(other)))


CHANGES = {
    "a row of a new class": lambda table: appended(table, kind="ant"),
    "a row of a new category": lambda table: appended(table, town="Aachen"),
    "other units": lambda table: table.assign(area=table["area"] * 1000),
    "another order": lambda table: table.iloc[::-1],
    "a class gone": lambda table: table[table["kind"] != "cat"],
    "a missing value": lambda table: appended(table, area=None),
    "a date": lambda table: table.assign(when="2020-01-01"),
    "no rows": lambda table: table[:0],
}


@pytest.mark.parametrize("change", [*CHANGES, "no file"])
def test_tests_do_not_depend_on_todays_training_table(files, tmp_path, change):
    train, test = files
    arguments = {"target": "kind", "task": "classification", "batch_size": 8, "path": train, "test_path": test}
    config = ConfigParser({**tiny_config(tmp_path), "data_loader": {"type": "TableDataLoader", "args": arguments}})
    state = trained(train).state_dict()
    before = whole(split_loader(config.config, "test", None, CPU, state)[0])
    if change == "no file":
        (tmp_path / "train.csv").write_text("")
    else:
        written(CHANGES[change](rows()), train)
    loader, classes = split_loader(config.config, "test", None, CPU, state)
    assert all(map(torch.equal, whole(loader), before)) and classes == ["cat", "dog", "emu"]


def test_rows_are_encoded_by_a_state_and_not_by_what_the_table_holds_today(files):
    loader = trained(files[0], validation_split=0.25)
    state = loader.state_dict()
    table = rows()
    table.loc[3, "town"] = "Aachen"
    table["area"] *= 1000
    today = trained(written(table, files[0]), validation_split=0.25)
    assert today.columns == loader.columns and today.num_codes != loader.num_codes
    valid = today.split_validation()  # shares the rows with the loader
    today.load_state_dict(state)
    assert today.num_codes == loader.num_codes and today.state_dict()["input"] == state["input"]
    for old, new in ((loader, today), (loader.split_validation(), valid)):
        (features, labels), (features_now, labels_now) = whole(old), whole(new)
        assert torch.equal(labels, labels_now) and torch.equal(features[:, 1], features_now[:, 1])
        assert features_now[:, 0].mean() > 1000
    codes = today.dataset.arrays[0][:, 3]
    assert codes[3] == 0 and (np.delete(codes, 3) > 0).all()


def test_loading_a_state_of_its_own_does_nothing(files, monkeypatch):
    loader = trained(files[0])
    before = loader.dataset.arrays
    monkeypatch.setattr(TableInput, "rows", None)
    loader.load_state_dict(loader.state_dict())
    assert loader.dataset.arrays is before


def test_a_standardized_target_keeps_its_scale(files):
    arguments = {"target": "value", "task": "regression", "standardize_target": True, "numeric": ["area"]}
    loader = trained(files[0], **arguments)
    table = rows()
    today = trained(written(table.assign(value=table["value"] * 10), files[0]), **arguments)
    today.load_state_dict(loader.state_dict())
    value = table["value"]
    expected = ((value * 10 - value.mean()) / value.std(ddof=0)).to_numpy(np.float32)
    assert np.allclose(whole(today)[1][:, 0], expected, atol=1e-5)


def test_states_are_plain_and_exact(files):
    state = trained(files[0], fill="median", one_hot=True).state_dict()
    args = state["input"]["args"]
    assert args["numeric"] == ["area", "rooms", "value"] and state["output"]["column"] == "kind"
    assert state["classes"] == state["output"]["classes"] == ["cat", "dog", "emu"]
    assert args["categories"] == [["Bonn", "Köln", "Trier"]]
    assert args["mean"][0] == rows()["area"].to_numpy().mean()
    assert json.loads(json.dumps(state)) == state


def test_an_encoding_is_made_from_its_state_alone(files):
    loader = trained(files[0], one_hot=True)
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    table = Table(files[1], "path", TableFormat())
    served = whole(trained(files[0], one_hot=True, training=False, test_path=files[1]))
    input = build_input(state["input"])
    assert isinstance(input, TableInput) and torch.equal(input(torch.from_numpy(input.rows(table))), served[0])
    assert np.array_equal(TargetEncoding.from_state(state["output"]).values(table, "is unknown"), served[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: appended(table, kind="ant"), "row 41, column 'kind': 'ant' is a class that the model does not"),
        (
            lambda table: table.drop(columns="rooms"),
            "has no column 'rooms', which the model is trained on; give it tables that have it, or train a new one",
        ),
        (lambda table: table.assign(rooms="many"), "row 1 .*, column 'rooms': 'many' is not a number"),
        (lambda table: table.assign(town="köln"), "'town': 'köln' is no category of the training part; its categories"),
    ],
)
def test_a_table_that_does_not_fit_a_state_is_refused(files, change, message):
    state = trained(files[0], validation_split=0.2).state_dict()
    loader = trained(written(change(rows()), files[0]), validation_split=0.2)
    with pytest.raises(UserError, match=message) as refused:
        load_state("data_loader", loader, state)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"one_hot": True}, "one_hot: is True, but the model is trained with False; train a new one"),
        ({"fill": "median"}, "fill: is 'median', but the model is trained with None"),
        ({"numeric": ["area"]}, r"numeric: is \['area'\], but the model is trained with \['area', 'rooms', 'value'\]"),
        ({"target": "town"}, "target: is 'town', but the model is trained with 'kind'"),
        ({"target": "value", "task": "regression"}, "target: is 'value'"),
    ],
)
def test_arguments_that_contradict_a_state_are_refused(files, arguments, message):
    with pytest.raises(UserError, match=message):
        trained(files[0], **arguments).load_state_dict(trained(files[0]).state_dict())


def test_missing_values_can_be_filled_by_a_model_that_met_none(files):
    state = trained(files[0]).state_dict()
    table = rows(12, seed=1)
    table.loc[2, "area"] = None
    loader = trained(files[0], fill="mean", training=False, test_path=written(table, files[1]))
    loader.load_state_dict(state)
    assert whole(loader)[0][2, 0] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"input": None},
        {"input": {"type": "ArrayInput", "args": {}}},
        {"input": {"type": "os.system", "args": {}}},
        {"output": None},
        {"output": {"column": "kind"}},
        lambda s: {"input": edited(s, mean=["a"] * 3)},
        lambda s: {"input": edited(s, std=[1.0])},
        lambda s: {"input": edited(s, numeric=[1, 2, 3])},
        lambda s: {"input": edited(s, categories=3)},
        lambda s: {"input": edited(s, categories=[[1]])},
        lambda s: {"input": edited(s, fill="max")},
        lambda s: {"input": edited(s, form={"separator": 3})},
        lambda s: {"input": edited(s, form={"colour": "red"})},
        lambda s: {"output": s["output"] | {"classes": "abc"}},
        lambda s: {"output": s["output"] | {"std": 0.0}},
    ],
)
def test_states_of_another_form_are_refused_in_one_line(files, change):
    loader = trained(files[0])
    state = loader.state_dict()
    with pytest.raises(UserError, match=r"^the checkpoint does not fit 'data_loader': .+$"):
        load_state("data_loader", loader, state | (change if isinstance(change, dict) else change(state)))


def test_a_state_of_an_earlier_version_leaves_the_table_as_it_is(files):
    loader = trained(files[0])
    before = loader.dataset.arrays
    loader.load_state_dict({"samples": 40, "fingerprint": "", "classes": ["cat", "dog", "emu"]})
    assert loader.dataset.arrays is before


@pytest.mark.parametrize("arguments", [{}, {"training": False, "test_path": None}])
def test_a_validation_table_is_encoded_like_the_training_table(files, arguments):
    train, valid = files
    if arguments:
        arguments = {**arguments, "test_path": valid}
    loader = trained(train, one_hot=True, numeric=["area"], categorical=["town"])
    beside = trained(valid if not arguments else train, **arguments)
    given = {"one_hot": True, "numeric": ["area"], "categorical": ["town"], "training": False, "test_path": valid}
    assert equal(beside.as_validation(beside=loader), trained(train, **given).as_validation())


def test_a_validation_table_follows_the_state_of_a_checkpoint(files):
    state = trained(files[0]).state_dict()
    table = rows()
    today = trained(written(table.assign(area=table["area"] * 10), files[0]))
    valid = trained(files[0], training=False, test_path=files[1]).as_validation(beside=today)
    before = whole(valid)[0]
    today.load_state_dict(state)
    fitted = table["area"].to_numpy()
    expected = (rows(12, seed=1)["area"].to_numpy() - fitted.mean()) / fitted.std()
    assert np.allclose(whole(valid)[0][:, 0], expected, atol=1e-5) and not torch.equal(before, whole(valid)[0])


def test_rows_can_be_sent_to_worker_processes(files):
    loader = trained(files[0], training=False, test_path=files[1])
    copy = pickle.loads(pickle.dumps(loader.dataset))
    assert len(copy) == 12 and all(map(torch.equal, copy[3], loader.dataset[3]))


def test_a_table_that_grows_while_a_run_begins_is_refused(files):
    loader = trained(files[0])
    state = trained(files[0], fill="mean").state_dict()
    written(appended(rows()), files[0])
    with pytest.raises(UserError, match="the table had 40 rows when the run began, and now has 41"):
        loader.load_state_dict(state)


# scales


def test_a_column_that_is_constant_but_for_rounding_is_0_and_said(tmp_path):
    table = rows().assign(same=0.1, rounded=[0.3, 0.1 + 0.2] * 20, tag="new")
    train, test = written(table, tmp_path / "train.csv"), written(table.assign(same=0.2), tmp_path / "test.csv")
    loader = trained(train)
    assert loader.columns[3:] == ["same", "rounded", "town", "tag"]
    assert whole(loader)[0][:, 3:5].abs().max() == 0
    assert whole(trained(train, training=False, test_path=test))[0][:, 3].abs().max() == 0  # nothing was learned of it
    assert loader.describe_data()[-1] == "constant (3): same, rounded, tag"


def test_scales_of_extreme_numbers_are_right():
    numbers = np.random.RandomState(0).normal(size=(50, 1))
    for unit in (1e200, 1e-200, 1e308):
        mean, std = scale_of(numbers / 10 * unit)
        assert mean == pytest.approx(numbers.mean() / 10 * unit) and std == pytest.approx(numbers.std() / 10 * unit)
    offset = 1.7e9 + np.arange(50.0)
    assert scale_of(offset)[1] == pytest.approx(np.arange(50).std())


def test_numbers_that_float32_cannot_hold_are_refused(files):
    table = rows(12, seed=1)
    loader = trained(files[0], training=False, test_path=written(table.assign(area=1e60), files[1]))
    with pytest.raises(UserError, match=r"row 1 .*column 'area': '1e\+60' is out of all proportion to the training"):
        loader.as_validation()
    with pytest.raises(UserError, match=r"column 'value': '.*' is too large for float32"):
        whole(trained(written(rows().assign(value=rows()["value"] * 1e60), files[0]), "value", "regression"))


# what is said


def test_columns_are_described_in_up_to_three_lines(files, tmp_path):
    assert trained(files[0], groups="town").describe_data() == [
        "numeric columns (3): area, rooms, value",
        "left out (1): town",
    ]
    assert trained(files[0], numeric=["area"], categorical=["town"]).describe_data() == [
        "numeric columns (1): area",
        "categorical columns (1): town (3 values)",
        "left out (2): rooms, value",
    ]
    wide = pandas.DataFrame(
        {f"column {i}": rows()["area"] for i in range(60)} | {f"tag {i}": rows()["town"] for i in range(60)}
    )
    wide = wide.assign(**{f"constant {i}": 1 for i in range(30)}, target=rows()["kind"])
    loader = trained(written(wide, tmp_path / "wide.csv"), "target", leave_out=["column 3", "tag 7"])
    lines = loader.describe_data()
    assert len(lines) == 3 and all(len(line) <= 100 for line in lines)
    assert lines[0].startswith("numeric columns (89): column 0, column 1, column 2, column 4") and "more" in lines[0]
    assert "left out (2): column 3, tag 7" in lines[2] and "constant (30): constant 0" in lines[2]


def test_categories_that_the_training_part_lacks_are_counted(files):
    table = rows(12, seed=1)
    table.loc[[2, 5], "town"] = "Ulm"
    loader = trained(files[0], training=False, test_path=written(table, files[1]))
    assert loader.describe_data()[-1] == "unknown to the training part (1): town in 2 rows"


def test_rows_stay_on_their_device_when_a_state_is_loaded(files):
    state = trained(files[0]).state_dict()
    written(rows().assign(area=rows()["area"] * 10), files[0])
    loader = trained(files[0], device_resident=True).to(torch.device("meta"))
    assert loader.dataset[0][0].is_meta
    loader.load_state_dict(state)
    assert loader.dataset[0][0].is_meta
