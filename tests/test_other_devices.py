"""Training, loading, testing and predicting on an accelerator that is not CUDA, simulated in a process of its own."""

import ast
import re
import subprocess

import pytest
import torch.utils.backend_registration
from forked import run_forked
from worlds import in_world, results, rows_of, small_job, train

from helpers import PROJECT

SIMULATED = pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no device backends in Python",
)


@pytest.mark.slow
@SIMULATED
@pytest.mark.parametrize("file", ["cases", "commands", "features", "uses"])
def test_all_works_on_another_device_and_waits_for_it_at_reports_alone(file):
    run_forked("-m", "pytest", f"tests/simulated_device_{file}.py", "-n", "0", "-q", "--tb=short", timeout=1800)


def trained_on_devices(config):
    """To be called in a world: train on simulated devices; {file of the project: number of reads}."""
    import simulated_device

    from utils.distributed import process_group

    # torch's engine knows one simulated device, so each process has that number
    process_group.process_device = lambda n_gpu, name: torch.device("sim", 0)
    train("-c", config)
    found = {}
    for place, number in simulated_device.transfers.items():
        file = place.partition(":")[0]
        found[file] = found.get(file, 0) + number
    return found


WEIGHTED = {"type": "torch.nn.CrossEntropyLoss", "args": {"weight": [1.0, 2.0, 0.5]}}


@pytest.mark.slow
@SIMULATED
@pytest.mark.parametrize("changes", [{}, {"loss": WEIGHTED, "trainer": {"accumulate": 2}}])
def test_two_processes_with_a_device_each_give_the_numbers_of_one_on_the_cpu(tmp_path, changes):
    several = small_job(tmp_path, "several", device="auto", **changes)
    found = results(in_world(2, trained_on_devices, several))
    results(in_world(1, train, "-c", small_job(tmp_path, "one", **changes)))
    for left, right in zip(rows_of(tmp_path, "several"), rows_of(tmp_path, "one"), strict=True):
        assert left["val_loss"] == pytest.approx(right["val_loss"], rel=1e-5)
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-5)
    for reads in found:  # in each of two epochs, a report for each of three batches, and the validation
        assert reads["utils/metric_tracker.py"] == 8, reads


@pytest.mark.slow
@SIMULATED
def test_two_processes_share_the_statistics_of_batch_norm_on_devices(tmp_path):
    network = {"in_features": 4, "num_classes": 3, "n_layers": 3}  # with batch norm after each layer but the last
    arch = {"type": "examples.mlp.model.ShrinkingMlp", "args": network}
    shared = {"args": {"sync_batchnorm": True}}
    several = small_job(tmp_path, "several", device="auto", arch=arch, parallel=shared)
    results(in_world(2, trained_on_devices, several))
    results(in_world(1, train, "-c", small_job(tmp_path, "one", arch=arch)))
    for left, right in zip(rows_of(tmp_path, "several"), rows_of(tmp_path, "one"), strict=True):
        assert left["val_loss"] == pytest.approx(right["val_loss"], rel=1e-5)


NAMES_CUDA = re.compile(r"torch\.cuda\b|\.is_cuda\b|\.cuda\(|fork_rng")


def test_cuda_is_asked_for_by_name_only_where_it_is_alone():
    """Which docs/systems.md lists."""
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=PROJECT, capture_output=True, text=True, check=True)
    files = [name for name in tracked.stdout.split() if not name.startswith(("tests/", "benchmarks/", "docs/"))]
    page = (PROJECT / "docs" / "systems.md").read_text().partition("## GPUs and other devices")[2]
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", page, re.MULTILINE)
    assert [name for name in files if names_cuda((PROJECT / name).read_text())] == sorted(listed)


def names_cuda(source):
    """Whether a program asks for CUDA, or has a text "cuda" but in docstrings and longer texts."""
    nodes = [*ast.walk(ast.parse(source))]
    code = "\n".join(ast.unparse(node) for node in nodes if isinstance(node, (ast.Call, ast.Attribute)))
    return bool(NAMES_CUDA.search(code)) or any(isinstance(one, ast.Constant) and one.value == "cuda" for one in nodes)
