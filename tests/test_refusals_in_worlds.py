"""What several processes cannot do, and starts that do not fit together: each is refused in one line."""

import functools
import math
import os
import runpy
import socket
import sys
import time

import pytest
import torch
from worlds import PATIENCE, in_served_world, in_world, lines_of, results, small_job, statuses, train

from helpers import PROJECT, tiny_config, tiny_model, tiny_trainer
from parse_config import ConfigParser
from utils.distributed.parallel import ddp
from utils.distributed.world import gather, joined, parallelize, rank
from utils.runs.run_folder import RunLock, is_being_trained

pytestmark = pytest.mark.slow  # they start processes

COMMANDS = {
    "test.py": ["-r", "run"],
    "compare.py": ["--same", "one", "other"],
    "new_project.py": ["there"],
    "utils/runs/export.py": ["run", "weights.safetensors"],
}


def command(script):
    sys.argv = [script, *COMMANDS[script]]
    os.chdir(PROJECT)
    runpy.run_path(script, run_name="__main__")


@pytest.mark.parametrize("script", COMMANDS)
def test_a_command_for_one_process_refuses_several_and_tells_it_once(script):
    first, second = in_world(2, command, script)
    assert (first.status, second.status) == (2, 2)
    (line,) = lines_of(first)
    assert "for one process, and there are 2; start it with python rather than torchrun" in line
    assert not second.output and not (PROJECT / "there").exists()


def refused(path, *flags, size=2, environment=(), world=in_served_world):
    """The lines by which train.py refuses to begin, of all processes together."""
    ends = world(size, train, "-c", path, *flags, environment=environment)
    assert statuses(ends) == [2] * size
    assert not list(path.parent.rglob("checkpoint*.pth"))
    return [line for end in ends for line in lines_of(end)]


def test_more_processes_than_samples_are_refused(tmp_path):
    path = small_job(tmp_path, samples=3)
    (line,) = refused(path, "--set", "data_loader.args.validation_split=1", size=3)
    assert line == "error: data_loader: 2 training samples for 3 processes; start fewer processes"


def test_a_batch_smaller_than_the_world_is_refused(tmp_path):
    (line,) = refused(small_job(tmp_path, batch_size=2), size=3)
    assert line.startswith("error: data_loader.args.batch_size: 2 for 3 processes, which share each batch; give at")


def test_a_batch_that_cannot_be_divided_evenly_is_divided_and_the_log_says_how(tmp_path):
    path = small_job(tmp_path, trainer={"accumulate": 2})
    first, *others = in_world(3, train, "-c", path, "--bs", 11, "--set", "trainer.epochs=1", patience=PATIENCE)
    assert first.status == 0, first
    assert first.output.count("batch_size 11: 4 or 3 samples in each of 3 processes") == 1
    assert first.output.count("an optimizer step takes 2 batches, 22 samples") == 1
    assert not any("batch_size" in other.output for other in others)


@pytest.mark.parametrize("name", ["MASTER_ADDR", "MASTER_PORT"])
def test_an_address_that_is_not_set_is_named(tmp_path, name):
    (line,) = refused(small_job(tmp_path), environment={name: ""})
    assert line == f"error: {name}: not set; start several processes with torchrun, which sets it"


def test_a_port_in_use_is_named(tmp_path):
    path = small_job(tmp_path, parallel={"timeout_seconds": 2})
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        first, *_ = refused(path, environment={"MASTER_PORT": port}, world=functools.partial(in_world, patience=30))
    assert first.startswith(f"error: cannot meet the other 1 at 127.0.0.1:{port}: ") and "in use" in first


def of_rank_1(config, flags):
    train("-c", config, *(flags if rank() == 1 else ()))


def test_other_configs_on_two_hosts_are_told_apart_in_one_line(tmp_path):
    ends = in_served_world(2, of_rank_1, small_job(tmp_path), ["--lr", 0.5])
    assert statuses(ends) == [2, 2]
    (line,) = [line for end in ends for line in lines_of(end)]
    assert "rank 1, on " in line and "config.optimizer.args.lr: 0.1 -> 0.5" in line


