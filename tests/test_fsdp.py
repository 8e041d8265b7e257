"""A model of which each process holds a shard trains as a whole one does, and its checkpoints fit any number of them."""

import pytest
import torch
from worlds import in_world, results, small_job, train

from logger import CsvLog
from utils.checkpoint import load_checkpoint

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
