"""A sharded model trains as a whole one does, and its checkpoints fit any number of processes."""

import os
import runpy
import sys

import pytest
import torch
from worlds import in_world, results, small_job, train

from helpers import PROJECT, same
from logger import CsvLog
from utils.checkpoint import find_checkpoint, load_checkpoint
from utils.json_io import read_json

ADAM = {"type": "Adam", "args": {"lr": 0.01}}


def run_of(folder, name="small"):
    (run,) = (folder / name / "models" / name).iterdir()
    return run


def rows_of(folder, name="small"):
    (log,) = (folder / name / "log" / name).iterdir()
    return [{key: float(value) for key, value in row.items()} for row in CsvLog(log / "metrics.csv").rows()]


def trained(folder, processes, *flags, parallel="fsdp", **sections):
    """The run folder of a small job that so many processes train."""
    folder.mkdir()
    parallel = {"type": parallel} if isinstance(parallel, str) else parallel
    results(in_world(processes, train, "-c", small_job(folder, parallel=parallel, optimizer=ADAM, **sections), *flags))
    return run_of(folder)


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_a_sharded_model_comes_to_the_numbers_of_a_whole_one(tmp_path, size):
    one, several = trained(tmp_path / "one", 1), trained(tmp_path / "several", size)
    for before, after in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "several"), strict=True):
        assert before == pytest.approx(after, rel=1e-5)
    before, after = (load_checkpoint(run / "checkpoint-epoch2.pth") for run in (one, several))
    assert (several / "checkpoint-epoch2.pth").is_file()
    assert_close(before["state_dict"], after["state_dict"])
    assert before["arch"] == after["arch"] == "TableMlp"


def saved_within(folder, processes, **changes):
    """The run folder of a job stopped within its second epoch, in the middle of a window of two batches."""
    changes = {"trainer": {"save_every_steps": 4, "accumulate": 2, "clip_norm": 0.5}, **changes}
    return trained(folder, processes, **changes)


def continued(run, processes, *flags, checkpoint="checkpoint-epoch2-batch1.pth"):
    """What the run's last checkpoint holds after so many processes have gone on from an earlier one."""
    path = run / checkpoint
    results(in_world(processes, train, "-r", path, *flags))
    return load_checkpoint(run / "checkpoint-epoch2.pth")


def test_a_resume_in_the_middle_of_a_window_comes_to_the_same_bits(tmp_path):
    run = saved_within(tmp_path / "run", 2)
    straight = load_checkpoint(run / "checkpoint-epoch2.pth")
    again = continued(run, 2)
    assert same(straight["state_dict"], again["state_dict"])
    assert same(straight["optimizer"], again["optimizer"])
    assert same(straight["rng"], again["rng"])
    assert len(straight["optimizer"]["state"]) == len(straight["state_dict"])


@pytest.mark.parametrize(
    "before, now",
    [("fsdp 2", "fsdp 1"), ("fsdp 2", "fsdp 3"), ("fsdp 3", "ddp 2"), ("ddp 2", "fsdp 2"), ("ddp 1", "fsdp 2")],
)
def test_a_run_goes_on_with_other_processes_from_the_middle_of_a_window(tmp_path, before, now):
    (was, processes), (becomes, more) = before.split(), now.split()
    run = saved_within(tmp_path / "run", int(processes), parallel=was)
    straight = load_checkpoint(run / "checkpoint-epoch2.pth")
    again = continued(run, int(more), "--set", f"parallel.type={becomes}")
    assert again["step"] == straight["step"]
    assert_close(straight["state_dict"], again["state_dict"])
    for number, state in straight["optimizer"]["state"].items():
        assert_close(state, again["optimizer"]["state"][number])
    assert again["log"]["loss"] == pytest.approx(straight["log"]["loss"], rel=1e-5)


def command(script, *arguments):
    """To be called in a world of one: python <script> with these arguments."""
    sys.argv = [script, *map(str, arguments)]
    os.chdir(PROJECT)
    runpy.run_path(script, run_name="__main__")


def test_commands_take_a_sharded_checkpoint_and_the_one_file_made_of_it(tmp_path):
    run = trained(tmp_path / "run", 2, trainer={"epochs": 1})
    sharded, whole, weights = run / "checkpoint-epoch1.pth", tmp_path / "one.pth", tmp_path / "w.safetensors"
    results(in_world(1, command, "utils/consolidate.py", run, "--out", whole))
    results(in_world(1, command, "utils/consolidate.py", sharded, "--out", weights))
    one = load_checkpoint(whole)
    assert same(one, load_checkpoint(sharded))
    assert "shards" not in one and same(dict(load_checkpoint(weights)["state_dict"]), dict(one["state_dict"]))
    results(in_world(1, command, "test.py", "-r", sharded, "--split", "valid"))
    results(in_world(1, command, "test.py", "-r", whole, "--split", "valid"))
    of_shards = read_json(run / "test_results.json")["checkpoint-epoch1.pth"]["valid"]
    assert of_shards == read_json(tmp_path / "test_results.json")["one.pth"]["valid"]
    logged = rows_of(tmp_path / "run")[-1]
    assert of_shards["loss"] == pytest.approx(logged["val_loss"], rel=1e-5)


def folders_of_shards(run):
    return sorted(path.name for path in run.iterdir() if path.is_dir())


def test_a_damaged_or_missing_shard_makes_the_checkpoint_before_the_newest(tmp_path):
    run = trained(tmp_path / "run", 2, trainer={"epochs": 3, "keep_last": 2, "monitor": "off"})
    before, newest = (run / f"checkpoint-epoch{n}.pth" for n in (2, 3))
    assert len(folders_of_shards(run)) == 2  # the first epoch's went with its file
    (shards,) = (name for name in folders_of_shards(run) if name.startswith("checkpoint-epoch3"))
    assert find_checkpoint(run) == (newest, [])
    shard = next((run / shards).glob("*.safetensors"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found, (reason,) = find_checkpoint(run)
    assert found == before and str(shard) in reason and "damaged" in reason
    shard.unlink()
    found, (reason,) = find_checkpoint(run)
    assert found == before and "no such file" in reason
    shard.write_bytes(content)
    listed = run / shards / "sha256.json"
    listed.write_text(listed.read_text().replace("0", "1"))
    assert find_checkpoint(run)[0] == before


def test_shards_live_as_long_as_a_file_names_them(tmp_path):
    run = trained(tmp_path / "run", 2, trainer={"epochs": 2, "monitor": "min val_loss"})
    assert (run / "model_best.pth").exists() and len(folders_of_shards(run)) == 2  # shared with the best model
    (run / "left-over-0.shards").mkdir()
    (run / ".killed-0.shards.tmp").mkdir()
    results(in_world(2, train, "-r", run / "checkpoint-epoch1.pth"))
    aside = load_checkpoint(run / "overtaken-checkpoint-epoch2.pth")
    assert same(aside["state_dict"], load_checkpoint(run / "checkpoint-epoch2.pth")["state_dict"])
    assert len(folders_of_shards(run)) == 3
