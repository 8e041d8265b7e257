"""new_project.py --task table: tables as people and programs write them, and the network for their rows."""

import pytest
from task_plans import plan_for, write_table

from scaffold.tasks.rooms.table_model import TableNet
from utils import UserError


@pytest.mark.parametrize(("number", "task"), [(20, "classification"), (21, "regression")])
def test_a_target_of_few_whole_numbers_is_one_of_classes(tmp_path, number, task):
    path = write_table(tmp_path / "t.csv", [[i * 0.5, i % number] for i in range(200)], ["x", "target"])
    plan = plan_for("--task", "table", "--data", path)  # a column of that name need not be named
    assert plan.config["data_loader"]["args"]["task"] == task


@pytest.mark.parametrize(
    ("separator", "encoding", "decimal", "mark"),
    [(";", "utf-8", ",", ""), ("\t", "cp1252", ".", "?"), (",", "utf-16", ".", "-"), ("|", "utf-8", ".", "")],
)
def test_how_a_file_is_written_is_found(tmp_path, separator, encoding, decimal, mark):
    rows = [
        [f"{i}.5".replace(".", decimal) if i != 3 else mark, f"Köln {i % 2}", "ja" if i % 3 else "nein"]
        for i in range(40)
    ]
    path = write_table(tmp_path / "t.csv", rows, ["größe", "Ort", "Ziel"], separator, encoding)
    args = plan_for("--task", "table", "--data", path, "--target", "Ziel").config["data_loader"]["args"]
    assert args.get("separator", ",") == separator and args.get("encoding", "utf-8") == encoding
    assert args.get("decimal", ".") == decimal and args.get("missing", [""]) == [mark]
    assert args["numeric"] == ["größe"] and args["fill"] == "median"


def test_a_metric_for_classes_of_different_sizes_is_added(tmp_path):
    path = write_table(
        tmp_path / "t.csv", [[i, "rare" if i % 10 == 0 else "often"] for i in range(100)], ["x", "target"]
    )
    plan = plan_for("--task", "table", "--data", path)
    assert plan.config["metrics"] == ["accuracy", {"type": "MacroF1", "args": {"num_classes": 2}}]


@pytest.mark.parametrize(("far", "told"), [([], False), ([9_000, 8_000], True), ([150, -20], False)])
def test_a_target_whose_variance_is_that_of_a_few_values_is_told(tmp_path, far, told):
    values = [i * 0.37 for i in range(200)] + far
    path = write_table(tmp_path / "t.csv", [[i, value] for i, value in enumerate(values)], ["x", "target"])
    (line,) = [one for one in plan_for("--task", "table", "--data", path).found if one.startswith("target: numbers")]
    hint = '; 2 values far from the others hold 99% of the variance, so look at them, or take "loss": "torch.nn.L1Loss"'
    assert line.endswith(hint) if told else ";" not in line


def test_a_target_of_numbers_with_a_sign_is_refused_with_an_example(tmp_path):
    path = write_table(tmp_path / "t.csv", [[i, f"${i}"] for i in range(40)], ["x", "target"])
    with pytest.raises(UserError, match=r"40 different texts in 40 rows, such as '\$0'; classes .*, and numbers hold"):
        plan_for("--task", "table", "--data", path)


def test_categories_become_features_of_0_and_1_and_unknown_ones_none():
    import torch

    net = TableNet(n_numeric=1, codes=[3, 2], n_layers=0)
    torch.nn.init.ones_(net.linear.bias)
    weights = net.linear.weight.data.copy_(torch.tensor([[10.0, 1.0, 2.0, 4.0]]))
    rows = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 2, 1], [0, 7, 0]])
    assert net(rows).flatten().tolist() == [11, 2, 7, 3] and weights.shape == (1, 4)


@pytest.mark.parametrize(
    ("decimal", "sign"), [(".", "'"), (",", " "), (",", "\u00a0"), (".", "\u2019"), (",", "."), (".", ",")]
)
def test_a_thousands_separator_is_found(tmp_path, decimal, sign):
    rows = [[f"{1 + i}{sign}{i:03}{decimal}5", "ab"[i % 2]] for i in range(40)]
    path = write_table(tmp_path / "t.csv", rows, ["size", "target"], ";")
    args = plan_for("--task", "table", "--data", path).config["data_loader"]["args"]
    assert (args.get("decimal", "."), args["thousands"], args["numeric"]) == (decimal, sign, ["size"])


