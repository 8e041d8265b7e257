"""Several processes train as one does: the same samples in the same steps, the same numbers, one run folder."""

import pytest
import torch
from worlds import in_world, results, small_job, train

from logger import CsvLog
from utils.checkpoint import load_checkpoint


def run_of(folder, name="small"):
    (run,) = (folder / name / "models" / name).iterdir()
    return run


def rows_of(folder, name="small"):
    (log,) = (folder / name / "log" / name).iterdir()
    return [{key: float(value) for key, value in row.items()} for row in CsvLog(log / "metrics.csv").rows()]


@pytest.mark.parametrize("size", [2, 3])
def test_worlds_of_all_sizes_come_to_the_same_numbers(tmp_path, size):
    for folder, processes in ((tmp_path / "one", 1), (tmp_path / "several", size)):
        folder.mkdir()
        results(in_world(processes, train, "-c", small_job(folder)))
    one, several = rows_of(tmp_path / "one"), rows_of(tmp_path / "several")
    assert len(one) == len(several) == 2
    for before, after in zip(one, several, strict=True):
        assert before == pytest.approx(after, rel=1e-5)
    weights = [
        load_checkpoint(run_of(tmp_path / f) / "checkpoint-epoch2.pth")["state_dict"] for f in ("one", "several")
    ]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-4, atol=1e-6)
