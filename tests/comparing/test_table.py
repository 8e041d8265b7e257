"""Tables as text, CSV and JSON."""

import csv
import io
import json
import math

from made_runs import make_run

from comparing.choose import ordered
from comparing.rows import grouped, rows_of
from comparing.table import cell_text, csv_text, default_columns, json_text, notes, table_text
from logger.run_index import read_runs


def comparison(folder):
    rows, order = ordered(grouped(rows_of(read_runs(folder))), None)
    return rows, default_columns(rows)[0], order


def test_a_table_fits_into_80_columns_in_blocks_that_each_name_the_runs(tmp_path):
    for i in range(3):
        make_run(tmp_path, f"2026010{i}_030405", arch__args={f"argument_{k}": i * 10**k for k in range(8)})
    rows, names, _ = comparison(tmp_path)
    text = table_text(rows, names, 80)
    blocks = [block.splitlines() for block in text.split("\n\n")]
    assert len(blocks) > 1 and max(map(len, text.splitlines())) <= 80
    assert all([line.split()[0] for line in block[1:]] == [row.cells["run"] for row in rows] for block in blocks)
    assert [word for block in blocks for word in block[0].split()[1:]] == [
        *("state", "epochs", "val_accuracy", "at", "time"),
        *(f"argument_{k}" for k in range(8)),
    ]
    assert "\n\n" not in table_text(rows, names, 300)


def test_a_cell_shows_what_happened(tmp_path):
    make_run(tmp_path, "a", accuracies=(0.5,) * 2, ended=False)
    stopped = "2026-01-02 03:00:09,000 WARNING trainer: stopped by SIGTERM in epoch 3; resume with: x\n"
    folder = make_run(tmp_path, "b", accuracies=(0.5,) * 2, ended=False, log=stopped)
    (folder / "checkpoint-epoch3-batch17.pth").touch()
    (make_run(tmp_path, "c") / "config.json").write_text("[]")
    rows, names, _ = comparison(tmp_path)
    text = table_text(rows, names, 80)
    assert "died 3 " in text and "2/3" in text and "stopped 3:17" in text and "damaged" in text
    told = notes(rows, [], 80)
    assert told[0] == "job/c damaged: config.json: holds no object" and "saved up to batch 17" in told[1]


def test_a_run_resumed_with_fewer_epochs_than_it_has_trained_shows_what_it_has_trained(tmp_path):
    make_run(tmp_path, "a", trainer__epochs=2)
    make_run(tmp_path, "b", trainer__epochs=3)
    rows, _, _ = comparison(tmp_path)
    assert {row.cells["run"]: cell_text("epoch", row) for row in rows} == {"a": "3", "b": "3/3"}


def test_a_row_says_which_checkpoint_was_tested(tmp_path):
    result = {"epoch": 3, "samples": 9, "loss": 0.5, "accuracy": 0.625}
    for run, seed, name in (("a", 1, "model_best.pth"), ("b", 2, "checkpoint-epoch3.pth")):
        folder = make_run(tmp_path, run, seed=seed)
        epoch = {"epoch": 2} if name == "model_best.pth" else {}
        (folder / "test_results.json").write_text(json.dumps({name: {"test": result | epoch}}))
    make_run(tmp_path, "c", optimizer__args__lr=1.0)
    rows, names, _ = comparison(tmp_path)
    assert names[3:7] == ["best", "best_epoch", "test_accuracy", "test_epoch"]
    assert notes(rows, [], 200) == [
        "job: a group has test results of model_best.pth and of checkpoint-epoch3.pth",
    ]
    single, _ = ordered(rows_of(read_runs(tmp_path)), "run")
    head, *lines = (line.split() for line in table_text(single, [*names[:7], "test_checkpoint"], 200).splitlines())
    assert head[3:] == ["val_accuracy", "at", "test_accuracy", "tested", "test_checkpoint"]
    assert [line[3:] for line in lines] == [
        ["0.75", "2", "0.625", "2", "model_best.pth"],
        ["0.75", "2", "0.625", "3", "checkpoint-epoch3.pth"],
        ["0.75", "2", "-", "-", "-"],
    ]
    again, _ = ordered(rows_of(read_runs(tmp_path)), "run")  # from the index
    assert [row.cells["test_epoch"] for row in again] == [2, 3, None]