def test_columns_that_hold_a_single_value_are_left_out(tmp_path):
    rows = [[i, 5, "same", 3 if i == 4 else "", "ab"[i % 2]] for i in range(40)]
    path = write_table(tmp_path / "t.csv", rows, ["x", "five", "word", "once", "target"])
    plan = plan_for("--task", "table", "--data", path)
    args = plan.config["data_loader"]["args"]
    assert args["numeric"] == ["x"] and not args["categorical"] and "fill" not in args
    for column in ("five", "word", "once"):
        assert f"left out: {column}, which holds a single value" in plan.found
    path = write_table(tmp_path / "t.csv", [row[1:] for row in rows], ["five", "word", "once", "target"])
    with pytest.raises(UserError, match="has no column to learn from: five holds a single value"):
        plan_for("--task", "table", "--data", path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[i, "?" if i == 2 else i + 0.5] for i in range(40)], "row 3, column 'target': '?' stands among numbers; "),
        (
            [[i, "?" if i % 10 == 2 else i % 2] for i in range(40)],
            "row 3 (and in 3 more), column 'target': '?' stands among numbers; correct it, or remove the row; if it is "
            "a class, write the others as texts, too",
        ),
        (
            [[i, "total" if i == 39 else i % 5 + 1] for i in range(40)],
            "row 40, column 'target': 'total' stands among numbers; ",
        ),
        (
            [[i, "NA" if i % 10 == 2 else i % 2] for i in range(40)],
            "row 3 (and in 3 more), column 'target': 'NA' is missing; remove the row",
        ),
        (
            [["about 5" if i == 2 else i, "ab"[i % 2]] for i in range(40)],
            "row 3, column 'x': 'about 5' stands among numbers; leave the cell empty if it stands for a missing value, "
            "remove the row if it holds totals, else correct it",
        ),
        (
            [["0,5" if i == 2 else i + 0.5, "ab"[i % 2]] for i in range(40)],
            "row 3, column 'x': '0,5' stands among numbers; write all numbers of the file in one way, with the same "
            "decimal point and thousands separator",
        ),
    ],
    ids=["target", "mark in classes", "totals in classes", "missing class", "feature", "another decimal point"],
)
def test_a_text_among_numbers_is_refused_with_what_to_do_in_the_file(tmp_path, rows, message):
    path = write_table(tmp_path / "t.csv", rows, ["x", "target"])
    with pytest.raises(UserError) as raised:
        plan_for("--task", "table", "--data", path)
    assert message in str(raised.value) and "numeric" not in str(raised.value) and "give" not in str(raised.value)


def test_no_argument_of_a_config_is_said_where_there_is_none(tmp_path):
    path = write_table(tmp_path / "t.csv", [[i + 0.5, "ab"[i % 2]] for i in range(40)], ["x", "target"], ";")
    test = write_table(tmp_path / "test.csv", [[1.5, "a"]] * 9, ["x", "target"], ";")
    assert plan_for("--task", "table", "--data", path, "--test", test).example == str(test)
    for separator, number in ((",", "1.5"), (";", "1,5")):
        test = write_table(tmp_path / "test.csv", [[number, "a"]] * 9, ["x", "target"], separator)
        with pytest.raises(UserError, match='; write it as the training table was: ";" between values') as raised:
            plan_for("--task", "table", "--data", path, "--test", test)
        assert "give" not in str(raised.value)
    long = tmp_path / "long.csv"
    long.write_text(path.read_text() + "3;a;4\n")
    with pytest.raises(UserError, match="row 41 has 3 values, but the header has 2"):
        plan_for("--task", "table", "--data", long)
    odd = tmp_path / "odd.csv"
    odd.write_bytes(path.read_bytes() + b"3;\x81\n")
    with pytest.raises(UserError, match=r"line 42 is not 'utf-8' text; save it as UTF-8$"):
        plan_for("--task", "table", "--data", odd)


def test_numbers_of_phones_are_no_numbers(tmp_path):
    rows = [[f"030 123 {i:03}", f"{1 + i} 200" if i % 2 else i, "ab"[i % 2]] for i in range(40)]
    path = write_table(tmp_path / "t.csv", [[phone, i, label] for i, (phone, _, label) in enumerate(rows)], [*"xyt"])
    plan = plan_for("--task", "table", "--data", path, "--target", "t")
    assert plan.config["data_loader"]["args"]["numeric"] == ["y"]
    assert "left out: x, which holds 40 different texts in 40 rows, such as '030 123 000'" in plan.found
    plan = plan_for("--task", "table", "--data", write_table(path, rows, [*"xyt"]), "--target", "t")
    args = plan.config["data_loader"]["args"]
    assert (args["thousands"], args["numeric"], args["categorical"]) == (" ", ["y"], [])
    assert "left out: x, which holds groups of digits that are no numbers, such as '030 123 000'" in plan.found


def test_a_line_for_excel_and_one_of_remarks_are_said(tmp_path):
    path = write_table(tmp_path / "t.csv", [[i, "ab"[i % 2]] for i in range(40)], ["x", "target"], ";")
    for line, message in (
        ("sep=;", "its first line, sep=;, is for Excel; take it out"),
        ("# of May", "has a single column, '# of May'"),
    ):
        (tmp_path / "s.csv").write_text(f"{line}\n{path.read_text()}")
        with pytest.raises(UserError, match=message):
            plan_for("--task", "table", "--data", tmp_path / "s.csv")
