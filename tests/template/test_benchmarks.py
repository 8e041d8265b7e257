"""That the benchmarks measure what they say: the same work, paired, with an honest interval."""

import ast
import asyncio
import contextlib
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import unittest.mock

import pytest
from forked import run_forked

from helpers import PROJECT, run_here

sys.path.append(str(PROJECT / "benchmarks"))
import harness


def load(name):
    """The module of a benchmark that has the name of a command."""
    specification = importlib.util.spec_from_file_location(
        f"benchmark_of_{name}", PROJECT / "benchmarks" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_default_job_comes_to_the_weights_of_a_hand_written_loop_bit_for_bit(tmp_path):
    program = (
        "import runpy, sys; sys.path[:0] = ['.', 'benchmarks']; runpy.run_module('mnist_jobs', run_name='__main__')"
    )
    results = []
    for name in ("ours", "hand_written"):
        folder = tmp_path / name
        folder.mkdir()
        done = run_forked("-c", program, name, "1", folder)
        results.append(json.loads(done.stdout.splitlines()[-1]))
    assert results[0]["weights"] == results[1]["weights"]
    assert (
        results[0]["valid_accuracy"] == pytest.approx(results[1]["valid_accuracy"], abs=1e-12)
        and results[0]["valid_accuracy"] > 0.97
    )


def test_each_benchmark_can_be_started_from_any_folder(tmp_path):
    text = (PROJECT / "benchmarks" / "README.md").read_text()
    names = sorted(set(re.findall(r"python benchmarks/(\w+)\.py", text)))
    assert len(names) > 8
    program = """
import pathlib, runpy, sys
project, *names = sys.argv[1:]
path = sys.path[1:]
for name in names:
    for module in [name for name, module in sys.modules.items() if project in str(getattr(module, "__file__", None))]:
        if "site-packages" not in sys.modules[module].__file__:
            del sys.modules[module]  # so that each has to find the project by itself
    sys.path[:] = [f"{project}/benchmarks", *path]
    runpy.run_path(f"{project}/benchmarks/{name}.py", run_name="imported")
print(len(names))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, PROJECT, *names],
        cwd=tmp_path,
        env=without_path(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.endswith(f"{len(names)}\n"), done.stderr


@pytest.mark.parametrize("path", sorted((PROJECT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_of_the_project_is_there(path):
    ours = {path.stem for path in PROJECT.iterdir()}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ours:
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{path.name}, line {node.lineno}: {node.module}.{alias.name}"


def without_path():
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def test_jobs_are_run_in_turn():
    order = []

    def measure(name):
        order.append(name)
        return len(order)

    assert harness.interleaved("ABC", measure, repeats=2) == {
        "A": [1, 6, 7, 12],
        "B": [2, 5, 8, 11],
        "C": [3, 4, 9, 10],
    }
    assert "".join(order) == "ABCCBAABCCBA"


def test_a_ratio_is_the_median_over_pairs_within_its_interval():
    middle, low, high = harness.ratio([[2, 4, 9], [8, 10, 12]], [[1, 2, 3], [4, 5, 6]])
    assert middle == 2 and low <= 2 <= high <= 3
    assert harness.ratio([[3, 3]], [[2, 2]]) == (1.5, 1.5, 1.5)
    assert harness.ratio([[2] * 9, [4] * 9], [[2] * 9] * 2)[1:] == (1, 2)  # one process was lucky


def test_tables_are_markdown(capsys):
    harness.print_table(["job", "seconds"], [["ours", 2], ["another", 10]])
    assert (
        capsys.readouterr().out
        == "| job     | seconds |\n|---------|--------:|\n| ours    |       2 |\n| another |      10 |\n"
    )


def test_jobs_that_should_agree_and_do_not_stop_the_benchmark():
    import epoch

    runs = {"ours": [{"weights": "a"}], "hand_written": [{"weights": "b"}]}
    with pytest.raises(SystemExit, match="should have come to equal weights"):
        epoch.compare_weights(runs)
    epoch.compare_weights({"ours": [{"weights": "a"}], "lightning": [{"weights": "b"}]})


def test_runs_that_were_killed_come_to_the_bits_of_runs_left_alone():
    done = run_forked("benchmarks/chaos.py", "--runs", "1", "--kills", "4", "--kills-in-a-run", "4", timeout=500)
    runs, *kinds, kills, unreadable, differences = (int(cell) for cell in done.stdout.splitlines()[-1].split("|")[1:-1])
    assert runs >= 1 and kills == sum(kinds) >= 4 and (unreadable, differences) == (0, 0)


def test_a_long_run_does_not_grow():
    done = run_forked("benchmarks/soak.py", "--epochs", "60")
    rows = [[float(cell) for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line[2:3].isdigit()]
    columns = list(zip(*rows[2:], strict=True))
    assert rows[-1][0] == 60 and max(columns[2]) - min(columns[2]) <= 2 and max(columns[3]) - min(columns[3]) <= 2
    assert max(columns[1]) - min(columns[1]) < 30 and max(columns[4]) <= 10


def test_clients_count_what_a_server_answers_after_the_warm_up():
    serve = load("serve")
    seen = []

    async def answer(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                seen.append(await reader.readexactly(int(head.rpartition(b": ")[2])))
                status = b"503 Full" if len(seen) == 5 else b"200 OK"
                writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    async def scenario():
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            with unittest.mock.patch.object(serve, "examples_a_batch", return_value=1.0):
                return await serve.send(address, clients=4, seconds=None, requests=20)

    found = asyncio.run(scenario())
    assert len(seen) == 20 and found["failed"] == 1 and found["requests_per_s"] > 0
    assert seen[0].count(b"PNG") == 1 and 0 < found["p50_ms"] <= found["p99_ms"]


def test_the_runs_of_the_benchmark_of_compare_are_runs_as_training_leaves_them(tmp_path):
    from comparing.rows import grouped, rows_of
    from logger.run_index import read_runs

    load("compare").make_runs(tmp_path, 21, epochs=4)
    runs = read_runs(tmp_path)
    assert [run.state for run in runs] == ["died", *["finished"] * 19, "damaged"]
    assert runs[1].epoch == 4 and len(runs[1].values) == 7 and runs[1].seconds == 6.0
    assert [len(row.runs) for row in grouped(rows_of(runs))] == [3] * 6 + [2, 1]


def test_the_script_for_a_gpu_gives_flags_that_exist_and_names_missing_packages(tmp_path, monkeypatch):
    """With a stand-in for Python, which finds two GPUs and writes down what train.py is to do."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # which -d cpu sets
    python, told = tmp_path / "python", tmp_path / "told"
    python.write_text(
        f"""#!/bin/sh
        case "$1 $2" in
            "-c "*device_count*) echo 2 ;;
            "-c "*importlib.metadata*) [ -z "$LACKING" ] || echo "$LACKING" ;;
            "train.py -c") echo "$@" >> "{told}" ;;
            "-m pytest" | *.py*) for word; do case $word in *.py) [ -f "$word" ] || exit 1 ;; esac; done ;;
        esac
        """
    )
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "OUT": str(tmp_path)}
    command = ["bash", str(PROJECT / "benchmarks" / "gpu.sh")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    parts = [line for line in ran.stdout.splitlines() if re.match(r"\w+ +(ok|failed|skipped)", line)]
    assert ran.returncode == 0 and len(parts) == 19 and all(" ok, " in line for line in parts), ran
    commands = told.read_text().splitlines()
    assert len(commands) == 9
    for words in commands:
        run_here(*words.split(), "--check")
    ran = subprocess.run(command, env={**environment, "LACKING": "pydantic"}, capture_output=True, text=True)
    assert ran.returncode == 1 and "lacks pydantic" in ran.stdout