def test_a_note_says_that_values_of_different_losses_cannot_be_compared(tmp_path):
    judged = {"trainer__monitor": "min val_loss"}
    make_run(tmp_path, "a", loss="torch.nn.MSELoss", **judged)
    make_run(tmp_path, "b", loss="torch.nn.MSELoss", optimizer__args__lr=1.0, **judged)
    assert not notes(comparison(tmp_path)[0], [], 200)
    make_run(tmp_path, "c", loss="torch.nn.HuberLoss", **judged)
    assert notes(comparison(tmp_path)[0], [], 200) == [
        "the runs differ in loss.type, so val_loss does not say which is better; "
        "sort by a metric, as --sort val_accuracy"
    ]
    assert not notes(comparison(tmp_path)[0], [], 200, by_best=False)
    for folder in (tmp_path / "models" / "job").iterdir():
        config = json.loads((folder / "config.json").read_text())
        config["trainer"]["monitor"] = "max val_accuracy"
        (folder / "config.json").write_text(json.dumps(config))
    assert not notes(comparison(tmp_path)[0], [], 200)


def test_control_characters_and_wide_letters_keep_the_table_whole(tmp_path):
    make_run(tmp_path, "a", arch__args__note="\x1b[2Jx\n")
    make_run(tmp_path, "b", arch__args__note="漢字" * 40)
    rows, _, _ = comparison(tmp_path)
    lines = table_text(rows, ["run", "arch.args.note", "epoch"], 80).splitlines()
    assert "\x1b" not in "".join(lines) and len(lines) == 3 and "..." in "".join(lines)
    wide = next(line for line in lines if "漢" in line)
    other = next(line for line in lines if "[2J" in line)
    assert len(wide) + sum(letter in "漢字" for letter in wide) == len(other)


def test_csv_has_exact_numbers_and_deviations(tmp_path):
    make_run(tmp_path, "a", seed=1, accuracies=(1 / 3,))
    make_run(tmp_path, "b", seed=2, accuracies=(2 / 3,))
    make_run(tmp_path, "c", accuracies=(0.1,), arch__args__note='x,"y"\nz')
    rows, names, _ = comparison(tmp_path)
    group, single = csv.DictReader(io.StringIO(csv_text(rows, names)))
    assert float(group["best"]) == math.fsum((1 / 3, 2 / 3)) / 2 and float(group["best_std"]) > 0.2
    assert (single["best"], single["best_std"], single["arch.args.note"]) == ("0.1", "", 'x,"y"\nz')


def test_json_holds_all_of_each_run_and_is_valid(tmp_path):
    make_run(tmp_path, "a", seed=1)
    make_run(tmp_path, "b", seed=2, accuracies=(math.inf, 0.5))
    make_run(tmp_path, "c", arch__args__x=math.inf)
    rows, _, order = comparison(tmp_path)
    text = json_text(rows, order)
    found = json.loads(text, parse_constant=lambda word: 1 / 0)
    single, group = sorted(found["rows"], key=lambda row: "runs" in row)
    assert found["order"] == "by best val_accuracy, largest first"
    assert single["config"]["arch.args.x"] is None and single["state"] == "finished" and single["best"] == 0.75
    assert group["mean"]["best"] == 0.625 and [run["run"] for run in group["runs"]] == ["a", "b"]
    assert [path.rpartition("/")[2] for path in group["counted"]] == ["a", "b"]


def test_runs_that_monitor_nothing_show_a_last_value(tmp_path):
    make_run(tmp_path, "a", trainer__monitor="off")
    _, names, order = comparison(tmp_path)
    assert names[:4] == ["run", "state", "epoch", "val_loss"] and order == "by name"