def test_processes_that_would_go_on_from_other_checkpoints_are_refused(tmp_path):
    path = small_job(tmp_path)
    results(in_world(1, train, "-c", path))
    (run,) = (tmp_path / "small" / "models" / "small").iterdir()
    ends = in_served_world(2, of_checkpoint, run)
    assert statuses(ends) == [2, 2]
    (line,) = [line for end in ends for line in lines_of(end)]
    assert "checkpoint-epoch1.pth" in line and "checkpoint-epoch2.pth" in line


def of_checkpoint(run):
    train("-r", run / f"checkpoint-epoch{rank() + 1}.pth", "--set", "trainer.epochs=3")


def with_a_rival(file, when, *arguments):
    """python train.py, beside which another start of the command makes the file between its look and its own run.

    when: in seconds since 1970, the file says that it was made.
    """
    claim = ConfigParser._claim_run

    def claim_second(config):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.utime(file, (when, when))
        return claim(config)

    ConfigParser._claim_run = claim_second
    train(*arguments)


@pytest.mark.parametrize("rival", ["20000101_000000", "99990101_000000"])  # by the clock of another host, maybe
@pytest.mark.parametrize(("when", "goes_on"), [(0, False), (2**33, True)])
def test_of_two_starts_at_once_the_first_begins_a_run(tmp_path, rival, when, goes_on):
    runs = tmp_path / "small" / "models" / "small"
    ends = in_world(2, with_a_rival, runs / rival / ".lock", when, "-c", small_job(tmp_path), "-r", "auto")
    assert statuses(ends) == ([0, 0] if goes_on else [2, 2])
    told = [line for end in ends for line in lines_of(end)]
    assert [f"{rival}: another process has trained this run since" in line for line in told] == [True] * (not goes_on)
    assert len(list(runs.iterdir())) == 1 + goes_on


def test_a_run_that_has_gone_on_since_it_was_looked_for_is_left_alone(tmp_path):
    path = small_job(tmp_path)
    results(in_world(2, train, "-c", path))
    (run,) = (tmp_path / "small" / "models" / "small").iterdir()
    file, flags = run / "checkpoint-epoch3.pth", ["--set", "trainer.epochs=4"]
    ends = in_world(2, with_a_rival, file, time.time(), "-c", path, "-r", "auto", *flags)
    assert statuses(ends) == [2, 2]
    assert not list(run.glob("overtaken-*")) and (run / "checkpoint-epoch2.pth").exists()


def test_a_run_whose_config_is_damaged_and_one_with_a_link_for_a_lock_end_no_start(tmp_path):
    path = small_job(tmp_path)
    results(in_world(1, train, "-c", path))
    (run,) = (tmp_path / "small" / "models" / "small").iterdir()
    (run / "config.json").write_bytes(b"\0" * 9)  # as after a power cut
    (run.parent / "strange").mkdir()
    (run.parent / "strange" / ".lock").symlink_to(path)
    results(in_world(1, train, "-c", path, "-r", "auto", "--set", "trainer.epochs=3"))
    assert (run / "checkpoint-epoch3.pth").exists()


def test_a_number_of_gpus_that_contradicts_the_launcher_is_refused(tmp_path):
    (line,) = refused(small_job(tmp_path, n_gpu=4, device="auto"))
    assert line.startswith("error: n_gpu: 4, and the launcher has started 2 processes on this host; start as many")


@pytest.mark.parametrize("flags", [["--find-lr"], ["--show-batch", "b.png"], ["--find-batch-size"], ["--seeds", "2"]])
def test_what_one_process_does_is_refused_in_several(tmp_path, flags):
    (line,) = refused(small_job(tmp_path), *flags)
    assert f"{flags[0]}" in line and ": for one process, and there are 2; start it with python rather" in line


@pytest.mark.parametrize(("flag", "said"), [("--fast-dev-run", "fast-dev-run: 1 batch"), ("--profile", "trace of the")])
def test_a_fast_dev_run_and_a_profile_work_in_several_processes(tmp_path, flag, said):
    path = small_job(tmp_path, samples=200, trainer={"epochs": 1})
    ends = in_world(2, train, "-c", path, flag, patience=PATIENCE)
    assert statuses(ends) == [0, 0], ends
    assert said in ends[0].output and said not in ends[1].output


def test_a_trainer_that_calls_parts_of_the_model_is_for_one_process(tmp_path):
    path = PROJECT / "examples" / "gan" / "config.json"
    (line,) = refused(path, "--set", f"trainer.save_dir={tmp_path}", "--set", "device=cpu")
    assert "GanTrainer" in line and "for one process" in line


def of_plain_loader(folder):
    with joined({"device": "cpu"}):
        config = tiny_config(folder)
        tiny_trainer(
            config,
            model=ddp(tiny_model(), torch.device("cpu")),
            loader_class=lambda data, *_: torch.utils.data.DataLoader(data, 8),
        )


def test_a_loader_that_would_give_every_process_all_samples_is_refused(tmp_path):
    ends = in_served_world(2, of_plain_loader, tmp_path)
    assert statuses(ends) == [2, 2]
    (line,) = [line for end in ends for line in lines_of(end)]
    assert line.startswith("error: data_loader: DataLoader would give each of the 2 processes all samples; use a Base")


class Unused(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.spare = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)

    def forward(self, features):
        return self.head(features)


def of_unused(folder):
    with joined({"device": "cpu"}):
        tiny_trainer(tiny_config(folder), model=ddp(Unused(), torch.device("cpu"))).train()


def test_parameters_that_take_no_part_are_named_with_what_to_do(tmp_path):
    ends = in_served_world(2, of_unused, tmp_path)
    assert statuses(ends) == [2, 2], ends
    (line,) = [line for end in ends for line in lines_of(end) if "error" in line]
    assert "arch: spare.weight, spare.bias have no part in the loss" in line
    assert "parallel.args.find_unused_parameters" in line


def of_sync_batchnorm():
    with joined({"device": "cpu"}):
        config = ConfigParser({**tiny_config(".")})
        parallelize(torch.nn.SyncBatchNorm(3), config, torch.device("cpu"))


def test_a_model_with_sync_batchnorm_is_refused_on_the_cpu():
    ends = in_served_world(2, of_sync_batchnorm)
    assert statuses(ends) == [2, 2], ends
    (line,) = [line for end in ends for line in lines_of(end)]
    assert line.startswith("error: arch: torch has SyncBatchNorm for GPUs only, and this run is on cpu"), line


class Extremes:
    """An epoch metric of a project's own, which cannot be merged."""

    __name__ = "extremes"

    def reset(self):
        self.largest = -math.inf

    def update(self, output, target):
        self.largest = max(self.largest, output.max().item())

    def compute(self):
        return self.largest

    def state_dict(self):
        return {"largest": self.largest}

    def load_state_dict(self, state):
        self.largest = state["largest"]


def of_metric(folder):
    with joined({"device": "cpu"}):
        model = ddp(tiny_model(), torch.device("cpu"))
        tiny_trainer(tiny_config(folder), model=model, metrics=[Extremes()]).train()


def test_a_metric_that_cannot_be_merged_is_refused(tmp_path):
    ends = in_served_world(2, of_metric, tmp_path)
    assert statuses(ends) == [2, 2]
    (line,) = [line for end in ends for line in lines_of(end)]
    assert "merge_state" in line


def asks_beside_another(folder):
    with joined({}):
        asked = RunLock(folder, asks=True) if rank() == 0 else None
        gather(None)
        trained = is_being_trained(folder)
        gather(None)
        return trained, asked is None


def test_processes_that_ask_whether_a_run_is_trained_are_not_taken_for_one_that_trains_it(tmp_path):
    RunLock(tmp_path)
    assert [trained for trained, _ in results(in_world(2, asks_beside_another, tmp_path))] == [False, False]
